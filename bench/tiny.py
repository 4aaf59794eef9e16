"""The networks of MLPerf Tiny: a step's bytes and time, fp32 over int8.

Three steps of a method on one batch of random data: in fp32 as the network is, with batch norm; in
fp32 without, biases in its place (``fp32_plain``), which is what integers train; and in int8. Bytes
are exact (`bench.memory`); times are of one process, rounds A B .. B A (`bench.timing`). The
autoencoder has the squared error, the others cross-entropy.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import nn

import ezo
from bench.memory import warm_peak_bytes
from bench.timing import in_turn, interval
from bench.workload import Workload, row_of
from ezo import catalogue, int8
from ezo.models import _autoencoder
from ezo.rows import Row

MODELS = ("resnet8", "ds_cnn", "mobilenet_v1_025", "autoencoder")
METHODS = ("inference", "full-zo", "elastic-1")
ROUNDS, VISIT_SECONDS = 11, 0.1
COST = (8 * ROUNDS * VISIT_SECONDS, 0)
SMOKE = {"rounds": 2, "visit_seconds": 0.001}
WAYS = ("fp32", "fp32_plain", "int8")

Made = tuple[nn.Module, Callable[[], Any]]


@dataclass(frozen=True)
class Tiny:
    """A method on one of the networks, in fp32 with batch norm and without, and in int8."""

    model: str
    method: str
    batch_size: int
    threads: int = 1
    device: str = "cpu"

    @property
    def name(self) -> str:
        """Model, method, batch size, threads, and a device but the CPU."""
        place = "" if self.device == "cpu" else f"-{self.device.replace(':', '')}"
        threads = f"threads{self.threads}{place}"
        return f"{self.model}-{self.method}-batch{self.batch_size}-{threads}-tiny"


def cases(model: str, method: str, batch_size: int) -> list[Tiny]:
    """A method on a network."""
    return [Tiny(model, method, batch_size)]


def measure(case: Tiny, rounds: int = ROUNDS, visit_seconds: float = VISIT_SECONDS) -> list[Row]:
    """``peak_tensor_bytes`` and ``step_seconds`` of each, and both of fp32's over int8's."""
    torch.set_num_threads(case.threads)
    sizes = {way: warm_peak_bytes(*prepared(case, way)) for way in WAYS}
    steps = {way: prepared(case, way)[1] for way in WAYS}
    samples = in_turn(steps, case.device, rounds, visit_seconds)
    times = {way: torch.tensor(seconds) for way, seconds in samples.items()}
    config = {"batch_size": case.batch_size}
    found = []
    for way in WAYS:
        of = {**config, "way": way}
        found.append(row_of(case, "peak_tensor_bytes", sizes[way], "B", "", of))
        found.append(row_of(case, "step_seconds", times[way].median().item(), "s", "", of))
        found[-2:] = [replace(row, precision=way.partition("_")[0]) for row in found[-2:]]
    for way in WAYS[:2]:
        ratios = times[way] / times["int8"]
        low, high = interval(ratios)
        note = f"95 % interval {low:.2f} to {high:.2f}"
        own = [row_of(case, f"{way}_over_int8", ratios.median().item(), "1", note, config)]
        note = f"{sizes[way]:,} B over {sizes['int8']:,} B"
        ratio = sizes[way] / sizes["int8"]
        own.append(row_of(case, f"{way}_bytes_over_int8", ratio, "1", note, config))
        found += [replace(row, precision="int8") for row in own]
    return found


def table(rows: list[Row]) -> str:
    """A line for each cell."""
    columns = [f"{way}_{what}over_int8" for what in ("bytes_", "") for way in WAYS[:2]]
    lines = ["| cell | bytes, fp32 / int8 | bytes, without batch norm | time | time, without |"]
    lines.append("| --- | --: | --: | --: | --: |")
    for name in dict.fromkeys(row.case for row in rows):
        own = {row.metric: row.value for row in rows if row.case == name}
        if own.keys() >= set(columns):
            values = " | ".join(f"{own[column]:.2f}" for column in columns)
            lines.append(f"| {name.removesuffix('-tiny')} | {values} |")
    return "\n".join(lines)


def prepared(case: Tiny, way: str) -> Made:
    """The model, and the function that does one step and returns the loss."""
    plain = way != "fp32"
    if case.model == "autoencoder":
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            model = _autoencoder.build(plain=plain)
            x = torch.randn(case.batch_size, _autoencoder.FEATURES)
        if case.device != "cpu":
            model, x = model.to(case.device), x.to(case.device)
        make = _integers if way == "int8" else _floats
        return make(model, x, case.method)
    name = f"{case.model}-plain"
    try:
        catalogue.find("model", name)
    except ValueError:  # one without batch norm
        name = case.model
    precision = "int8" if way == "int8" else "fp32"
    of = Workload(
        name if plain else case.model,
        case.method,
        case.batch_size,
        precision=precision,
        threads=case.threads,
        device=case.device,
    )
    return of.prepare()


def _bp(method: str) -> int:
    found: int = catalogue.find("method", method).parts(method).bp
    return found


def _floats(model: nn.Module, x: torch.Tensor, method: str) -> Made:
    def closure() -> torch.Tensor:
        return nn.functional.mse_loss(model(x), x)

    if method == "inference":
        return model, torch.no_grad()(closure)
    optimizer = ezo.ElasticZO(model, bp=_bp(method), lr=1e-4, eps=1e-3)
    return model, lambda: optimizer.step(closure)


def _integers(model: nn.Module, x: torch.Tensor, method: str) -> Made:
    hyper = catalogue.find("precision", "int8").default("full-zo")
    network, batch = int8.from_float(model, headroom=hyper.r_max), int8.quantize(x)

    def closure() -> int8.SquaredError:
        return int8.SquaredError(network(batch), batch)

    if method == "inference":
        return network, lambda: torch.no_grad()(closure)().mean()
    optimizer = int8.ElasticZO(
        network,
        _bp(method),
        rate=hyper.rate,
        mu=hyper.mu,
        magnitude=hyper.magnitude,
        fraction=hyper.fraction > 0,
    )
    return network, lambda: optimizer.step(closure).mean()
