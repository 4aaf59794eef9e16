"""MobileNetV1 0.25 of MLPerf Tiny: 215,642 parameters with ten classes; depthwise, batch norm."""

from torch import nn

from ezo.models._init import he

NAMES = ("mobilenet_v1_025", "mobilenet_v1_025-plain")
ABOUT = {
    "mobilenet_v1_025-plain": "mobilenet_v1_025 with biases in place of batch norm.",
}
INPUT = "image"
IMAGE = (3, 96, 96)
NARROW = ((16, 1), (32, 2), (32, 1), (64, 2), (64, 1))  # width, stride
BLOCKS = (*NARROW, (128, 2), *[(128, 1)] * 5, (256, 2), (256, 1))


def build(name: str, classes: int = 2, channels: int = 3) -> nn.Module:
    """A convolution and thirteen pairs of depthwise and pointwise ones, a quarter as wide.

    Visual wake words (Howard et al. 2017, Banbury et al. 2021). ``mobilenet_v1_025-plain`` has
    biases in place of batch norm. From (N, channels, height, width), any size of image, to logits
    (N, classes).
    """
    plain = name.endswith("-plain")
    layers = _normed(nn.Conv2d(channels, 8, 3, 2, padding=1, bias=plain))
    narrow = 8
    for wide, stride in BLOCKS:
        depthwise = nn.Conv2d(narrow, narrow, 3, stride, padding=1, groups=narrow, bias=plain)
        layers += _normed(depthwise)
        layers += _normed(nn.Conv2d(narrow, wide, 1, bias=plain))
        narrow = wide
    return he(
        nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(narrow, classes))
    )


def _normed(convolution: nn.Conv2d) -> list[nn.Module]:
    norm = [] if convolution.bias is not None else [nn.BatchNorm2d(convolution.out_channels)]
    return [convolution, *norm, nn.ReLU()]
