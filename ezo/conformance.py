"""Does a zeroth-order step function do what its equation says? Nine checks, for anyone's.

The equation is that of simultaneous perturbation with central differences (Spall 1992, MeZO):

    g = (loss(theta + eps z) - loss(theta - eps z)) / (2 eps)      z: mean 0, variance 1
    theta <- theta - lr g z

and the checks see a step function from outside: the parameters at each call of its closure, and
the parameters afterwards. To judge an implementation, wrap it in a factory (`MakeStep`) that sets
it up plainly: one query a step, no clipping, momentum or weight decay. Weights are float32, or of
16 bits with a ``dtype``: there points are rounded to what the type can hold, and updates at random.
Nothing here knows anything of the rest of this package, and everything is deterministic.

Each check stands for a mistake that public implementations make:

    sign          steps go uphill
    scale         1 / eps or 1 / (4 eps) in place of 1 / (2 eps); lr applied twice or not at all
    independence  one seed for every tensor, or for every step: all draw the same noise
    same_noise    the update is along other noise than the perturbation was
    symmetric     the two losses are not taken at either side of theta
    replay        the seed does not determine the run, or does not matter
    global_state  torch's global generator is drawn from or seeded, so dropout and shuffling change
    drift         rounding in the sweeps adds up: the weights walk with no update at all
    gradient      the mean over many steps is not the gradient

>>> from ezo import ElasticZO
>>> def make_step(model, lr, eps, seed):
...     return ElasticZO(model, bp=0, lr=lr, eps=eps, seed=seed).step
>>> print(symmetric(make_step).passed)
True
"""

import itertools
import math
from collections.abc import Callable, Sequence
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor, nn

Closure = Callable[[], Tensor]
Step = Callable[[Closure], object]

LR, EPS = 2.0**-10, 2.0**-7  # powers of two, so that they add no rounding of their own
DRIFT = 2.0**-23  # half of 2^-22, a grid on which float32 sweeps below 4 are exact
_ROUNDING = 1e-3  # relative; float32 rounding of the sweeps amounts to some 1e-5 of EPS
_dtype: ContextVar[torch.dtype] = ContextVar("dtype", default=torch.float32)  # of the weights


class MakeStep(Protocol):
    """Makes a step function that trains every parameter of ``model``.

    The step function takes a closure, which computes the loss (a scalar tensor, without gradient)
    at the parameters as they are when it is called.
    """

    def __call__(self, model: nn.Module, lr: float, eps: float, seed: int) -> Step: ...


@dataclass(frozen=True)
class Finding:
    """What one check found. ``passed`` says that ``measured`` is within ``bound``, from below."""

    check: str
    passed: bool
    measured: float
    bound: float
    detail: str

    def __str__(self) -> str:
        verdict = "passed" if self.passed else "FAILED"
        within = f"{self.measured:.3g} (bound {self.bound:.3g})"
        return f"{self.check}: {verdict}, {within}: {self.detail}"


def _finding(check: str, measured: float, bound: float, detail: str, also: bool = True) -> Finding:
    return Finding(check, measured <= bound and also, measured, bound, detail)


def run(
    make_step: MakeStep,
    drift_steps: int = 1000,
    drift_bound: float = DRIFT,
    dtype: torch.dtype = torch.float32,
) -> list[Finding]:
    """Every check, of weights of a type. Arguments as in `drift`."""
    before = (sign, scale, independence, same_noise, symmetric, replay, global_state)
    token = _dtype.set(dtype)
    try:
        found = [check(make_step) for check in before]
        return [*found, drift(make_step, drift_steps, drift_bound), gradient(make_step)]
    finally:
        _dtype.reset(token)


def assert_conforms(
    make_step: MakeStep,
    drift_steps: int = 1000,
    drift_bound: float = DRIFT,
    dtype: torch.dtype = torch.float32,
) -> None:
    """Run every check; an AssertionError lists those that failed."""
    failed = [str(f) for f in run(make_step, drift_steps, drift_bound, dtype) if not f.passed]
    if failed:
        raise AssertionError("\n".join(["the step function does not conform:", *failed]))


def sign(make_step: MakeStep, steps: int = 64) -> Finding:
    """A step goes downhill.

    On a linear loss <c, theta> the step is -lr <c, z> z, so it changes the loss by -lr <c, z>^2:
    never upwards, and by -lr |c|^2 on average.

    Measured: mean change of a linear loss by a step, over lr |c|^2. Bound: below 0.
    """
    measured = -_size(make_step, LR, EPS, steps)
    detail = "change of a linear loss by a step; -1 expected"
    return _finding("sign", measured, 0.0, detail, measured < 0.0)


def scale(make_step: MakeStep, steps: int = 400) -> Finding:
    """A step is lr g z, with g over 2 eps: its mean is -lr grad, whatever lr and eps are.

    On a linear loss, central differences are exact at any eps. The size of a step along the
    gradient, <c, z>^2 / |c|^2, has mean 1, and variance 2 for Gaussian z (chi-squared with one
    degree of freedom; less for noise with lighter tails). So the mean over n steps is within
    5 sqrt(2 / n) of 1, for (lr, eps), (lr, eps / 2) and (2 lr, eps).

    Measured: the largest of the three deviations from 1. Bound: 5 sqrt(2 / n).
    """
    at = ((LR, EPS), (LR, EPS / 2), (2 * LR, EPS))
    sizes = [_size(make_step, lr, eps, steps) for lr, eps in at]
    measured, bound = _largest([abs(size - 1.0) for size in sizes]), 5 * math.sqrt(2 / steps)
    shown = ", ".join(f"{size:.3f}" for size in sizes)
    detail = f"mean step over -lr grad is {shown} at (lr, eps), (lr, eps / 2), (2 lr, eps)"
    return _finding("scale", measured, bound, f"{detail}; 1 expected")


def independence(make_step: MakeStep, steps: int = 4) -> Finding:
    """Tensors of one shape draw different noise, and so do the steps.

    Steps are along z. Independent z of m elements have a cosine of about 1 / sqrt(m).

    Measured: largest |cosine| between two tensors' steps, or between steps. Bound: 6 / sqrt(m).
    """
    shape = (32, 32)
    probe = _Linear([shape, shape, shape])
    step = make_step(probe, LR, EPS, 1)
    z = []
    for _ in range(steps):
        z += probe.step(step).update_by_tensor
    directions = torch.stack([_unit(x.flatten()) for x in z])  # (steps x tensors, m)
    cosines = (directions @ directions.T).abs() - torch.eye(len(z), dtype=torch.float64)
    measured, bound = _largest(cosines.flatten().tolist()), 6 / math.sqrt(math.prod(shape))
    detail = "largest cosine between the noise of two tensors or of two steps; 0 expected"
    return _finding("independence", measured, bound, detail)


def same_noise(make_step: MakeStep, steps: int = 8) -> Finding:
    """The update is along the noise of the perturbation, by the g of the observed losses.

    From the two points where the closure was called, theta+ and theta-, and its losses there:
    z = (theta+ - theta-) / (2 eps), g = (loss+ - loss-) / (2 eps), and the step must be -lr g z.
    (Swapping the two points changes nothing.)

    Measured: |step + lr g z| / |lr g z|, over a few steps. Bound: 1e-3, for rounding in float32.
    In 16 bits a step is rounded by a good part of itself, and z is seen within 1 %: there it is how
    far the mean step along -lr g z is off, over many steps; bound: 0.05.
    """
    probe = _Linear(_SHAPES)
    step = make_step(probe, LR, EPS, 2)
    coarse = _dtype.get() != torch.float32
    error, size, along = 0.0, 0.0, 0.0
    for _ in range(8 * steps if coarse else steps):
        seen = probe.step(step)
        if len(seen.points) != 2:
            return _not_two("same_noise", seen)
        z = (seen.points[0] - seen.points[1]) / (2 * EPS)
        g = (seen.losses[0] - seen.losses[1]) / (2 * EPS)
        error += float((seen.update + LR * g * z).square().sum())
        size += float((LR * g * z).square().sum())
        along -= float(seen.update @ (LR * g * z))
    if coarse:
        measured = abs(along / size - 1) if size > 0 else math.inf
        detail = "mean step along -lr g z, with the observed g and z, over its size, less 1"
        return _finding("same_noise", measured, 0.05, f"{detail}; 0 expected")
    measured = math.sqrt(error / size) if size > 0 else math.inf
    detail = "distance of the step from -lr g z with the observed g and z, over its size"
    return _finding("same_noise", measured, _ROUNDING, f"{detail}; 0 expected")


def symmetric(make_step: MakeStep, steps: int = 8) -> Finding:
    """The two losses are taken at either side of theta: their midpoint is theta.

    One-sided differences have an error of the order of eps, central ones of eps^2.

    Measured: largest |(theta+ + theta-) / 2 - theta| / eps. Bound: 1e-3, for rounding in float32;
    in 16 bits half a last place of a weight of 1, over eps.
    """
    probe = _Linear(_SHAPES)
    step = make_step(probe, LR, EPS, 3)
    distances = []
    for _ in range(steps):
        seen = probe.step(step)
        if len(seen.points) != 2:
            return _not_two("symmetric", seen)
        middle = (seen.points[0] + seen.points[1]) / 2
        distances.append(float((middle - probe.start).abs().max()) / EPS)
    detail = "distance of the two points' midpoint from theta, over eps; 0 expected"
    bound = max(_ROUNDING, torch.finfo(_dtype.get()).eps / 2 / EPS)
    return _finding("symmetric", _largest(distances), bound, detail)


def replay(make_step: MakeStep, steps: int = 3) -> Finding:
    """The seed determines the run, to the bit, and another seed gives another run.

    The runs start from different states of torch's global generator, which must not matter.

    Measured: share of weights that differ between two runs of one seed. Bound: 0.
    """

    def after(seed: int, global_seed: int) -> Tensor:
        probe = _Linear(_SHAPES)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(global_seed)
            step = make_step(probe, LR, EPS, seed)
            for _ in range(steps):
                step(probe.closure)
        return probe.flat()

    first, second, other = after(5, 0), after(5, 1), after(6, 0)
    measured = float((first != second).double().mean())
    if torch.equal(first, other):
        return _finding("replay", measured, 0.0, "two runs of different seeds are the same", False)
    detail = "weights that differ between two runs of one seed; 0 expected"
    return _finding("replay", measured, 0.0, detail)


def global_state(make_step: MakeStep, steps: int = 3) -> Finding:
    """Torch's global generator stands where it stood: the noise comes from elsewhere.

    Measured: steps (and the construction) after which the state had changed. Bound: 0.
    """
    probe = _Linear(_SHAPES)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(1234567)
        states = [torch.get_rng_state()]
        step = make_step(probe, LR, EPS, 7)
        states.append(torch.get_rng_state())
        for _ in range(steps):
            step(probe.closure)
            states.append(torch.get_rng_state())
    changes = sum(not torch.equal(a, b) for a, b in itertools.pairwise(states))
    detail = "times that torch's global generator was moved; 0 expected"
    return _finding("global_state", float(changes), 0.0, detail)


def drift(make_step: MakeStep, steps: int = 1000, bound: float = DRIFT) -> Finding:
    """With g = 0 the weights stay: perturbing and restoring leaves nothing behind.

    On a constant loss g is 0, so all that a step does is rounding. A first step may put the weights
    on a grid, once; from then on no bit may change, however many steps. (Sweeps that round on their
    own make a weight walk: after n steps by about 2^-25 sqrt(3 n) in float32, and by far more in
    16 bits.)

    Measured: largest |theta after ``steps`` - theta|. Bound: ``bound``, half the grid's spacing,
    and no bit changed after the first step.
    """
    probe = _Linear(_SHAPES)
    loss = torch.ones(())
    step = make_step(probe, LR, EPS, 8)
    step(lambda: loss)
    once = probe.flat()
    for _ in range(steps - 1):
        step(lambda: loss)
    measured = float((probe.flat() - probe.start).abs().max())
    moved = float((probe.flat() != once).double().mean())
    detail = f"largest change of a weight of size 1 after {steps} steps with g = 0"
    after = f"{moved:.0%} of the weights changed after the first step, 0 expected"
    return _finding("drift", measured, bound, f"{detail}; {after}", moved == 0.0)


def gradient(make_step: MakeStep, steps: int = 500) -> Finding:
    """The mean over many steps from one point is along autograd's gradient.

    For Gaussian z in d dimensions, the mean m of n estimates g z has E<m, grad> = |grad|^2 and
    E|m|^2 = |grad|^2 (1 + (d + 1) / n), so its squared cosine with the gradient is about
    n / (n + d + 1), and its squared sine about (d + 1) / (n + d + 1), which varies by a share of
    sqrt(2 / d) about that. Twice that is some five deviations off. Lighter-tailed noise does
    better. The loss is that of a small network, with an error of the order of eps^2, negligible.

    Measured: 1 - cos |cos|, the squared sine where the sign is right. Bound:
    2 (d + 1) / (n + d + 1).
    """
    probe = _Network()
    wanted = probe.gradient()
    step = make_step(probe, LR, EPS, 9)
    total = torch.zeros_like(wanted)
    for _ in range(steps):
        total -= probe.step(step).update
    cosine = float(_unit(total) @ _unit(wanted))
    d = wanted.numel()
    measured, bound = 1 - cosine * abs(cosine), 2 * (d + 1) / (steps + d + 1)
    detail = f"squared sine between the mean of {steps} steps and the gradient in {d} dimensions"
    return _finding("gradient", measured, bound, f"{detail}; {bound / 2:.3f} expected")


_SHAPES = ((8, 6), (8, 6), (6,), (3, 2, 4), ())


@dataclass(frozen=True)
class _Seen:
    """A step from outside; vectors are float64, of all parameters.

    ``points`` are the parameters at each call of the closure, those at (nearly) theta left out;
    ``losses`` what it returned there; ``update`` what the step added to theta.
    """

    points: list[Tensor]
    losses: list[float]
    update: Tensor
    update_by_tensor: list[Tensor]


class _Probe(nn.Module):
    """A model to train, with its own loss, that keeps a record of where it was evaluated."""

    def __init__(self, shapes: Sequence[tuple[int, ...]]) -> None:
        super().__init__()
        self.generator = torch.Generator().manual_seed(20250107)
        self.weights = nn.ParameterList(
            nn.Parameter(self._normal(*shape).clamp(-1, 1).to(_dtype.get())) for shape in shapes
        )
        self._tensors = list(self.weights)
        self.start = self.flat()
        self._points: list[Tensor] = []
        self._losses: list[float] = []

    def _normal(self, *shape: int) -> Tensor:
        return torch.randn(shape, generator=self.generator)

    def loss(self) -> Tensor:
        raise NotImplementedError

    def flat(self) -> Tensor:
        return torch.cat([w.detach().flatten() for w in self._tensors]).double()

    def closure(self) -> Tensor:
        self._points.append(self.flat())
        with torch.no_grad():
            loss = self.loss()
        self._losses.append(loss.item())
        return loss

    def step(self, step: Step) -> _Seen:
        """A step from ``start``, to which the parameters return afterwards."""
        self._points, self._losses = [], []
        step(self.closure)
        update = self.flat() - self.start
        sizes = [w.numel() for w in self._tensors]
        parts = [
            part.view(w.shape) for part, w in zip(update.split(sizes), self._tensors, strict=True)
        ]
        with torch.no_grad():
            for start, w in zip(self.start.split(sizes), self._tensors, strict=True):
                w.copy_(start.view(w.shape))
        both = zip(self._points, self._losses, strict=True)
        away = [(p, loss) for p, loss in both if (p - self.start).abs().max() > EPS / 100]
        return _Seen([p for p, _ in away], [loss for _, loss in away], update, parts)


class _Linear(_Probe):
    """loss = <c, theta>, in float64: the gradient is c everywhere."""

    def __init__(self, shapes: Sequence[tuple[int, ...]]) -> None:
        super().__init__(shapes)
        self.c = self._normal(self.start.numel()).double()

    def loss(self) -> Tensor:
        return self._points[-1] @ self.c


class _Network(_Probe):
    """Mean squared error of a tanh network with 44 parameters, in float64."""

    def __init__(self) -> None:
        super().__init__([(6, 4), (6,), (2, 6), (2,)])
        self.x, self.y = self._normal(16, 4).double(), self._normal(16, 2).double()

    def loss(self) -> Tensor:
        w1, b1, w2, b2 = (w.double() for w in self._tensors)
        return (torch.tanh(self.x @ w1.T + b1) @ w2.T + b2 - self.y).square().mean()

    def gradient(self) -> Tensor:
        with torch.enable_grad():
            gradients = torch.autograd.grad(self.loss(), self._tensors)
        return torch.cat([g.flatten() for g in gradients]).double()


def _size(make_step: MakeStep, lr: float, eps: float, steps: int) -> float:
    """Mean of a step's component along -lr grad, on a linear loss, in units of lr |grad|."""
    probe = _Linear(_SHAPES)
    step = make_step(probe, lr, eps, 4)
    along = [float(probe.step(step).update @ probe.c) for _ in range(steps)]
    return -sum(along) / steps / (lr * float(probe.c @ probe.c))


def _unit(x: Tensor) -> Tensor:
    return x / x.norm()


def _largest(values: Sequence[float]) -> float:
    """The largest, or NaN if one is, so that it fails."""
    return math.nan if any(math.isnan(v) for v in values) else max(values)


def _not_two(check: str, seen: _Seen) -> Finding:
    detail = f"the closure was called at {len(seen.points)} points other than theta; 2 expected"
    return _finding(check, math.inf, _ROUNDING, detail)
