"""PointNet without T-Nets: 815,400 parameters with 40 classes, 819,624 with batch norm."""

import torch
from torch import Tensor, nn

from ezo.models._init import he, xavier

NAMES = ("pointnet", "pointnet-he", "pointnet-centred", "pointnet-bn")
ABOUT = {
    "pointnet-he": "pointnet from weights that keep the signal without batch norm.",
    "pointnet-centred": "pointnet-he whose units begin at mean 0, variance 1 over random clouds.",
    "pointnet-bn": "pointnet with batch norm after every layer but the last.",
}
INPUT = "points"


def build(name: str, classes: int = 40, channels: int = 3) -> nn.Module:
    """A perceptron shared by all points, a maximum over the points, a classifier.

    ``pointnet-bn`` has batch norm after every layer but the last. ``pointnet-he`` has none, and
    starts from weights that keep the signal without it; ``pointnet``'s shrink it layer by layer.
    ``pointnet-centred`` starts from those of ``pointnet-he``, of which each unit is then scaled and
    shifted to mean 0 and variance 1 over `random_clouds`, the maxima as such, the logits to 0.3: so
    what tells clouds apart is not lost in means that all have.

    From (N, P, channels), any number P of points, to logits (N, classes).
    """
    model = PointNet(classes, channels, batch_norm=name == "pointnet-bn")
    if name == "pointnet-centred":
        he(model)
        return centred(model, random_clouds(channels))
    return he(model) if name == "pointnet-he" else xavier(model)


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


LOGITS = 0.3  # their standard deviation at first
CLOUDS, POINTS = 128, 64
GRID = 2.0**-16  # that the centred weights lie on, so that all processors begin with the same bits


@torch.no_grad()
def centred(model: PointNet, clouds: Tensor) -> PointNet:
    """A model without batch norm, whose units then have mean 0 and variance 1 over clouds.

    Args:
        clouds: (N, P, channels), float64.
    """
    model.double()
    h = clouds.transpose(1, 2)
    *layers, last, activation, maximum = model.points
    for layer in layers:
        if isinstance(layer, nn.Conv1d):
            _standardise(layer, layer(h).transpose(0, 1).flatten(1))
        h = layer(h)
    assert isinstance(last, nn.Conv1d)
    _standardise(last, last(h).amax(2).T)
    h = maximum(activation(last(h)))
    for layer in model.head:
        if isinstance(layer, nn.Linear):
            _standardise(layer, layer(h).T, LOGITS if layer is model.head[-1] else 1.0)
        h = layer(h)
    for p in model.parameters():
        p.div_(GRID).round_().mul_(GRID)
    return model.float()


def _standardise(layer: nn.Conv1d | nn.Linear, y: Tensor, deviation: float = 1.0) -> None:
    """``y``, (units, n), is what the layer gives."""
    assert layer.bias is not None
    scale = deviation / y.std(1).clamp(min=1e-3)
    layer.weight.mul_(scale.view(-1, *[1] * (layer.weight.dim() - 1)))
    layer.bias.sub_(y.mean(1)).mul_(scale)


def random_clouds(channels: int) -> Tensor:
    """(128, 64, channels), float64: balls, shells and what lies between, stretched along the axes.

    Of centroid 0 and radius 1; the same ones each time, and the global random state stays.
    """
    generator = torch.Generator().manual_seed(0)

    def uniform(*shape: int) -> Tensor:
        return torch.rand(CLOUDS, *shape, generator=generator).double()

    x = 2 * uniform(POINTS, channels) - 1
    depth = uniform(1, 1)  # 0: all points on the surface
    x = x / x.norm(dim=2, keepdim=True) * uniform(POINTS, 1) ** depth
    x = x * (0.2 + uniform(1, channels))
    x = x - x.mean(1, keepdim=True)
    return x / x.norm(dim=2).amax(1)[:, None, None]
