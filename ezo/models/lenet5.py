"""LeNet-5: 107,786 parameters with 28 x 28 pixels of one channel and ten classes."""

from torch import nn

from ezo.models._init import xavier

NAMES = ("lenet5",)
INPUT = "image"


def build(
    name: str, classes: int = 10, channels: int = 1, size: tuple[int, int] = (28, 28)
) -> nn.Module:
    """Two 5 x 5 convolutions and three linear layers (paper, section "Models").

    From (N, channels, height, width) of that size to logits (N, classes).

    Raises:
        ValueError: the images have fewer than 4 pixels a side.
    """
    if min(size) < 4:
        raise ValueError(f"expected images of 4 x 4 pixels or more for lenet5, got {size}")
    return xavier(
        nn.Sequential(
            nn.Conv2d(channels, 6, 5, padding=2),
            nn.ReLU(),
            nn.MaxPool2d(2),
            nn.Conv2d(6, 16, 5, padding=2),
            nn.ReLU(),
            nn.MaxPool2d(2),
            nn.Flatten(),
            nn.Linear(16 * (size[0] // 4) * (size[1] // 4), 120),
            nn.ReLU(),
            nn.Linear(120, 84),
            nn.ReLU(),
            nn.Linear(84, classes),
        )
    )
