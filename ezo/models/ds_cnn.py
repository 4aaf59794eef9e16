"""DS-CNN of MLPerf Tiny: 23,180 parameters with twelve classes; depthwise, batch norm."""

from torch import nn

from ezo.models._init import he

NAMES = ("ds_cnn", "ds_cnn-plain")
ABOUT = {
    "ds_cnn-plain": "ds_cnn with biases in place of batch norm, and no dropout.",
}
INPUT = "image"
IMAGE = (1, 49, 10)
WIDTH = 64


def build(name: str, classes: int = 12, channels: int = 1) -> nn.Module:
    """A 10 x 4 convolution of stride 2 and four pairs of depthwise and pointwise ones.

    Keyword spotting on 49 x 10 cepstral coefficients (Zhang et al. 2017, Banbury et al. 2021); the
    mean here is over all 25 rows; the reference leaves out the last. ``ds_cnn-plain`` has biases in
    place of batch norm, and no dropout. From (N, channels, height, width), any size of image, to
    logits (N, classes).
    """
    plain = name == "ds_cnn-plain"
    layers: list[nn.Module] = [
        nn.ZeroPad2d((1, 2, 4, 5)),  # so that stride 2 gives half as many, rounded up
        *_normed(nn.Conv2d(channels, WIDTH, (10, 4), 2, bias=plain)),
        *([] if plain else [nn.Dropout(0.2)]),
    ]
    for _ in range(4):
        layers += _normed(nn.Conv2d(WIDTH, WIDTH, 3, padding=1, groups=WIDTH, bias=plain))
        layers += _normed(nn.Conv2d(WIDTH, WIDTH, 1, bias=plain))
    layers += [] if plain else [nn.Dropout(0.4)]
    head = (nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(WIDTH, classes))
    return he(nn.Sequential(*layers, *head))


def _normed(convolution: nn.Conv2d) -> list[nn.Module]:
    norm = [] if convolution.bias is not None else [nn.BatchNorm2d(convolution.out_channels)]
    return [convolution, *norm, nn.ReLU()]
