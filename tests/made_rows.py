"""Rows of made-up runs and measurements, for tests of what is judged and drawn from rows."""

from dataclasses import replace

from ezo.rows import Row

CONFIG = {
    "epochs": 2,
    "batch_size": 32,
    "lr": 1e-3,
    "eps": 1e-3,
    "clip": 5.0,
    "bp_lr": 0.01,
    "momentum": 0.9,
    "schedule": "cosine",
}


def run_rows(
    method,
    seed,
    accuracy,
    *,
    data="mnist",
    precision="fp32",
    end="finished",
    first=10.0,
    checksum="ab" * 32,
    **config,
):
    """The rows of a run of two epochs, which ends with ``accuracy`` after half of it."""
    tag = "-".join(f"{name}{value}" for name, value in config.items())
    row = Row(
        case=f"lenet5-{data}-{method}-{precision}-{seed}{tag}",
        metric="",
        value=None,
        unit="%",
        model="lenet5",
        data=data,
        method=method,
        precision=precision,
        seed=seed,
        config={**CONFIG, **config},
        data_checksum=checksum,
    )
    found = []
    for step, value in ((0, first), (5, accuracy / 2), (10, accuracy)):
        at = replace(row, step=step)
        found.append(replace(at, metric="test_accuracy", value=value))
        found.append(replace(at, metric="test_loss", value=1.0, unit="nat"))
        if step:
            found.append(replace(at, metric="train_seconds", value=step / 10, unit="s"))
            found.append(replace(at, metric="forward_passes", value=2 * step, unit="pass"))
    return [*found, replace(row, metric=end, value=10, unit="step", step=10, note="why")]


def cell_rows(metric, values, *, precision="fp32", unit="B", **config):
    """A benchmark's rows: one for each method, or several where a list of values is given."""
    return [
        Row(
            case=f"{metric}-{method}-{precision}",
            metric=metric,
            value=value,
            unit=unit,
            model="lenet5",
            method=method,
            precision=precision,
            config={"batch_size": 32, **config},
        )
        for method, found in values.items()
        for value in (found if isinstance(found, list) else [found])
    ]


def everything():
    """Rows for every claim and every figure."""
    made = []
    for seed in (0, 1, 2):
        for method, accuracy in (
            ("full-zo", 80.0),
            ("elastic-1", 88.0),
            ("elastic-2", 97.0),
            ("tail-only-1", 85.0),
            ("full-bp", 98.0),
        ):
            made += run_rows(method, seed, accuracy + seed / 10)
            made += run_rows(method, seed, accuracy + 0.05 + seed / 9, precision="int8")
            tuned = run_rows(
                method, seed, accuracy, data="mnist-rot30", first=70.0, start="another-run"
            )
            made += tuned
        for method, accuracy in (("full-zo-node", 96.5), ("elastic-node-1", 97.0)):
            made += run_rows(method, seed, accuracy + seed / 7)
        made += run_rows("elastic-2", seed, 98.0 + seed / 8, experiment="queries", queries=4)
        made += run_rows("elastic-2", seed, 97.1, experiment="noises", noise="rademacher-1")
        for method, accuracy in (("elastic-2", 97.5), ("full-bp", 98.5)):
            end = accuracy + seed / 9
            made += run_rows(method, seed, end, precision="int8", experiment="long", queries=8)
    for eps in (1e-3, 4e-3):
        made += run_rows("full-zo", 0, 70 + 1000 * eps, eps=eps, experiment="sensitivity")
    peaks = {"inference": 1000, "full-zo": 1010, "elastic-1": 1020, "full-bp": 2000}
    peaks["full-zo-node"] = 1005
    made += cell_rows("peak_tensor_bytes", peaks)
    made += cell_rows("peak_tensor_bytes", {m: x / 2 for m, x in peaks.items()}, precision="int8")
    times = {"full-zo": [4.0, 4.1, 4.2], "elastic-1": [5.0, 5.1, 5.2]}
    made += cell_rows("turn_seconds", times, unit="s")
    made += cell_rows(
        "turn_seconds",
        {m: [x / 3 for x in values] for m, values in times.items()},
        precision="int8",
        unit="s",
    )
    made += cell_rows("float_operations", {"full-zo": 0}, precision="int8", unit="1")
    for kind in ("parameters", "activations", "gradients", "optimizer", "scratch"):
        made += cell_rows(f"bytes_{kind}", {"full-zo": 300, "full-bp": 400})
    for phase in ("perturb", "forward", "loss", "backward", "update"):
        made += cell_rows(f"{phase}_seconds", {"full-zo": 1e-3, "full-bp": 2e-3}, unit="s")
    return made
