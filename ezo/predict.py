"""``ezo predict`` and ``ezo eval``: what a run learned, on other examples."""

import argparse
import csv
import io
import sys
from pathlib import Path

import torch
from torch import Tensor

from ezo import catalogue, check
from ezo.data import _own
from ezo.files import write_text
from ezo.precisions import EVALUATION_BATCH
from ezo.restore import Restored, restored


def add_predict(parser: argparse.ArgumentParser) -> None:
    """What ``ezo predict`` takes."""
    _add(parser)
    parser.add_argument("--out", type=Path, help="file for the CSV; by default it is printed")


def add_eval(parser: argparse.ArgumentParser) -> None:
    """What ``ezo eval`` takes."""
    _add(parser)


def _add(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add("--from", dest="run", type=Path, required=True, help="folder of a run: --out of ezo train")
    data = "a folder of images, a file.npz, a file.csv, or a data set that `ezo list` shows"
    whole = "its test set if it has one, else all of it; by eval, of what the run was trained on, "
    whole += "the fifth that was kept from the training"
    add("--data", required=True, help=f"{data}: {whole}")
    add("--model", help="package.module:function, if the run's model is one")
    add("--data-root", type=Path, help="folder of the data sets; by default EZO_DATA, else data")
    add("--device", default="cpu", help="cpu, cuda or another torch device")


def command_predict(given: argparse.Namespace) -> int:
    """Write a line for each example: its name, the class, the class's probability, the label."""
    run, examples = _opened(given)
    text = io.StringIO()
    table = csv.writer(text, lineterminator="\n")
    known = [] if examples.y is None else [[run.labels[k]] for k in examples.y.tolist()]
    table.writerow(["example", "predicted", "probability", *(["label"] if known else [])])
    best, which = logits(run, examples.x).softmax(1).max(1)
    found = zip(examples.names, best.tolist(), which.tolist(), strict=True)
    for i, (name, probability, k) in enumerate(found):
        label = run.labels[k] if k < len(run.labels) else f"output {k}"
        table.writerow([name, label, f"{probability:.4f}", *(known[i] if known else [])])
    if given.out is None:
        sys.stdout.write(text.getvalue())
    else:
        write_text(given.out, text.getvalue())
    return 0


def command_eval(given: argparse.Namespace) -> int:
    """Print accuracy, loss and the number of examples; of the run's own data, those it tests on."""
    run, examples = _opened(given, testing=True)
    if examples.y is None:
        raise ValueError(
            f"{given.data}: expected labels to compare with, got none; use ezo predict"
        )
    device = torch.device(given.device)
    encoded = run.step.encode(examples.x).to(device)
    accuracy, loss = run.step.evaluate(encoded, examples.y.to(device))
    print(f"accuracy {accuracy:.4f} %")
    print(f"loss {loss:.4f} nat")
    print(f"examples {len(examples.x):,}")
    return 0


def logits(run: Restored, x: Tensor) -> Tensor:
    """Of scaled examples, in batches of `EVALUATION_BATCH`; float32, (N, outputs)."""
    device = next(run.step.model.parameters()).device
    encoded = run.step.encode(x)
    return torch.cat([run.step.logits(b.to(device)).cpu() for b in encoded.split(EVALUATION_BATCH)])


def _opened(given: argparse.Namespace, testing: bool = False) -> tuple[Restored, _own.Given]:
    check.device(given.device)
    run = restored(given.run, given.model, given.device)
    if not run.step.predict_alone():
        raise ValueError(
            f"{given.run}: expected integer weights with the calibration of their shifts, got some "
            "without, of a run before it was kept; train again, or go on with the run"
        )
    file = catalogue.find("data", given.data)
    if file is _own:
        if run.scale is None:
            raise ValueError(
                f"expected a data set that `ezo list` shows, for {run.settled.run.data} scaled the "
                f"training's examples, got {given.data}; train on data of your own"
            )
        if testing and _same(given.data, run.settled.run.data):
            kept = file.load(given.data, given.data_root)
            names = [str(i) for i in range(len(kept.test_x))]
            return run, _own.Given(kept.test_x, kept.test_y, names)
        return run, _own.given(given.data, run.scale, run.labels, run.shape)
    data = file.load(given.data, given.data_root)
    if data.test_x.shape[1:] != run.shape or data.classes != len(run.labels):
        raise ValueError(
            f"expected examples of shape {run.shape} in {len(run.labels)} classes, as the run was "
            f"trained on, got {tuple(data.test_x.shape[1:])} in {data.classes} from {given.data}; "
            "give data as those of the training"
        )
    return run, _own.Given(data.test_x, data.test_y, [str(i) for i in range(len(data.test_x))])


def _same(one: str, other: str) -> bool:
    """Whether two names are of one place."""
    return Path(one).resolve() == Path(other).resolve()
