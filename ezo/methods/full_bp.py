"""Backpropagation through every layer, SGD with momentum."""

from ezo.methods import Parts

NAMES = ("full-bp",)


def parts(name: str) -> Parts:
    """All layers by BP: one forward and one backward pass a step."""
    return Parts("all")
