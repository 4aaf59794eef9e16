"""LeNet-5 for 28 x 28 images: 107,786 parameters with one channel and ten classes."""

from torch import nn

from ezo.models._init import xavier

NAMES = ("lenet5",)
INPUT = "image"
SIZE = (28, 28)


def build(name: str, classes: int = 10, channels: int = 1) -> nn.Module:
    """Two 5 x 5 convolutions and three linear layers (paper, section "Models").

    From (N, channels, 28, 28) to logits (N, classes).
    """
    return xavier(
        nn.Sequential(
            nn.Conv2d(channels, 6, 5, padding=2),
            nn.ReLU(),
            nn.MaxPool2d(2),
            nn.Conv2d(6, 16, 5, padding=2),
            nn.ReLU(),
            nn.MaxPool2d(2),
            nn.Flatten(),
            nn.Linear(16 * 7 * 7, 120),
            nn.ReLU(),
            nn.Linear(120, 84),
            nn.ReLU(),
            nn.Linear(84, classes),
        )
    )
