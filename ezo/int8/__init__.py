"""Integer training's arithmetic: roundings and the loss. (Layers and steps are not here yet.)"""
