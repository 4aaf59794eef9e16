"""Clouds of points on 16 families of solids, generated in a second or two: needs no download."""

import math
from collections.abc import Callable
from functools import partial
from pathlib import Path

import torch
from torch import Tensor
from torch.nn.functional import normalize

from ezo.catalogue import number
from ezo.data._dataset import Dataset
from ezo.data._points import Float64, augment, jitter, normalise, snapped, turns

# Letters: n solids of a family, k rows and m columns of a surface's grid, p points.

NAMES = ("shapes", "shapes-<points>")
ABOUT = {
    "shapes-<points>": "shapes with so many points a cloud.",
}
POINTS = 1024
TRAIN, TEST = 250, 64  # clouds of each family
ROUND = 32  # sides of what is round
STRETCH = 1.5  # each axis is scaled by a factor between 1 / STRETCH and STRETCH
LARGEST_ANGLE = math.radians(90)
Outline = Tensor | Callable[[], Tensor]


def load(name: str, root: Path | None = None) -> Dataset:
    """Sample 250 training and 64 test clouds of each of 16 families, 5,024 in all, shuffled.

    Clouds (N, P, 3) of 1,024 points, or 256 for ``shapes-256``, are augmented as in
    `ezo.data._points.augment`. Each solid has random proportions, is stretched along its axes by
    random factors of 2/3 to 3/2, and turned about a random axis by 0 to 90 degrees. Points are
    uniform on its surface. Each cloud gets jitter of standard deviation 0.01, clipped at 0.05, and
    is moved and scaled to centroid 0 and radius 1, so place and size say nothing, and extents
    little: a linear classifier on them finds 34 % (chance: 6 %). With less rotation it finds more,
    and with more a PointNet without batch norm learns slowly. Random numbers come from a generator
    of our own; coordinates are computed in float64 and rounded to multiples of 2^-18, far coarser
    than what processors differ by: the same bits on every call, processor and number of threads.

    Raises:
        ValueError: clouds of no points are asked for.
    """
    points = number(name) if name != "shapes" else POINTS
    if points < 2:
        raise ValueError(f"expected at least 2 points in a cloud, got '{name}'; try shapes-256")
    generator = torch.Generator().manual_seed(0)
    with Float64():
        train_x, train_y = sample(TRAIN, points, generator, _turned)
        test_x, test_y = sample(TEST, points, generator, _turned)
    return Dataset(train_x, train_y, test_x, test_y, classes=len(FAMILIES), augment=augment)


def sample(
    n: int,
    points: int,
    generator: torch.Generator,
    place: Callable[[Tensor, torch.Generator], Tensor],
) -> tuple[Tensor, Tensor]:
    """n clouds of each family, shuffled: (N, P, 3) and their labels (N,).

    Args:
        place: ``place(clouds, generator)`` turns, scales and jitters one family's (n, P, 3).
    """
    clouds = []
    for surface in FAMILIES.values():
        factors = STRETCH ** _between(-1, 1, 3 * n, generator).reshape(n, 1, 1, 3)
        cloud = on_surface(surface(n, generator) * factors, points, generator)
        clouds.append(place(cloud, generator))
    order = torch.randperm(n * len(FAMILIES), generator=generator)
    labels = torch.arange(len(FAMILIES)).repeat_interleave(n)
    return torch.cat(clouds)[order], labels[order].long()


def _turned(cloud: Tensor, generator: torch.Generator) -> Tensor:
    cloud = normalise(cloud @ turns(len(cloud), LARGEST_ANGLE, generator).mT)
    return snapped(normalise(cloud + jitter(cloud.shape, generator)))


def on_surface(grid: Tensor, points: int, generator: torch.Generator) -> Tensor:
    """(n, points, 3) uniform on surfaces, grids (n, k, m, 3) whose cells are two triangles each."""
    corner, right = grid[:, :-1, :-1], grid[:, :-1, 1:]
    below, across = grid[:, 1:, :-1], grid[:, 1:, 1:]
    first = torch.cat([corner.flatten(1, 2), across.flatten(1, 2)], 1)  # (n, triangles, 3)
    one = torch.cat([right.flatten(1, 2)] * 2, 1) - first
    two = torch.cat([below.flatten(1, 2)] * 2, 1) - first
    area = torch.linalg.cross(one, two).norm(dim=2).cumsum(1)  # up to and with each triangle
    place = torch.rand(len(grid), points, generator=generator) * area[:, -1:]
    chosen = torch.searchsorted(area, place, right=True).clamp_(max=area.shape[1] - 1)
    chosen = chosen[:, :, None].expand(-1, -1, 3)
    u, v = torch.rand(2, len(grid), points, 1, generator=generator)
    beyond = u + v > 1  # in the other half of the parallelogram: reflect
    u, v = torch.where(beyond, 1 - u, u), torch.where(beyond, 1 - v, v)
    return first.gather(1, chosen) + u * one.gather(1, chosen) + v * two.gather(1, chosen)


def _loft(outline: Outline, profile: Tensor) -> Tensor:
    """Surfaces (n, k, m + 1, 3) between outlines at several heights: solids of revolution, prisms.

    ``outline`` is (n, m, 2) corners, star-shaped about 0, closed here, or what makes them;
    ``profile`` (n, k, 2), each row the outline's scale and height; n may be 1 in both.
    """
    corners = outline() if callable(outline) else outline
    corners = torch.cat([corners, corners[:, :1]], 1)
    flat = profile[:, :, None, :1] * corners[:, None]  # (n, k, m + 1, 2)
    return torch.cat([flat, profile[:, :, None, 1:].expand(*flat.shape[:3], 1)], 3)


def _polygon(sides: int, first: float = 0) -> Tensor:
    """Corners on the unit circle from the angle ``first`` on: (1, sides, 2)."""
    angle = first + torch.arange(sides) * (2 * math.pi / sides)
    return torch.stack([angle.cos(), angle.sin()], 1)[None]


def _table(n: int, *rows: tuple[Tensor | float, ...]) -> Tensor:
    """Rows of numbers, each one for all solids or (n,), as (n, rows, columns)."""
    table = torch.empty(n, len(rows), len(rows[0]))
    for i, row in enumerate(rows):
        for j, value in enumerate(row):
            table[:, i, j] = value
    return table


def _between(low: float, high: float, n: int, generator: torch.Generator) -> Tensor:
    """n uniform numbers."""
    return low + (high - low) * torch.rand(n, generator=generator)


def _angles(cells: int, whole: float) -> Tensor:
    return torch.linspace(0, whole, cells + 1)


DISC, SQUARE = partial(_polygon, ROUND), partial(_polygon, 4, math.pi / 4)
TRIANGLE = partial(_polygon, 3)


def _ellipsoid(n: int, generator: torch.Generator) -> Tensor:
    angle = _angles(ROUND // 2, math.pi)
    return _loft(DISC, torch.stack([angle.sin(), angle.cos()], 1).expand(n, -1, -1))


def _capsule(n: int, generator: torch.Generator) -> Tensor:
    half, angle = _between(0.5, 1.2, n, generator), _angles(ROUND // 2, math.pi)
    # The equator comes twice: once at each end of the straight part.
    angle = torch.cat([angle[: ROUND // 4 + 1], angle[ROUND // 4 :]])
    lift = half[:, None] * torch.where(torch.arange(len(angle)) <= ROUND // 4, 1, -1)
    return _loft(DISC, torch.stack([angle.sin().expand(n, -1), angle.cos() + lift], 2))


def _torus(n: int, generator: torch.Generator) -> Tensor:
    thick, angle = _between(0.2, 0.45, n, generator)[:, None], _angles(ROUND // 2, 2 * math.pi)
    return _loft(DISC, torch.stack([1 + thick * angle.cos(), thick * angle.sin()], 2))


def _tube(n: int, generator: torch.Generator) -> Tensor:
    half, hole = _between(0.4, 1.2, n, generator), _between(0.5, 0.75, n, generator)
    rows = (1, -half), (1, half), (hole, half), (hole, -half), (1, -half)
    return _loft(DISC, _table(n, *rows))


def _prism(outline: Outline, n: int, generator: torch.Generator) -> Tensor:
    half = _between(0.4, 1.2, n, generator)
    return _loft(outline, _table(n, (0, -half), (1, -half), (1, half), (0, half)))


def _pyramid(outline: Outline, n: int, generator: torch.Generator) -> Tensor:
    half = _between(0.5, 1.2, n, generator)
    return _loft(outline, _table(n, (0, -half), (1, -half), (0, half)))


def _frustum(n: int, generator: torch.Generator) -> Tensor:
    half, top = _between(0.5, 1.2, n, generator), _between(0.35, 0.65, n, generator)
    return _loft(DISC, _table(n, (0, -half), (1, -half), (top, half), (0, half)))


def _octahedron(n: int, generator: torch.Generator) -> Tensor:
    half = _between(0.7, 1.4, n, generator)
    return _loft(_polygon(4), _table(n, (0, -half), (1, 0), (0, half)))


def _l_prism(n: int, generator: torch.Generator) -> Tensor:
    a, b = _between(0.2, 0.4, n, generator), 1.6
    return _prism(_table(n, (-a, -a), (b, -a), (b, a), (a, a), (a, b), (-a, b)), n, generator)


def _cross_prism(n: int, generator: torch.Generator) -> Tensor:
    a = _between(0.2, 0.4, n, generator)
    quarter = _table(n, (1, -a), (1, a), (a, a))
    turn = torch.tensor([[0.0, 1.0], [-1.0, 0.0]])
    corners = [quarter @ torch.linalg.matrix_power(turn, k) for k in range(4)]
    return _prism(torch.cat(corners, 1), n, generator)


def _star_prism(n: int, generator: torch.Generator) -> Tensor:
    inner = _between(0.35, 0.55, n, generator)
    scale = _table(n, *((1.0,), (inner,)) * 5)
    return _prism(_polygon(10) * scale, n, generator)


def _helix(n: int, generator: torch.Generator) -> Tensor:
    """A round wire wound two to three times."""
    turns, rise = _between(2, 3, n, generator), _between(0.1, 0.2, n, generator)[:, None]
    thick = _between(0.1, 0.18, n, generator)[:, None, None, None]
    along = turns[:, None] * _angles(3 * ROUND, 2 * math.pi)  # (n, k)
    cos, sin, zero = along.cos(), along.sin(), torch.zeros_like(along)
    centre = torch.stack([cos, sin, rise * along], 2)  # (n, k, 3)
    outward = torch.stack([cos, sin, zero], 2)
    tangent = normalize(torch.stack([-sin, cos, rise.expand_as(along)], 2), dim=2)
    upward = torch.linalg.cross(outward, tangent)
    around = _angles(ROUND // 2, 2 * math.pi)[:, None]  # (m, 1)
    ring = around.cos() * outward[:, :, None] + around.sin() * upward[:, :, None]
    return centre[:, :, None] + thick * ring


def _moebius(n: int, generator: torch.Generator) -> Tensor:
    """A band with half a twist."""
    width = _between(0.25, 0.5, n, generator)[:, None, None]
    across = width * torch.linspace(-1, 1, 5)[:, None]  # (n, k, 1)
    along = _angles(2 * ROUND, 2 * math.pi)  # (m,)
    radius = 1 + across * (along / 2).cos()
    return torch.stack([radius * along.cos(), radius * along.sin(), across * (along / 2).sin()], 3)


# From n and a generator to surfaces' grids (n, k, m, 3).
FAMILIES: dict[str, Callable[[int, torch.Generator], Tensor]] = {
    "ellipsoid": _ellipsoid,
    "capsule": _capsule,
    "torus": _torus,
    "tube": _tube,
    "cylinder": partial(_prism, DISC),
    "box": partial(_prism, SQUARE),
    "cone": partial(_pyramid, DISC),
    "pyramid": partial(_pyramid, SQUARE),
    "tetrahedron": partial(_pyramid, TRIANGLE),
    "frustum": _frustum,
    "octahedron": _octahedron,
    "l-prism": _l_prism,
    "cross-prism": _cross_prism,
    "star-prism": _star_prism,
    "helix": _helix,
    "moebius": _moebius,
}
