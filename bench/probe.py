"""One side of the gate: a process that measures steps of the `ezo` that it finds installed.

The gate asks each side's own probe, so that `ezo` may change within. Between them stands a
protocol: commands come as JSON objects, one a line, on standard input; answers go out the same way.
An exception is an answer too: ``{"error": "..."}``. Protocol 1:

    about    {}                      -> ezo, its file; kernels; protocol, 1 where it is not said;
                                        definitions, by metric, 1 where it is not said
    exact    {cell, [plant]}         -> digest, peak_tensor_bytes
    prepare  {cell, [plant]}         -> seconds: warm up; about how long a step takes
    time     {steps, [clock]}        -> seconds: the fastest of some steps of what was prepared

A cell is the fields of a `bench.workload.Workload`; those not given are the usual ones. Both sides
must measure a metric in the same way: whoever changes what it means raises its definition.
"""

import gc
import hashlib
import json
import os
import sys
import time
from typing import Any

import torch
from torch import Tensor, nn

import ezo
from bench.memory import peak_bytes
from bench.timing import WARM_UP_STEPS, Step, check, visit
from bench.workload import Workload
from ezo import kernels

PROTOCOL = 1
# digest: SHA-256 of the losses of `DIGEST_STEPS` steps, and of the weights after them.
# peak_tensor_bytes: of the step after them. step_seconds: the fastest of a visit. What is measured
# otherwise on one kind of device has a definition of its own: on cuda by events, once by a clock.
DEFINITIONS = {"digest": 1, "peak_tensor_bytes": 1, "step_seconds": 1, "step_seconds on cuda": 2}
DIGEST_STEPS = 10
LEAK_BYTES = 64 * 1024
PLANTS = ("slowdown-2x", "slowdown-10%", "leak-64KiB")


class Probe:
    """Answers to commands; keeps the workload that is being timed."""

    def __init__(self) -> None:
        self.workload: Workload | None = None
        self.step: Step | None = None

    def about(self) -> dict[str, Any]:
        """Whose code this is, and what it speaks."""
        spoken = {"protocol": PROTOCOL, "definitions": DEFINITIONS}
        whose = {"ezo": ezo.__file__, "kernels": kernels.serving(), "torch": torch.__version__}
        return {**whose, **spoken}

    def exact(self, cell: dict[str, Any], plant: str = "") -> dict[str, Any]:
        """What must be the same to the bit: a digest of losses and weights, and peak bytes."""
        model, step = Workload(**cell).prepare()
        step = planted(step, plant)
        losses = [float(step()) for _ in range(DIGEST_STEPS)]
        found = digest(model, losses)
        gc.collect()
        return {"digest": found, "peak_tensor_bytes": peak_bytes(step)}

    def prepare(self, cell: dict[str, Any], plant: str = "") -> dict[str, float]:
        """Make a workload ready to be timed; about how long a step takes, in seconds."""
        self.workload = Workload(**cell)
        _, step = self.workload.prepare()
        self.step = planted(step, plant)
        check(self.workload.name, self.step)
        return self.time(WARM_UP_STEPS)

    def time(self, steps: int, clock: str = "wall") -> dict[str, float]:
        """Seconds of the fastest of some steps: other processes only ever add to a step's time."""
        assert self.step is not None and self.workload is not None
        return {"seconds": min(visit(self.step, steps, self.workload.device, clock))}


def digest(model: nn.Module, losses: list[float]) -> str:
    """SHA-256 of losses, and of the model's tensors, without exponents, with their names."""
    sha = hashlib.sha256(repr(losses).encode())
    for name, tensor in sorted(model.state_dict().items()):
        if name.endswith(("weight_exponent", "bias_exponent")):
            continue  # int8's, which a commit before this one has not
        sha.update(name.encode())
        sha.update(tensor.detach().cpu().contiguous().view(-1).view(torch.uint8).numpy().data)
    return sha.hexdigest()


def planted(step: Step, plant: str) -> Step:
    """The step with a known fault, by which the gate is tested."""
    if plant == "":
        return step
    if plant not in PLANTS:
        raise ValueError(f"unknown fault '{plant}'; known: {', '.join(PLANTS)}")
    leaked: list[Tensor] = []
    slower = {"slowdown-2x": 1.0, "slowdown-10%": 0.1}.get(plant, 0.0)

    def faulty() -> Tensor:
        started = time.thread_time()
        loss = step()
        if plant == "leak-64KiB":
            leaked[:] = leaked or [torch.zeros(LEAK_BYTES, dtype=torch.uint8)]
        until = time.thread_time() + slower * (time.thread_time() - started)
        while time.thread_time() < until:
            pass
        return loss

    return faulty


def main() -> int:
    """Answer until the input ends."""
    answers = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)  # whatever else prints must not look like an answer
    probe = Probe()
    for line in sys.stdin:
        command = json.loads(line)
        try:
            answer = getattr(probe, command.pop("do"))(**command)
        except Exception as error:
            answer = {"error": f"{type(error).__name__}: {error}"}
        print(json.dumps(answer), file=answers, flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
