"""A step as a CUDA graph: recorded once, then replayed, without Python between its launches.

What changes from step to step lies on the device: the step's number, and each ZO group's ``lr``,
``eps``, ``clip`` and ``weight_decay``, which are written before a replay where a schedule changed
them. BP's optimiser is no part of the graph: it steps afterwards, on the graph's gradients.
"""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from ezo.buffers import Buffers
from ezo.passes import Passes, drawn
from ezo.ranks import Exchange
from ezo.step import Found

DEVICE = "cuda"
WARM_UP_STEPS = 3  # made as usual, for what is chosen, compiled or allocated at first
NUMBERS = ("lr", "eps", "clip", "weight_decay")


class Graph:
    """A recorded function: torch's CUDA graph."""

    def record(self, function: Callable[[], Any]) -> Any:
        self._graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(self._graph):
            return function()

    def replay(self) -> None:
        self._graph.replay()


class Captured:
    """A graph of a step, and the numbers that it reads.

    Args:
        groups: the ZO groups, whose numbers are followed.
        device: where the weights lie.
    """

    def __init__(self, groups: list[dict[str, Any]], device: torch.device) -> None:
        self._followed = groups
        self._written: dict[tuple[int, str], float] = {}
        self.step = torch.zeros((), dtype=torch.int64, device=device)
        self.groups: list[dict[str, Any]] = []  # the same, with numbers on the device
        for i, group in enumerate(groups):
            mine = dict(group)
            for name in NUMBERS:
                if group[name] is not None:
                    mine[name] = torch.zeros((), dtype=torch.float64, device=device)
            self.groups.append(mine)
            self._follow(i)
        self._graph = Graph()
        self.found: Any = None

    def record(self, function: Callable[[], Any]) -> None:
        self.found = self._graph.record(function)

    def replay(self, step: int) -> Any:
        """What the function returned, whose tensors now hold this step's numbers."""
        self.step.fill_(step)
        for i in range(len(self.groups)):
            self._follow(i)
        self._graph.replay()
        return self.found

    def _follow(self, i: int) -> None:
        for name in NUMBERS:
            value, there = self._followed[i][name], self.groups[i][name]
            if (value is None) != (there is None):
                raise ValueError(
                    f"expected {name} to stay {'a number' if value is None else 'None'} in a "
                    f"captured step, got {value}; make another optimiser"
                )
            if isinstance(there, Tensor) and self._written.get((i, name)) != value:
                there.fill_(float(value))
                self._written[i, name] = value


class Recorder:
    """Makes an optimiser's first steps as usual, records the next one, and replays it.

    Raises:
        ValueError: a step of such weights can't be captured.
    """

    def __init__(
        self,
        model: nn.Module,
        parameters: list[nn.Parameter],
        nodes: Any,
        exchange: Exchange | None,
    ) -> None:
        if exchange is not None:
            raise ValueError(
                "expected capture with one process, got it with ranks, whose exchange no graph can "
                "hold; leave out capture or ranks"
            )
        elsewhere = {p.device.type for p in parameters} - {DEVICE}
        if elsewhere or nodes:
            got = f"some on {', '.join(sorted(elsewhere))}" if elsewhere else "nodes"
            raise ValueError(
                f"expected weights on {DEVICE} and no nodes, to capture a step, got {got}; leave "
                "capture out, or move the model first"
            )
        self._model, self._made = model, 0
        self._captured: Captured | None = None
        self._gradients: list[tuple[nn.Parameter, Tensor | None]] = []

    def step(
        self,
        run: Callable[..., tuple[Found, Passes]],
        buffers: Buffers,
        groups: list[dict[str, Any]],
        number: int,
    ) -> tuple[Found, Passes]:
        """Step ``number``, by ``run``, which takes a `Captured` to be recorded."""
        self._made += 1
        if self._made <= WARM_UP_STEPS:
            return self._warm_up(run, buffers)
        if self._captured is None:
            zo = [g for g in groups if g.get("zo", False) and g["params"]]
            captured = Captured(zo, zo[0]["params"][0].device)
            captured.record(lambda: run(captured))
            self._captured = captured
            bp = [p for g in groups if not g.get("zo", False) for p in g["params"]]
            self._gradients = [(p, p.grad) for p in bp]
        for p, gradient in self._gradients:
            p.grad = gradient
        found, passes = self._captured.replay(number)
        if self._gradients:  # BP's optimiser asks
            found = found._replace(finite=passes.wait(found.finite))
        return found, passes

    def _warm_up(
        self, run: Callable[..., tuple[Found, Passes]], buffers: Buffers
    ) -> tuple[Found, Passes]:
        before = drawn(self._model)
        found = run()
        if drawn(self._model) != before or buffers.any:
            raise ValueError(
                "expected passes that draw no random numbers and write no buffers, to capture "
                "them, got some; put the model in eval mode, or leave capture out"
            )
        return found
