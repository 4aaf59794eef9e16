"""What else could teach beside nodes: queries, label smoothing, momentum, Flipout.

``python examples/node_variants.py --data mnist --held-out 5000``. LeNet-5 by full ZO with node
perturbation on its linear layers, in as many forward passes for each variant:

    plain      two passes a step; the convolutions by weight perturbation
    plain-lr   the same, where the weights' learning rate is what has three values
    queries-4  eight passes a step, a quarter of the steps
    smoothing  labels that keep 0.9 for the class and share 0.1 among all
    momentum   each update of the convolutions with those of the last 16 steps, 0.9^i of each
    flipout    each example has signs of its own on the convolutions' noise (Wen et al. 2018)

Flipout's noise of example i is z * (r_i s_i'), with signs r_i for each output and s_i for each
input channel. So an example's difference d_i tells of its own direction, as with nodes:
W <- W - lr z * mean_i (d_i / eps) r_i s_i'. It takes a convolution more in each pass, and memory
for its output.

Every variant has three values to choose from, of the one number named beside it, and is judged on
training examples that were held out.
"""

import contextlib
import functools
import math
from collections.abc import Iterator
from dataclasses import dataclass

import torch
import trials
from torch import Tensor, nn

import ezo
from ezo.examples import seed_of
from ezo.optim import Update
from ezo.run import Run, build, load

# Each with the number that its three values multiply.
VARIANTS = {
    "plain": "lr_node",
    "plain-lr": "lr",
    "queries-4": "lr_node",
    "smoothing": "lr_node",
    "momentum": "lr",
    "flipout": "lr",
}
FACTORS = (0.5, 1.0, 2.0)


@dataclass(frozen=True)
class Setting:
    """How all variants train."""

    data: str
    passes: int = 8000
    held_out: int = 5_000
    seed: int = 1000
    lr: float = 3e-4
    lr_node: float = 0.008
    eps: float = 0.004
    clip: float = 7.0
    smoothing: float = 0.1
    beta: float = 0.9
    history: int = 16  # updates that momentum makes again, this step's with them
    lr_flipout: float = 0.004
    clip_flipout: float = 3.0  # bound on an example's d_i, in eps, as for nodes
    batch_size: int = 32


class Trainer:
    """A variant of full ZO with nodes; its own steps move what the variant leaves to them."""

    def __init__(self, model: nn.Module, name: str, factor: float, setting: Setting) -> None:
        self.model, self.setting = model, setting
        self.queries = 4 if name == "queries-4" else 1
        of = {"lr": 1.0, "lr_node": 1.0, VARIANTS[name]: factor}
        # four queries have a quarter of the variance, and a quarter of the steps
        self.lr = setting.lr * of["lr"] * self.queries
        self.lr_node = setting.lr_node * of["lr_node"] * self.queries
        self.smoothing = setting.smoothing if name == "smoothing" else 0.0
        self.momentum = Momentum(model, setting) if name == "momentum" else None
        self.flipout = Flipout(model, factor, setting) if name == "flipout" else None
        self.optimizer = ezo.ElasticZO(
            model,
            bp=0,
            lr=0.0 if self.momentum else self.lr,
            eps=setting.eps,
            clip=setting.clip,
            queries=self.queries,
            nodes=ezo.Nodes(lr=self.lr_node),
            seed=setting.seed,
        )
        self.rates = [group["lr"] for group in self.optimizer.param_groups]

    def step(self, x: Tensor, y: Tensor, course: float) -> float:
        """One step at a fraction of the rates; returns the loss."""
        for group, rate in zip(self.optimizer.param_groups, self.rates, strict=True):
            group["lr"] = rate * course
        found: list[Tensor] = []

        def closure() -> Tensor:
            logits = self.model(x)
            losses = nn.functional.cross_entropy(
                logits, y, reduction="none", label_smoothing=self.smoothing
            )
            found.append(losses.detach())
            return losses

        with self.flipout.passes() if self.flipout else contextlib.nullcontext():
            loss = float(self.optimizer.step(closure))
        if self.flipout:
            self.flipout.learn((found[0] - found[1]) / 2, course)
        if self.momentum:
            self.momentum.learn(self.optimizer, self.lr * course)
        return loss


class Momentum:
    """The convolutions' last updates, made again from their seeds and scalars."""

    def __init__(self, model: nn.Module, setting: Setting) -> None:
        self.setting = setting
        rest = [p for m in model.modules() if isinstance(m, nn.Linear) for p in m.parameters()]
        for p in rest:
            p.requires_grad_(False)
        # The first tensors of the model's, so that their noise is that of the optimiser with nodes.
        self.replayer = ezo.ElasticZO(model, bp=0, lr=0.0, eps=setting.eps, seed=setting.seed)
        for p in rest:
            p.requires_grad_(True)
        self.scalars: list[tuple[int, float]] = []
        self.steps = 0

    def learn(self, optimizer: ezo.ElasticZO, lr: float) -> None:
        (estimate,) = optimizer.estimates
        g = (estimate.loss_plus - estimate.loss_minus) / (2 * self.setting.eps)
        g = max(-self.setting.clip, min(self.setting.clip, float(g)))
        self.scalars = [(self.steps, g), *self.scalars][: self.setting.history]
        self.steps += 1
        lr *= 1 - self.setting.beta  # by which updates add up
        self.replayer.replay(
            [
                (Update(self.setting.seed, step, 0, ((self.setting.eps, lr * b * g, 0.0),)),)
                for (step, g), b in self._weighted()
            ]
        )

    def _weighted(self) -> Iterator[tuple[tuple[int, float], float]]:
        powers = [self.setting.beta**i for i in range(len(self.scalars))]
        return reversed(list(zip(self.scalars, powers, strict=True)))


class Flipout:
    """Noise on the weights of convolutions, with signs of each example's own."""

    def __init__(self, model: nn.Module, factor: float, setting: Setting) -> None:
        self.setting, self.lr = setting, setting.lr_flipout * factor
        self.convolutions = [m for m in model.modules() if isinstance(m, nn.Conv2d)]
        self.parameters = [p for m in self.convolutions for p in (m.weight, m.bias)]
        for p in self.parameters:
            p.requires_grad_(False)  # the optimiser leaves them alone
        self.generator = torch.Generator().manual_seed(seed_of(setting.seed, 2))
        self.noise: list[tuple[Tensor, ...]] = []

    @contextlib.contextmanager
    def passes(self) -> Iterator[None]:
        """Within, the first pass meets +eps, the second -eps, times the same noise."""
        self.noise, side, calls = [], [1.0], [0]
        removed = []

        def hook(place: int, m: nn.Conv2d, args: tuple[Tensor, ...], y: Tensor) -> Tensor:
            (x,) = args
            if side[0] > 0:
                self.noise.append(self._drawn(m, len(x)))
            z, z_bias, r, s = self.noise[place]
            own = nn.functional.conv2d(x * s, z, None, m.stride, m.padding) * r
            calls[0] += 1
            by = self.setting.eps * side[0]
            if calls[0] == len(self.convolutions):
                side[0] = -1.0
            return y + by * (own + z_bias.view(1, -1, 1, 1) * r)

        for place, m in enumerate(self.convolutions):
            removed.append(m.register_forward_hook(functools.partial(hook, place)))
        try:
            yield
        finally:
            for handle in removed:
                handle.remove()

    def _drawn(self, m: nn.Conv2d, n: int) -> tuple[Tensor, ...]:
        """z of weight and bias, and signs r, (N, O, 1, 1), and s, (N, C, 1, 1)."""
        g = self.generator
        z = torch.randn(m.weight.shape, generator=g)
        z_bias = torch.randn(len(m.weight), generator=g)
        sizes = (len(m.weight), m.weight.shape[1])
        r, s = (torch.randint(2, (n, k, 1, 1), generator=g) * 2.0 - 1 for k in sizes)
        return z, z_bias, r, s

    @torch.no_grad()
    def learn(self, d: Tensor, course: float) -> None:
        """From the examples' differences, (N,)."""
        bound = self.setting.clip_flipout * self.setting.eps
        for p, estimate in zip(
            self.parameters, self.estimates(d.clamp(-bound, bound)), strict=True
        ):
            p.sub_(estimate, alpha=self.lr * course)

    def estimates(self, d: Tensor) -> list[Tensor]:
        """Of the gradients of `parameters`."""
        scale, found = d / (self.setting.eps * len(d)), []
        for z, z_bias, r, s in self.noise:
            signs = torch.einsum("n,no,nc->oc", scale, r.flatten(1), s.flatten(1))
            found += [z * signs[:, :, None, None], z_bias * (scale @ r.flatten(1))]
        return found


def trained(name: str, factor: float, setting: Setting) -> float:
    """Accuracy on the held-out examples, in %, after all passes; the rates fall as a cosine."""
    run = Run("lenet5", setting.data, "full-zo", seed=setting.seed, held_out=setting.held_out)
    data = load(run)
    torch.set_num_threads(1)
    model = build(run, data.classes, data.channels)
    trainer = Trainer(model, name, factor, setting)
    steps = setting.passes // (2 * trainer.queries)
    generator = torch.Generator().manual_seed(seed_of(setting.seed, 1))
    order: list[Tensor] = []
    for t in range(steps):
        if not order:
            size = setting.batch_size
            at = torch.randperm(len(data.train_x), generator=generator)
            order = [part for part in at.split(size) if len(part) == size]
        chosen = order.pop()
        course = (1 + math.cos(math.pi * t / steps)) / 2
        if not math.isfinite(trainer.step(data.train_x[chosen], data.train_y[chosen], course)):
            return 100.0 / data.classes
    return trials.accuracy(model, data)


def main() -> None:
    """The command line."""
    parser = trials.parser(__doc__, list(VARIANTS), FACTORS)
    parser.add_argument("--passes", type=int, default=8000, help="of a training")
    parser.add_argument("--lr-node", type=float, default=Setting.lr_node, help="nodes' rate")
    given = parser.parse_args()
    own = {"passes": given.passes, "held_out": given.held_out, "lr_node": given.lr_node}
    trials.table(
        "node-variants",
        given,
        lambda seed: Setting(given.data, seed=seed, **own),
        trained,
    )


if __name__ == "__main__":
    main()
