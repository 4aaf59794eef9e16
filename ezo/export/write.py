"""A network and its training as a folder of C that any build system of the field takes."""

import functools
import shutil
import zlib
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import torch

from ezo.export import arena, kinds, templates
from ezo.export.arena import Arena
from ezo.export.describe import Problem, describe, dynamic, exponents, twin
from ezo.files import write_text
from ezo.int8 import ElasticZO, Int8Tensor, Loss
from ezo.int8.network import Network

NONE = "EZO_NONE"
CHECK_STEPS = 3  # of the self-test
CHECK_SPAN = 256  # its examples are windows of one row of numbers, which begin within so many
CORE = ("ezo.c", "ezo_loss.c", "ezo_noise.c", "ezo_state.c")
HEADERS = ("ezo.h", "ezo_dsp.h", "ezo_inside.h")


def write(
    network: Network,
    optimizer: ElasticZO | None = None,
    *,
    x: Int8Tensor,
    batch: int = 1,
    out: Path | str,
    ram: int | None = None,
    dsp: bool = True,
    way: arena.Way | None = None,
    check: bool = True,
) -> Arena:
    """Write C that goes on with this training on a microcontroller, to the same bits.

    Args:
        network: an integer network (`ezo.int8.from_float`), as it is now.
        optimizer: its optimiser, as it is now; None for prediction alone.
        x: examples, (n, ...), one or more: their shape and exponent are the device's, their
            numbers the self-test's.
        batch: examples a step.
        out: folder; files of the same names are replaced.
        ram: bytes of the part's RAM, which the arena and 2 KiB of stack must fit.
        dsp: whether to use two products an instruction where the processor can.
        way: how to run a batch; None for the fastest that fits.
        check: whether the self-test has its golden values, which takes three steps of training.

    Returns:
        Where every byte lies.

    Raises:
        ValueError: a layer or an option has no C form, or nothing fits ``ram``.
    """
    problem = describe(network, optimizer, x)
    for stage in problem.stages:
        kinds.find(stage)
    planned = arena.plan(problem, batch if problem.trains else 1, ram, dsp=dsp, way=way)
    out = Path(out)
    (out / "src").mkdir(parents=True, exist_ok=True)
    (out / "zephyr").mkdir(exist_ok=True)
    files = [*CORE, *dict.fromkeys(kinds.find(stage).file for stage in problem.stages)]
    for name in (*files, *HEADERS):
        shutil.copy(kinds.RUNTIME / name, out / "src" / name)
    sources = [*files, "ezo_model.c", "ezo_check.c"]
    with dynamic(network):
        levels = exponents(network, x)
        checked = _check(network, optimizer, x, problem, planned.batch if check else 0)
    texts = {
        "src/ezo_config.h": templates.config(planned.way.dsp),
        "src/ezo_model.h": _header(problem, planned),
        "src/ezo_model.c": _model(problem, planned, levels),
        "src/ezo_check.c": checked,
        "arena.txt": templates.arena_map(planned, problem),
        **templates.projects(sources),
    }
    for name, text in texts.items():
        write_text(out / name, text)
    return planned


def _header(problem: Problem, planned: Arena) -> str:
    stages = problem.stages
    return templates.header(
        {
            "ARENA_BYTES": planned.total,
            "BATCH": planned.batch,
            "INPUT_BYTES": int(np.prod(stages[0].inputs)),
            "INPUT_EXPONENT": problem.input_exponent,
            "CLASSES": stages[-1].outputs[0],
            "TRAINED": problem.trained,
            "RATE": problem.rate,
            "MU": problem.mu,
            "STATE_FILE_BYTES": 20 + problem.trained * (1 if problem.fractions is None else 2),
        }
    )


def _model(problem: Problem, planned: Arena, levels: list[int]) -> str:
    fraction = None
    if problem.fractions is not None:
        fraction = np.concatenate(problem.fractions)
        fraction = None if (fraction == 128).all() else fraction
    rows, fields = _layers(problem, planned, levels), _fields(problem, planned)
    fields["fraction"] = "NULL" if fraction is None else "fraction"
    return templates.model(rows, fields, problem.weights, fraction)


def _layers(problem: Problem, planned: Arena, levels: list[int]) -> list[dict[str, Any]]:
    """An `ezo_layer` for each stage."""
    rows, at = [], 0
    for i, stage in enumerate(problem.stages):
        weight, bias = NONE, NONE
        if stage.weight is not None:
            weight, at = str(at), at + len(stage.weight)
        if stage.bias is not None:
            bias, at = str(at), at + len(stage.bias)
        image = stage.inputs if len(stage.inputs) == 3 else (stage.inputs[0], 1, 1)
        row = {
            "kind": f"&ezo_{stage.kind}",
            "weight": weight,
            "bias": bias,
            "weights": 0 if stage.weight is None else len(stage.weight),
            "biases": 0 if stage.bias is None else len(stage.bias),
            "channels": image[0],
            "height": image[1],
            "width": image[2],
            "outputs": stage.outputs[0],
            "kernel": stage.kernel,
            "padding": stage.padding,
            "level": levels[i],
            "weight_e": stage.weight_exponent,
            "bias_e": stage.bias_exponent,
            "relu": int(stage.relu),
            "pool": stage.pool,
            "windowed": int(planned.way.windowed[i]),
        }
        rows.append(row | _where(i, problem, planned))
    return rows


def _where(i: int, problem: Problem, planned: Arena) -> dict[str, Any]:
    """Where a stage's input, output and errors lie, and how far apart examples do."""
    stage, places, ends = problem.stages[i], planned.places, planned.way.ends
    last, first = i == len(problem.stages) - 1, i == 0
    before, one = int(np.prod(stage.inputs)), int(np.prod(stage.outputs))
    return {
        "in": before,
        "out": one,
        "in_at": places.get("input", NONE) if first else places[f"out {i - 1}"],
        "in_step": before if first or ends[i - 1] else 0,
        "out_at": places["logits" if last else f"out {i}"],
        "out_step": 4 * one if last else one if ends[i] else 0,
        "err_at": places.get(f"err {i}", NONE),
    }


def _fields(problem: Problem, planned: Arena) -> dict[str, Any]:
    """An `ezo_model`'s, but for the fraction."""
    places = planned.places
    return {
        "layers": "layers",
        "weights": "weights",
        "seed": f"{problem.seed}u" + ("ll" if problem.seed >> 32 else ""),
        "steps": f"{problem.steps}u",
        "identity": f"{problem.identity}u",
        "frozen": problem.frozen,
        "trained": problem.trained,
        "arena_bytes": "EZO_ARENA_BYTES",
        "weights_at": places.get("weights", 0),
        "fraction_at": places.get("fraction", NONE),
        "input_at": places.get("input", NONE),
        "logits_at": places["logits"],
        "moves_at": places.get("moves", 0),
        "scratch_at": places["scratch"],
        "batch": planned.batch,
        "classes": problem.stages[-1].outputs[0],
        "queries": problem.queries,
        "threshold": problem.threshold,
        "multiplier": problem.multiplier,
        "largest_difference": f"{problem.largest_difference}u",
        "input_e": problem.input_exponent,
        "bound": problem.bound,
        "layer_count": len(problem.stages),
        "first_trained": problem.first_trained,
        "zo_end": max(problem.first_trained, problem.first_bp),
        "first_bp": problem.first_bp,
        "magnitude": f"EZO_{problem.magnitude.upper()}",
        "gradient": f"EZO_{problem.gradient.upper()}",
    }


def _check(
    network: Network, optimizer: ElasticZO | None, x: Int8Tensor, problem: Problem, batch: int
) -> str:
    """The self-test: Python's own steps on windows of ``x``, and what they came to."""
    inputs, classes = int(np.prod(problem.stages[0].inputs)), problem.stages[-1].outputs[0]
    flat = x.m.detach().cpu().flatten()[: inputs + CHECK_SPAN]
    pool = flat.repeat(-(-(inputs + CHECK_SPAN) // len(flat)))[: inputs + CHECK_SPAN]
    shape = (-1, *problem.stages[0].inputs)

    def windows(first: int, n: int) -> Int8Tensor:
        places = [k * 37 % CHECK_SPAN for k in range(first, first + n)]
        return Int8Tensor(torch.stack([pool[p : p + inputs] for p in places]).view(shape), x.e)

    with torch.no_grad():
        logits = [network(windows(k, 1)).m.flatten() for k in range(4)]
    digests: list[int] = []
    if optimizer is not None and batch:
        network, optimizer = twin(network, optimizer)
        for step in range(CHECK_STEPS):
            given = windows(step * batch, batch)
            labels = torch.arange(step * batch, (step + 1) * batch) % classes
            optimizer.step(functools.partial(_loss, network, given, labels))
            digests.append(digest(optimizer))
    predicted = [int(row.tolist().index(int(row.max()))) for row in logits]
    return templates.check(pool.tolist(), digests, predicted, CHECK_SPAN)


def _loss(network: Network, x: Int8Tensor, labels: torch.Tensor) -> Loss:
    return Loss(network(x), labels)


def digest(optimizer: ElasticZO) -> int:
    """CRC-32 of the trained weights, then their fractions: `ezo_digest` of the device."""
    parameters = [p for group in optimizer.param_groups for p in group["params"]]
    fractions = [optimizer.state[p]["fraction"] for p in parameters if p in optimizer.state]
    return zlib.crc32(b"".join(_bytes(parameters) + _bytes(fractions)))


def _bytes(tensors: Iterable[Any]) -> list[bytes]:
    return [t.detach().cpu().contiguous().numpy().tobytes() for t in tensors]
