"""Kill a reproduction at random, again and again, and see that no finished run is lost or changed.

``python -m reproduce.kill --out DIR --kills 20 --longest 60 -- --preset smoke`` starts
``python -m reproduce --preset smoke --out DIR``, kills it after a random time, 20 times, and then
lets it end. Every other kill takes the driver alone and leaves its workers to themselves.
``--compare OTHER`` then compares every number with those of the same runs in the folder of a
reproduction that nobody killed, on the same processor.
"""

import argparse
import contextlib
import os
import random
import signal
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from ezo import rows
from ezo.rows import Row

ENDS = ("finished", "diverged")


def kill_and_resume(
    command: Sequence[str], out: Path, *, kills: int, longest: float, seed: int = 0
) -> int:
    """Run ``command`` until it ends, killed ``kills`` times on the way.

    Args:
        command: what to run; it goes on where it stopped when it is run again.
        out: its folder, which holds ``runs``.
        kills: how many times.
        longest: seconds before a kill, at most.
        seed: of the times.

    Returns:
        How many of the kills met the command before it had ended.

    Raises:
        AssertionError: a run that had ended is gone or has other rows than before, or the command
            failed in the end.
    """
    times = random.Random(seed)
    ended: dict[str, bytes] = {}
    met = 0
    for n in range(kills):
        process = subprocess.Popen(
            command, start_new_session=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )
        try:
            process.wait(times.uniform(0.0, longest))
        except subprocess.TimeoutExpired:
            met += 1
        _kill(process, alone=n % 2 == 1)
        ended = _compare(out, ended)
        print(f"kill {n + 1} of {kills}: {len(ended)} runs had ended", flush=True)
    last = subprocess.run(command, capture_output=True, text=True)
    assert last.returncode == 0, f"the command failed in the end: {last.stderr[-2000:]}"
    _compare(out, ended)
    return met


def compare(out: Path, other: Path) -> int:
    """Every value and digest of the runs that ended in both folders; seconds may differ.

    Returns:
        How many runs were compared.

    Raises:
        AssertionError: a number differs.
    """
    theirs = _ended(other)
    common = [(case, found) for case, found in _ended(out).items() if case in theirs]
    for case, found in common:
        assert _numbers(found) == _numbers(theirs[case]), f"{case} has other numbers in {other}"
    return len(common)


def _ended(out: Path) -> dict[str, list[Row]]:
    every = {p.parent.name: rows.read(p) for p in sorted((out / "runs").glob("*/rows.jsonl"))}
    return {case: found for case, found in every.items() if found and found[-1].metric in ENDS}


def _numbers(found: list[Row]) -> list[tuple[str, int | None, float | None, str]]:
    return [(r.metric, r.step, r.value, r.note) for r in found if r.unit != "s"]


def _kill(process: "subprocess.Popen[bytes]", alone: bool) -> None:
    """SIGKILL to the driver alone, or to it and its workers at once."""
    if alone:
        process.kill()
    else:
        with contextlib.suppress(ProcessLookupError):  # all of it had ended
            os.killpg(process.pid, signal.SIGKILL)
    process.wait()


def _compare(out: Path, before: dict[str, bytes]) -> dict[str, bytes]:
    now = {}
    for path in sorted((out / "runs").glob("*/rows.jsonl")):
        content = path.read_bytes()
        if content.endswith(b"\n") and rows.read(path)[-1].metric in ENDS:
            now[path.parent.name] = content
    for case, content in before.items():
        assert now.get(case) == content, f"{case} had ended; its rows are gone or others now"
    return now


def main() -> int:
    """The command line."""
    parser = argparse.ArgumentParser(prog="python -m reproduce.kill", description=__doc__)
    parser.add_argument("--out", type=Path, required=True, help="folder of the reproduction")
    parser.add_argument("--kills", type=int, default=20, help="how many times")
    parser.add_argument("--longest", type=float, default=60, help="seconds before a kill, at most")
    parser.add_argument("--seed", type=int, default=0, help="of the times")
    parser.add_argument("--compare", type=Path, help="folder of the same, not killed")
    parser.add_argument("words", nargs="+", help="what follows `python -m reproduce`")
    given = parser.parse_args()
    command = [sys.executable, "-m", "reproduce", *given.words, "--out", str(given.out)]
    met = kill_and_resume(
        command, given.out, kills=given.kills, longest=given.longest, seed=given.seed
    )
    print(f"{met} of {given.kills} kills met it running; no run that had ended was lost or changed")
    if given.compare is not None:
        same = compare(given.out, given.compare)
        print(f"{same} runs have the same numbers as in {given.compare}, bit for bit")
        return 0 if same else 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
