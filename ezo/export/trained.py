"""What is exported, as `ezo train` left it or as a run would begin, with its examples."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from ezo import checkpoint
from ezo.data import Dataset
from ezo.export import templates
from ezo.files import write_text
from ezo.int8 import ElasticZO, Int8Tensor, quantize
from ezo.int8.network import Network
from ezo.restore import settled_of
from ezo.run import Settled, begin, build, load

EXAMPLES = 8  # of the training set, for the self-test


@dataclass(frozen=True)
class Trained:
    """A network, its optimiser, and the data that they are trained on.

    Attributes:
        x: all training examples, int8 with one exponent, as in training.
    """

    settled: Settled
    network: Network
    optimizer: ElasticZO
    data: Dataset
    x: Int8Tensor

    @property
    def few(self) -> Int8Tensor:
        """Examples for the self-test."""
        return Int8Tensor(self.x.m[:EXAMPLES], self.x.e)

    def write_examples(self, n: int, out: Path, seed: int) -> int:
        """Up to n training examples, in an order by chance, for the device; returns how many.

        ``data.bin`` and ``labels.bin`` hold their bytes, ``src/examples.h`` the same as C:
        MY_EXAMPLES, my_data, my_labels.

        Raises:
            ValueError: a label does not fit a byte.
        """
        if self.data.classes > 256:
            raise ValueError(
                f"expected up to 256 classes, whose labels fit bytes, got {self.data.classes}; "
                "write the files from ezo.export.from_run"
            )
        order = torch.randperm(len(self.x.m), generator=torch.Generator().manual_seed(seed))[:n]
        x, y = self.x.m[order].numpy(), self.data.train_y[order].to(torch.uint8).numpy()
        x.tofile(out / "data.bin")
        y.tofile(out / "labels.bin")
        text = templates.examples(x.flatten().tolist(), y.tolist())
        write_text(out / "src" / "examples.h", text)
        return len(order)

    def set_rates(self, rate: int | None, mu: int | None) -> str:
        """Give the optimiser a rate and mu in place of its own; what it now has, in words.

        Raises:
            ValueError: it has no such part, or the number is out of range.
        """
        for name, value, zo in (("rate", rate, True), ("mu", mu, False)):
            groups = [g for g in self.optimizer.param_groups if g["zo"] == zo]
            if value is not None and not groups:
                what = "layers trained by ZO" if zo else "layers trained by BP"
                raise ValueError(f"expected no --{name} without {what}; leave it out")
            for group in groups if value is not None else ():
                group[name] = value
                self.optimizer._expect_values(group)
        begun = self.settled.run.hyper
        has = [
            f"EZO_{name.upper()} {group[name]} (the run began at {getattr(begun, name)})"
            for group in self.optimizer.param_groups
            for name in [("rate" if group["zo"] else "mu")]
        ]
        return f"{' and '.join(has)}; --rate and --mu set others"

    def inputs(self) -> str:
        """How a number of the user's becomes the device's, in words."""
        scale, e = self.data.scale, self.x.e
        if scale is None:
            return f"inputs: round(v / 2^{e}), v scaled as in training, within -127 and 127"
        mean, std = (", ".join(f"{v:.6g}" for v in of) for of in (scale.mean, scale.std))
        return (
            f"inputs: round((v - mean) / std / 2^{e}), within -127 and 127; of each column or "
            f"channel\n  mean {mean}\n  std {std}"
        )


def from_run(
    folder: Path | str, model: str | None = None, data_root: Path | None = None
) -> tuple[Network, ElasticZO, Int8Tensor]:
    """The network, optimiser and examples that ``ezo export --from`` writes.

    Args:
        folder: the --out of `ezo train --precision int8`. Its data set is read again.
        model: needed where the run's is ``package.module:function``: what a file says is no
            reason to run code.
        data_root: folder of the data sets.

    Returns:
        (network, optimizer, examples): all training examples, in their order.

    Raises:
        ValueError: there is no such run, or a damaged one, or one of another precision or model.
    """
    found = trained_by(Path(folder), model, data_root)
    return found.network, found.optimizer, found.x


def trained_by(folder: Path, model: str | None, root: Path | None) -> Trained:
    """What a run left; as `from_run`."""
    path = folder / "checkpoint.safetensors"
    if not path.exists():
        raise ValueError(
            f"expected a run's folder, with checkpoint.safetensors, got {folder}; give the "
            "--out of `ezo train --precision int8`"
        )
    state = checkpoint.load(path)
    with checkpoint.expected(path, "the state of a run"):
        settings = dict(state.get("settings", {}))
        precision = settings.get("precision", "one of old")
    if precision != "int8":
        raise ValueError(
            f"{path}: expected a run in int8, got {precision!r:.40}; train with --precision int8"
        )
    settled = settled_of(path, settings, model)
    made = fresh(settled, root)
    with checkpoint.expected(path, f"the state of {settled.case}"):
        checkpoint.restore(made.network, made.optimizer, state)
    return made


def fresh(settled: Settled, root: Path | None, weights: Path | None = None) -> Trained:
    """What a run would begin with; weights: a safetensors file of float ones, or None."""
    run, data = settled.run, load(settled, root)
    model = build(settled, data.classes, data.channels, data.size)
    begin(model, settled, data)
    if weights is not None:
        found = checkpoint.tensors(weights)
        with checkpoint.expected(weights, f"float weights of {run.model}"):
            model.load_state_dict(found)
    step: Any = settled.files["precision"].make_step("int8", model, run.method, run.hyper, run.seed)
    return Trained(settled, step.model, step.optimizer, data, quantize(data.train_x))
