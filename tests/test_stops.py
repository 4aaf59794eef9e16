"""A command that is stopped, by Ctrl-C or by a scheduler's SIGTERM, leaves no process behind."""

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

import psutil
import pytest

from ezo.files import run_command

TRAININGS = ["reproduce", "--preset", "smoke", "--experiments", "digits", "--jobs", "2"]
CELLS = ["bench", "run", "time", "--models", "lenet5", "--methods", "full-zo"]
LONGEST = 120  # seconds, of a busy machine


def until(true: Callable[[], object]) -> None:
    give_up = time.monotonic() + LONGEST
    while not true():
        assert time.monotonic() < give_up
        time.sleep(0.02)


@pytest.mark.parametrize(
    ("words", "number", "status", "told"),
    [
        (TRAININGS, signal.SIGTERM, 143, "reproduce: stopped; the same command goes on from here"),
        (CELLS, signal.SIGTERM, 143, "python -m bench: stopped"),
        (CELLS, signal.SIGINT, 130, "python -m bench: stopped"),
    ],
)
def test_a_stopped_driver_takes_its_workers_with_it(
    words: list[str], number: signal.Signals, status: int, told: str, tmp_path: Path
) -> None:
    started = subprocess.Popen(
        [sys.executable, "-m", *words, "--out", str(tmp_path)],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        # Whoever runs the tests in the background may have it ignored, and a child inherits that.
        preexec_fn=partial(signal.signal, number, signal.SIG_DFL),
    )
    process = psutil.Process(started.pid)

    def at_work() -> list[psutil.Process]:
        """Those that have used the time of their imports."""
        below = process.children(recursive=True)
        return [child for child in below if child.cpu_times().user > 1]

    until(at_work)
    children = process.children(recursive=True)
    started.send_signal(number)
    _, error = started.communicate(timeout=LONGEST)
    assert (started.returncode, error.strip().splitlines()[-1]) == (status, told)
    assert not psutil.wait_procs(children, timeout=LONGEST)[1]


def test_sigterm_is_as_before_after_a_command_and_beside_its_thread() -> None:
    def work() -> int:
        assert signal.getsignal(signal.SIGTERM) is not signal.SIG_DFL
        os.kill(os.getpid(), signal.SIGTERM)
        time.sleep(LONGEST)
        return 0

    assert run_command("a", work, workers=True) == 143
    assert signal.getsignal(signal.SIGTERM) is signal.SIG_DFL
    found: list[int] = []
    beside = threading.Thread(
        target=lambda: found.append(run_command("a", lambda: 0, workers=True))
    )
    beside.start()
    beside.join()
    assert found == [0]


def test_a_handler_of_the_caller_stays() -> None:
    came: list[int] = []

    def work() -> int:
        os.kill(os.getpid(), signal.SIGTERM)
        return 0

    before = signal.signal(signal.SIGTERM, lambda number, _: came.append(number))
    try:
        assert run_command("a", work, workers=True) == 0
        assert came == [signal.SIGTERM]
    finally:
        signal.signal(signal.SIGTERM, before)
