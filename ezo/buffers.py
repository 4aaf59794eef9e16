"""A model's buffers during a step's passes: all begin with the same, and one pass counts."""

import warnings
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _NormBase


class Buffers:
    """What a forward pass writes beside its output: running statistics, codebooks, counters.

    A step keeps what its first pass wrote, or nothing where a loss was not finite or the closure
    raised; its other passes begin where the first began. Undoing what was written in place needs a
    copy: at a first step, in train mode and in eval mode, all are copied, and from then on those
    alone that a pass was seen to write. One that is first written at a later step counts once in
    that step too, but can't be undone there: if nothing of that step is to be kept, it says so.

    Args:
        model: with the modules that it has now.
    """

    def __init__(self, model: nn.Module) -> None:
        self._model = model
        modules = [m for m in model.modules() if m._buffers]
        self._places = [(m, m._buffers, name) for m in modules for name in m._buffers]
        self._written: dict[bool, set[int]] = {}  # places, by the model's mode

    @property
    def any(self) -> bool:
        """Whether a pass may write one: it did before, or none ran yet in the model's mode."""
        return bool(self._places) and self._written.get(self._model.training, {0}) != set()

    def begin(self) -> None:
        """Before the first pass."""
        if not self._places:
            return
        self._learning = self._model.training not in self._written
        written = self._written.setdefault(self._model.training, set())
        self._begun = []
        for i, (_, of, name) in enumerate(self._places):
            x = of.get(name)
            copy = x.clone() if x is not None and (self._learning or i in written) else None
            self._begun.append((x, None if x is None else x._version, copy))
        self._kept: list[tuple[int, Tensor | None, Tensor | None]] | None = None
        self._muted: list[Any] = []

    def again(self) -> None:
        """Before each other pass."""
        if not self._places:
            return
        if self._kept is None:
            self._keep()
        else:
            self._undo()

    def end(self, keep: bool) -> None:
        """After the last pass: keep what the first wrote, or nothing."""
        if not self._places:
            return
        if self._kept is None and keep:
            self._changed()
        for m, mean, variance in self._muted:
            m.track_running_stats = True
            m.running_mean, m.running_var = mean, variance
        if not keep:
            self._tell_lost()
            self._muted = []
            self._undo()
        for i, x, value in self._kept or () if keep else ():
            _, of, name = self._places[i]
            if value is not None and x is not None:
                x.copy_(value)
            of[name] = x
        del self._begun, self._kept, self._muted

    def _keep(self) -> None:
        """What the first pass wrote aside; norms, in training, write nothing without statistics."""
        tracking = {
            m: (m, m.running_mean, m.running_var)
            for m, _, _ in self._places
            if isinstance(m, _NormBase) and m.training and m.track_running_stats
        }
        changed = self._changed()
        self._muted = list(tracking.values())
        self._kept = []
        for i in changed:
            m, of, name = self._places[i]
            if m not in tracking:
                x = of[name]
                in_place = x is not None and x is self._begun[i][0]
                self._kept.append((i, x, x.clone() if in_place and x is not None else None))
        self._undo()
        for m, _, _ in self._muted:
            m.track_running_stats = False
            m.running_mean = m.running_var = None  # instance norm heeds nothing else

    def _changed(self) -> list[int]:
        written = self._written[self._model.training]
        for i, (_, of, name) in enumerate(self._places):
            x, (old, version, copy) = of.get(name), self._begun[i]
            if x is not old:
                written.add(i)
            elif x is None or copy is None or not self._learning:
                written.update([i] if x is not None and x._version != version else [])
            elif not torch.all(x == copy):  # x.data counts no version
                written.add(i)
        return sorted(written)

    def _tell_lost(self) -> None:
        """Warn of what was written in place and has no copy; from the next step on it has one."""
        written = self._written[self._model.training]
        lost = []
        for i, ((m, _, name), (x, version, copy)) in enumerate(
            zip(self._places, self._begun, strict=True)
        ):
            if x is not None and copy is None and x._version != version:
                written.add(i)
                if not any(m is muted for muted, _, _ in self._muted):
                    where = next(n for n, module in self._model.named_modules() if module is m)
                    lost.append(f"{where}.{name}" if where else name)
        if lost:
            warnings.warn(
                f"{', '.join(lost)}: expected no buffer that is first written at a later step than "
                "the first, where this one's loss was not finite or the closure raised: it keeps "
                "what the passes wrote, and is taken back from the next step on; set it again",
                RuntimeWarning,
                stacklevel=2,
            )

    def _undo(self) -> None:
        muted = {m for m, _, _ in self._muted}
        for (m, of, name), (x, _, copy) in zip(self._places, self._begun, strict=True):
            if m not in muted:
                if x is not None and copy is not None:
                    x.copy_(copy)
                of[name] = x
