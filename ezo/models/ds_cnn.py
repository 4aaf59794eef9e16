"""DS-CNN of MLPerf Tiny: 23,180 parameters with twelve classes; depthwise, batch norm."""

from torch import nn

from ezo.models._init import he

NAMES = ("ds_cnn", "ds_cnn-plain")
INPUT = "image"
IMAGE = (1, 49, 10)
WIDTH = 64


def build(
    name: str, classes: int = 12, channels: int = 1, size: tuple[int, int] = (49, 10)
) -> nn.Module:
    """A 10 x 4 convolution of stride 2 and four pairs of depthwise and pointwise ones.

    Keyword spotting on 49 x 10 cepstral coefficients (Zhang et al. 2017, Banbury et al. 2021).
    ``ds_cnn-plain`` has biases in place of batch norm, and no dropout. From (N, channels, height,
    width) of that size to logits (N, classes).

    Raises:
        ValueError: the images have fewer than 2 pixels a side.
    """
    if min(size) < 2:
        raise ValueError(f"expected images of 2 x 2 pixels or more for {name}, got {size}")
    plain = name == "ds_cnn-plain"
    pads = [_pads(n, k) for n, k in zip(size, (10, 4), strict=True)]
    layers: list[nn.Module] = [
        nn.ZeroPad2d((*pads[1], *pads[0])),
        *_normed(nn.Conv2d(channels, WIDTH, (10, 4), 2, bias=plain)),
        *([] if plain else [nn.Dropout(0.2)]),
    ]
    for _ in range(4):
        layers += _normed(nn.Conv2d(WIDTH, WIDTH, 3, padding=1, groups=WIDTH, bias=plain))
        layers += _normed(nn.Conv2d(WIDTH, WIDTH, 1, bias=plain))
    layers += [] if plain else [nn.Dropout(0.4)]
    blocks = (max(1, size[0] // 2), max(1, size[1] // 2))
    return he(nn.Sequential(*layers, nn.AvgPool2d(blocks), nn.Flatten(), nn.Linear(WIDTH, classes)))


def _pads(n: int, kernel: int) -> tuple[int, int]:
    """Zeros before and behind, so that a stride of 2 gives half as many, rounded up."""
    total = max((-(-n // 2) - 1) * 2 + kernel - n, 0)
    return total // 2, total - total // 2


def _normed(convolution: nn.Conv2d) -> list[nn.Module]:
    norm = [] if convolution.bias is not None else [nn.BatchNorm2d(convolution.out_channels)]
    return [convolution, *norm, nn.ReLU()]
