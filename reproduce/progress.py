"""One line that says how far the work is, with a time left that only falls."""

import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from types import TracebackType
from typing import TextIO

from ezo.train import Run
from reproduce import cost
from reproduce.folder import run_rows

TRUSTED = 20.0  # seconds of work for which the prediction counts as much as what was measured
FASTEST = 3.0  # seconds by which the time left falls in one
LINE_SECONDS = 30.0  # between two lines where they can't be written over each other


class Progress:
    """The line, written anew every second to a terminal; elsewhere a line from time to time.

    The time left is a clock that runs up to three times as fast or stands still, so that it meets
    the estimate and never jumps.

    Args:
        total: predicted seconds.
        under_way: predicted seconds of what is done of the parts that have not ended.
        out: where to write; standard output, since tools paint the other one red.
        clock: seconds.
    """

    def __init__(
        self,
        total: float,
        under_way: Callable[[], float] = float,
        *,
        out: TextIO | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.total, self.out, self.clock = total, out or sys.stdout, clock
        self.under_way = under_way
        self.doing = ""
        self.left, self._done, self._known = total, 0.0, 0.0
        self._started = self._moved = self._now = clock()
        self._written = -LINE_SECONDS
        self._over = self.out.isatty()
        self._stop = threading.Event()
        self._lock = threading.Lock()

    def __enter__(self) -> "Progress":
        self._ticker = threading.Thread(target=self._tick, daemon=True)
        self._ticker.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        where: TracebackType | None,
    ) -> None:
        self._stop.set()
        self._ticker.join()
        if self._over:
            self.out.write("\n")
        self.out.flush()

    def done(self, seconds: float) -> None:
        """A part ended that was predicted to take so long."""
        with self._lock:
            self._done += seconds

    def line(self) -> str:
        """What is done now."""
        with self._lock:  # so that nothing is counted as under way and as done
            done, now = self._done + self.under_way(), self.clock()
            if done > self._known:
                self._known, self._moved = done, now
            self._fall(now)
            share = min(self._known / self.total, 1.0) if self.total else 1.0
            gone = _clock(now - self._started)
            return f"{self.doing}: {share:4.0%} done, {gone} gone, about {_clock(self.left)} left"

    def _fall(self, now: float) -> None:
        """Let the time left fall where the estimate is below it; else it stands still."""
        pace = (self._moved - self._started + TRUSTED) / (self._known + TRUSTED)
        rest = (self.total - self._known) * pace
        # A part that takes longer than it should says nothing of how near its end is.
        estimate = rest - min(now - self._moved, TRUSTED + rest / 10)
        fall = min(self.left - estimate, FASTEST * (now - self._now))
        self.left = max(self.left - max(fall, 0.0), 0.0)
        self._now = now

    def _tick(self) -> None:
        while not self._stop.wait(1.0):
            line = self.line()
            if self._over:
                self.out.write(f"\r{line}\x1b[K")
            elif self.clock() - self._written >= LINE_SECONDS:
                self._written = self.clock()
                self.out.write(f"{line}\n")
            self.out.flush()


class RunsLeft:
    """Predicted seconds of runs from where they stand at first, on processes that are all busy.

    Args:
        runs: that have not ended.
        folder: holds a folder for each.
        jobs: processes.
    """

    def __init__(self, runs: list[Run], folder: Path, jobs: int) -> None:
        self.runs = {run.case: run for run in runs}
        self.folder, self.jobs = folder, jobs
        self.first = {run.case: self._share(run) for run in runs}

    def _share(self, run: Run) -> float:
        return cost.share(run, run_rows(self.folder / run.case))

    def _seconds(self, run: Run, share: float) -> float:
        return (share - self.first[run.case]) * cost.seconds(run) / self.jobs

    def seconds(self) -> float:
        """Of all that have not ended."""
        return sum(self._seconds(run, 1.0) for run in self.runs.values())

    def trained(self) -> float:
        """Of what was trained of those that have not ended."""
        return sum(self._seconds(run, self._share(run)) for run in tuple(self.runs.values()))

    def ended(self, case: str) -> float:
        """Of one that ended now."""
        return self._seconds(self.runs.pop(case), 1.0)


def _clock(seconds: float) -> str:
    """
    >>> _clock(75.4), _clock(5000.0)
    ('1:15', '1:23:20')
    """
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{rest:02d}" if hours else f"{minutes}:{rest:02d}"
