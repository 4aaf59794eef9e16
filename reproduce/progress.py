"""One line that says how far the work is, with a time left that only falls."""

import sys
import threading
import time
from collections.abc import Callable
from types import TracebackType
from typing import TextIO

TRUSTED = 20.0  # seconds of work for which the prediction counts as much as what was measured
FASTEST = 3.0  # seconds by which the time left falls in one
LINE_SECONDS = 30.0  # between two lines where they can't be written over each other


class Progress:
    """The line, written anew every second to a terminal; elsewhere a line from time to time.

    The time left is a clock that runs up to three times as fast or stands still, so that it meets
    the estimate and never jumps.

    Args:
        total: predicted seconds.
        out: where to write; standard output, since tools paint the other one red.
        clock: seconds.
    """

    def __init__(
        self,
        total: float,
        out: TextIO | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.total, self.out, self.clock = total, out or sys.stdout, clock
        self.doing = ""
        self.left, self._done = total, 0.0
        self._started = self._ended = self._now = clock()
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
            self._ended = self.clock()

    def line(self) -> str:
        """What is done now."""
        with self._lock:
            now = self.clock()
            self._fall(now)
            share = min(self._done / self.total, 1.0) if self.total else 1.0
            gone = _clock(now - self._started)
            return f"{self.doing}: {share:4.0%} done, {gone} gone, about {_clock(self.left)} left"

    def _fall(self, now: float) -> None:
        """Let the time left fall where the estimate is below it; else it stands still."""
        pace = (self._ended - self._started + TRUSTED) / (self._done + TRUSTED)
        rest = (self.total - self._done) * pace
        # A part that takes longer than it should says nothing of how near its end is.
        estimate = rest - min(now - self._ended, TRUSTED + rest / 10)
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


def _clock(seconds: float) -> str:
    """
    >>> _clock(75.4), _clock(5000.0)
    ('1:15', '1:23:20')
    """
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{rest:02d}" if hours else f"{minutes}:{rest:02d}"
