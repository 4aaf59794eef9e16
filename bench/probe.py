"""One side of the gate: a process that measures steps of the `ezo` that it finds installed.

Commands come as JSON objects, one a line, on standard input; answers go out the same way. An
exception is an answer too: ``{"error": "..."}``.
"""

import gc
import hashlib
import json
import os
import sys
import time
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

import ezo
from bench.memory import peak_bytes
from bench.workload import Workload
from ezo import perturb

DIGEST_STEPS = 10
WARM_UP_STEPS = 3
LEAK_BYTES = 64 * 1024
CLOCKS = {"wall": time.perf_counter, "cpu": time.process_time}
PLANTS = ("slowdown-2x", "slowdown-10%", "leak-64KiB")

Step = Callable[[], Tensor]


class Probe:
    """Answers to commands; keeps the workload that is being timed."""

    def __init__(self) -> None:
        self.workload: Workload | None = None
        self.step: Step | None = None

    def about(self) -> dict[str, Any]:
        """Whose code this is."""
        return {"ezo": ezo.__file__, "kernels": perturb.kernels(), "torch": torch.__version__}

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
        for _ in range(WARM_UP_STEPS):
            self.step()
        return self.time(WARM_UP_STEPS)

    def time(self, steps: int, clock: str = "wall") -> dict[str, float]:
        """Seconds of the fastest of some steps: other processes only ever add to a step's time.

        Args:
            steps: how many.
            clock: one of `CLOCKS`.
        """
        assert self.step is not None and self.workload is not None
        now = CLOCKS[clock]
        fastest = float("inf")
        for _ in range(steps):
            self.workload.synchronise()
            started = now()
            self.step()
            self.workload.synchronise()
            fastest = min(fastest, now() - started)
        return {"seconds": fastest}


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
        now = time.thread_time()
        until = now + slower * (now - started)
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
