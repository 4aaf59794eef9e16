"""ResNet-8 of MLPerf Tiny: 77,946 parameters with ten classes; batch norm and residual sums."""

from torch import Tensor, nn

from ezo.models._init import he

NAMES = ("resnet8", "resnet8-plain")
ABOUT = {
    "resnet8-plain": "resnet8 with biases in place of batch norm.",
}
INPUT = "image"
IMAGE = (3, 32, 32)


def build(name: str, classes: int = 10, channels: int = 3) -> nn.Module:
    """Three stacks of two 3 x 3 convolutions with a sum around them (Banbury et al. 2021).

    ``resnet8-plain`` has biases in place of batch norm. From (N, channels, height, width), any size
    of image, to logits (N, classes).
    """
    plain = name == "resnet8-plain"
    return he(
        nn.Sequential(
            *convolution(channels, 16, plain=plain),
            nn.ReLU(),
            Block(16, 16, 1, plain),
            Block(16, 32, 2, plain),
            Block(32, 64, 2, plain),
            nn.AdaptiveAvgPool2d(1),
            nn.Flatten(),
            nn.Linear(64, classes),
        )
    )


class Block(nn.Module):
    """Two convolutions, and their input, or its 1 x 1 convolution, added to what they give."""

    def __init__(self, narrow: int, wide: int, stride: int, plain: bool) -> None:
        super().__init__()
        self.body = nn.Sequential(
            *convolution(narrow, wide, stride, plain=plain),
            nn.ReLU(),
            *convolution(wide, wide, plain=plain),
        )
        same = narrow == wide and stride == 1
        self.shortcut = nn.Identity() if same else nn.Conv2d(narrow, wide, 1, stride)

    def forward(self, x: Tensor) -> Tensor:
        return (self.body(x) + self.shortcut(x)).relu()


def convolution(narrow: int, wide: int, stride: int = 1, *, plain: bool) -> list[nn.Module]:
    """3 x 3, with batch norm or a bias."""
    found = nn.Conv2d(narrow, wide, 3, stride, padding=1, bias=plain)
    return [found] if plain else [found, nn.BatchNorm2d(wide)]
