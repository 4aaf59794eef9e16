"""PointNet without T-Nets: 815,400 parameters with 40 classes, 819,624 with batch norm."""

from torch import Tensor, nn

from ezo.models._init import he, xavier

NAMES = ("pointnet", "pointnet-he", "pointnet-bn")
INPUT = "points"


def build(name: str, classes: int = 40, channels: int = 3) -> nn.Module:
    """A perceptron shared by all points, a maximum over the points, a classifier.

    ``pointnet-bn`` has batch norm after every layer but the last. ``pointnet-he`` has none, and
    starts from weights that keep the signal without it; ``pointnet``'s shrink it layer by layer.

    From (N, P, channels), any number P of points, to logits (N, classes).
    """
    fill = he if name == "pointnet-he" else xavier
    return fill(PointNet(classes, channels, batch_norm=name == "pointnet-bn"))


class PointNet(nn.Module):
    """Qi et al., CVPR 2017, without its input and feature transforms (T-Nets)."""

    BEFORE_MAXIMUM: tuple[str, ...] = ()

    def __init__(self, classes: int, channels: int, batch_norm: bool) -> None:
        super().__init__()

        def norm(width: int) -> list[nn.Module]:
            return [nn.BatchNorm1d(width)] if batch_norm else []

        points: list[nn.Module] = []
        for narrow, wide in zip((channels, 64, 64, 64, 128), (64, 64, 64, 128, 1024), strict=True):
            points += [nn.Conv1d(narrow, wide, 1), *norm(wide), nn.ReLU()]
        head: list[nn.Module] = []
        for wide, narrow in ((1024, 512), (512, 256)):
            head += [nn.Linear(wide, narrow), *norm(narrow), nn.ReLU()]
        self.points = nn.Sequential(*points, MaxOverPoints())
        if not batch_norm:  # which would be between the layer and the maximum
            self.BEFORE_MAXIMUM = (f"points.{len(points) - 2}",)
        self.head = nn.Sequential(*head, nn.Linear(256, classes))

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.points(x.transpose(1, 2)))


class MaxOverPoints(nn.Module):
    """(N, C, P) to (N, C)."""

    def forward(self, x: Tensor) -> Tensor:
        return x.amax(2)
