"""A trained network as ONNX: how often onnxruntime gives our class, on a whole test set."""

import tempfile
from collections.abc import Iterator
from pathlib import Path

import torch

from ezo import rows
from ezo.export import as_onnx
from ezo.int8 import Int8Tensor, quantize
from ezo.rows import Row
from ezo.run import Run, build, load

RUN = Run("lenet5", "mnist", "elastic-2", "int8", epochs=1)
CALIBRATION = 256  # training examples that set ONNX's scales


def measure(steps: int | None) -> Iterator[Row]:
    """``same_class``: % of the test set; ``accuracy``: ours there, %.

    Args:
        steps: of training; None for an epoch.
    """
    settled = RUN.settled()
    data = load(settled)
    n = len(data.train_x) // RUN.batch_size if steps is None else steps
    model = build(settled, data.classes, data.train_x.shape[1])
    made = settled.files["precision"].make_step(
        RUN.precision, model, RUN.method, settled.run.hyper, RUN.seed
    )
    network, e, x = made.model, quantize(data.train_x).e, made.calibrate(data.train_x)
    order = torch.randperm(len(x), generator=torch.Generator().manual_seed(RUN.seed))
    for step in range(n):
        chosen = order[step * RUN.batch_size :][: RUN.batch_size]
        made.schedule(step, n)
        made(x[chosen], data.train_y[chosen])
    seen, test = x[order[:CALIBRATION]], made.encode(data.test_x)
    accuracy = made.static_accuracy(test, data.test_y, seen)
    network.calibrate(Int8Tensor(seen, e)).eval()  # fixed scales, as ONNX has
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "network.onnx"
        as_onnx.write(network, Int8Tensor(seen, e), path)
        same = as_onnx.agreement(network, Int8Tensor(test, e), path)
    for metric, value in (("same_class", 100 * same), ("accuracy", accuracy)):
        yield Row(
            case=f"{RUN.model}-{RUN.method}-{RUN.data}@onnxruntime",
            metric=metric,
            value=float(value),
            unit="%",
            note=f"{len(test)} test examples, after {n} steps",
            model=RUN.model,
            data=RUN.data,
            method=RUN.method,
            precision=RUN.precision,
            device="onnxruntime",
            config={"batch_size": RUN.batch_size},
            **rows.provenance(),
        )
