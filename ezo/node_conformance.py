"""Does node perturbation do what its equation says? Five checks, for anyone's step function.

    loss+, loss- (N,)     at outputs y_i + sigma n_i and y_i - sigma n_i of every linear layer
    W <- W - lr mean_i (loss+_i - loss-_i) / (2 sigma) n_i x_i'

(Werfel, Xie and Seung 2003.) As `ezo.conformance`, which is for perturbed weights, the checks see a
step from outside: the layers' outputs as the next module meets them, and the weights afterwards.
The batch has mean 0, so that a step may centre the inputs or not. Set the step up plainly: no
clipping, momentum or weight decay.

    node_noise         sign, scale and noise of the update are those of the perturbation
    node_symmetry      the passes are not at either side of the outputs, or weights move in one
    node_independence  examples, layers or steps share noise
    node_replay        the seed does not determine the run, or torch's generator is drawn from
    node_gradient      the mean over many steps is not the gradient of a layer

>>> from ezo import ElasticZO, Nodes
>>> def make_step(model, lr, sigma, seed):
...     return ElasticZO(model, 0, nodes=Nodes(lr, sigma, clip=None), seed=seed).step
>>> print(node_noise(make_step).passed)
True
"""

import math
from collections.abc import Callable
from typing import Protocol

import torch
from torch import Tensor, nn

from ezo.conformance import LR, Finding

SIGMA = 2.0**-7
_ROUNDING = 1e-3  # relative; float32 rounding of outputs amounts to some 1e-5 of SIGMA

Step = Callable[[Callable[[], Tensor]], object]


class MakeStep(Protocol):
    """Makes a step function that trains the linear layers of ``model`` by their outputs.

    The step function takes a closure, which computes each example's loss, (N,).
    """

    def __call__(self, model: nn.Module, lr: float, sigma: float, seed: int) -> Step: ...


def run(make_step: MakeStep) -> list[Finding]:
    """Every check."""
    checks = (node_noise, node_symmetry, node_independence, node_replay, node_gradient)
    return [check(make_step) for check in checks]


def assert_conforms(make_step: MakeStep) -> None:
    """Run every check.

    Raises:
        AssertionError: a check failed; the message lists those that did.
    """
    if failed := [str(found) for found in run(make_step) if not found.passed]:
        raise AssertionError("\n".join(["the step function does not conform:", *failed]))


def node_noise(make_step: MakeStep, steps: int = 8) -> Finding:
    """The update is along the noise that the outputs met, by the losses that the closure returned.

    Measured: |step + lr mean_i g_i n_i x_i'| over its size. Bound: 1e-3, for rounding in float32.
    """
    probe = _Probe()
    step = make_step(probe, LR, SIGMA, 1)
    error = size = 0.0
    for _ in range(steps):
        probe.step(step)
        g = (probe.losses[0] - probe.losses[-1]) / (2 * SIGMA)
        for n, x, update in zip(probe.noise(), probe.inputs, probe.updates(), strict=True):
            wanted = LR * (g[:, None] * n).T @ x.double() / len(x)
            error += float((update + wanted).square().sum())
            size += float(wanted.square().sum())
    measured = math.sqrt(error / size) if size else math.inf
    detail = "distance of the step from that of the noise seen, over its size; 0 expected"
    return _within("node_noise", measured, _ROUNDING, detail)


def node_symmetry(make_step: MakeStep, steps: int = 4) -> Finding:
    """The two passes are at either side of the outputs, and a step without differences is none.

    Measured: largest |(y+ + y-) / 2 - y| / sigma, and largest change of a weight over sigma where
    all losses are 0. Bound: 1e-3.
    """
    probe, distances = _Probe(), []
    step = make_step(probe, LR, SIGMA, 2)
    for _ in range(steps):
        probe.step(step, times=0.0)
        with torch.no_grad():
            outputs = [m(x).double() for m, x in zip(probe.layers, probe.inputs, strict=True)]
        for plus, minus, y in zip(probe.seen[0], probe.seen[-1], outputs, strict=True):
            distances.append(float(((plus + minus) / 2 - y).abs().max()) / SIGMA)
        distances += [float(update.abs().max()) / SIGMA for update in probe.updates()]
    detail = "distance of the outputs' midpoint from those without noise, over sigma; 0 expected"
    return _within("node_symmetry", max(distances), _ROUNDING, detail)


def node_independence(make_step: MakeStep, steps: int = 3) -> Finding:
    """Noise of an example's layer is its own, in every step.

    Independent noise of m units has a cosine of about 1 / sqrt(m), and of some hundreds of pairs
    the largest is below 6 / sqrt(m).

    Measured: largest |cosine| between two examples', layers' or steps'. Bound: 6 / sqrt(m).
    """
    probe = _Probe(units=256)
    step = make_step(probe, LR, SIGMA, 3)
    rows = []
    for _ in range(steps):
        probe.step(step)
        rows += probe.noise()
    noise = torch.cat(rows)  # (steps x layers x N, m)
    noise = noise / noise.norm(dim=1, keepdim=True)
    cosines = (noise @ noise.T).abs() - torch.eye(len(noise), dtype=torch.float64)
    measured, bound = float(cosines.max()), 6 / math.sqrt(256)
    detail = "largest cosine between the noise of two examples, layers or steps; 0 expected"
    return _within("node_independence", measured, bound, detail)


def node_replay(make_step: MakeStep, steps: int = 3) -> Finding:
    """The seed determines the run, whatever torch's generator, which stays where it was.

    Measured: weights that differ between two runs of one seed, and times that the generator moved.
    Bound: 0; another seed gives another run.
    """
    moved = 0

    def after(seed: int, torch_seed: int) -> Tensor:
        nonlocal moved
        probe = _Probe()
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(torch_seed)
            before = torch.get_rng_state()
            step = make_step(probe, LR, SIGMA, seed)
            for _ in range(steps):
                step(probe.closure)
            moved += not torch.equal(before, torch.get_rng_state())
        return torch.cat([m.weight.detach().flatten() for m in probe.layers])

    first, again, other = after(5, 0), after(5, 1), after(6, 0)
    differ = int((first != again).sum()) + moved
    if torch.equal(first, other):
        return Finding("node_replay", False, 0.0, 0.0, "two runs of different seeds are the same")
    detail = "weights that differ between two runs of one seed, and moves of torch's generator"
    return _within("node_replay", float(differ), 0.0, detail)


def node_gradient(make_step: MakeStep, steps: int = 500) -> Finding:
    """The mean over many steps from one point is along each layer's gradient G.

    With delta_i the loss's gradient at all outputs of an example, an estimate of G, the mean over i
    of (n_i' delta_i) n_i x_i', has the variance V = sum_i (U |delta_i|^2 + |delta_il|^2) |x_i|^2 /
    N^2 for Gaussian noise, U and delta_il the layer's own; less for lighter tails. So the squared
    sine of the mean of m with G is about V / (m |G|^2 + V).

    Measured: the largest of the layers' 1 - cos |cos|, over that. Bound: 2.
    """
    probe = _Probe()
    with torch.enable_grad():
        outputs = [layer(x) for layer, x in zip(probe.layers, probe.inputs, strict=True)]
        deltas = torch.autograd.grad(probe.loss(outputs).sum(), outputs)  # (N, U) each
    every = sum(delta.double().square().sum(1) for delta in deltas)
    step = make_step(probe, LR, SIGMA, 4)
    totals = [torch.zeros_like(w, dtype=torch.float64) for w in probe.start]
    for _ in range(steps):
        probe.step(step)
        for total, update in zip(totals, probe.updates(), strict=True):
            total -= update
    ratios = []
    for total, delta, x in zip(totals, deltas, probe.inputs, strict=True):
        n, units = delta.shape
        gradient = (delta.T @ x / n).double()
        spread = units * every + delta.double().square().sum(1)
        variance = float((spread * x.double().square().sum(1)).sum()) / n**2
        expected = variance / (steps * float(gradient.square().sum()) + variance)
        cosine = float((total * gradient).sum() / (total.norm() * gradient.norm()))
        ratios.append((1 - cosine * abs(cosine)) / expected)
    detail = (
        f"squared sine of the mean of {steps} steps with a layer's gradient, over that expected"
    )
    return _within("node_gradient", max(ratios), 2.0, detail)


class _Probe(nn.Module):
    """Two linear layers beside each other, on inputs of mean 0, that keep a record."""

    def __init__(self, examples: int = 12, units: int = 6) -> None:
        super().__init__()
        self.generator = torch.Generator().manual_seed(20250107)
        self.layers = [nn.Linear(4, units) for _ in range(2)]
        self.after = [nn.Identity() for _ in range(2)]  # meet what the layers' hooks made
        self.modules_ = nn.ModuleList([*self.layers, *self.after])
        with torch.no_grad():
            for p in self.parameters():
                p.copy_(self._normal(*p.shape) / 2)
        self.inputs = [self._normal(examples, 4) for _ in range(2)]
        self.inputs = [x - x.mean(0) for x in self.inputs]
        self.target = self._normal(examples, units).double()
        self.start = [m.weight.detach().clone() for m in self.layers]
        self.biases = [m.bias.detach().clone() for m in self.layers]
        self.seen: list[list[Tensor]] = []  # a pass's outputs, of each layer
        self.losses: list[Tensor] = []
        self._times = 1.0

    def _normal(self, *shape: int) -> Tensor:
        return torch.randn(shape, generator=self.generator)

    def closure(self) -> Tensor:
        outputs = [
            after(layer(x))
            for after, layer, x in zip(self.after, self.layers, self.inputs, strict=True)
        ]
        self.seen.append([y.detach().double() for y in outputs])
        losses = self._times * self.loss(outputs)
        self.losses.append(losses.detach())
        return losses

    def loss(self, outputs: list[Tensor]) -> Tensor:
        """Of each example, (N,), in float64."""
        one, other = (y.double() for y in outputs)
        return (torch.tanh(one) * other + one - self.target).square().mean(1)

    def step(self, step: Step, times: float = 1.0) -> None:
        """A step from ``start``, of a loss that is multiplied by ``times``."""
        self.seen, self.losses, self._times = [], [], times
        with torch.no_grad():
            for m, weight, bias in zip(self.layers, self.start, self.biases, strict=True):
                m.weight.copy_(weight)
                m.bias.copy_(bias)
        step(self.closure)

    def noise(self) -> list[Tensor]:
        """That of each layer, (N, U), from the first pass to the last."""
        pairs = zip(self.seen[0], self.seen[-1], strict=True)
        return [(plus - minus) / (2 * SIGMA) for plus, minus in pairs]

    def updates(self) -> list[Tensor]:
        """What the step added to each layer's weights."""
        pairs = zip(self.layers, self.start, strict=True)
        return [(m.weight.detach() - start).double() for m, start in pairs]


def _within(check: str, measured: float, bound: float, detail: str) -> Finding:
    return Finding(check, measured <= bound, measured, bound, detail)
