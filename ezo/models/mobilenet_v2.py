"""MobileNetV2, torchvision's: 2,236,682 parameters with ten classes; batch norm and dropout."""

from torch import nn

from ezo.data._vision import import_torchvision

NAMES = ("mobilenet_v2",)
INPUT = "image"
IMAGE = (3, 96, 96)


def build(name: str, classes: int = 10, channels: int = 3) -> nn.Module:
    """Sandler et al., CVPR 2018, with torchvision's initial weights.

    From (N, channels, height, width), any size of image, to logits (N, classes).

    Raises:
        ModuleNotFoundError: torchvision is not installed.
    """
    model: nn.Module = import_torchvision().models.mobilenet_v2(num_classes=classes)
    if channels != 3:
        first = nn.Conv2d(channels, 32, 3, stride=2, padding=1, bias=False)
        nn.init.kaiming_normal_(first.weight, mode="fan_out")
        model.get_submodule("features.0").register_module("0", first)
    return model
