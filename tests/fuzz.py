"""Feed damaged and hostile input to everything that is parsed.

``python tests/fuzz.py --inputs 1000000 --log reports/fuzz/log.txt`` tries so many inputs and tells,
by target, how many were refused, how many accepted, and each fault. An input follows from the seed
and its number, so ``--only 123`` tries number 123 again. The log grows by a line each thousand
inputs; the same command goes on after them. `tests/test_fuzz.py` tries a few of each target.

An input is accepted with a sane value, or refused by a ValueError or OSError that says what was
expected, what came and the fix. Anything else is a fault: another exception or message, a warning,
a hang, a dead process, code that comes from the data, a file that is changed outside the folder.
"""

import argparse
import collections
import contextlib
import hashlib
import mmap
import os
import random
import re
import resource
import select
import shutil
import signal
import sys
import tempfile
import traceback
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import fuzz_targets
import torch
from fuzz_input import Target
from fuzz_targets import TARGETS

from ezo.rows import provenance

CPU_SECONDS = 10.0  # of an input, at most
IDLE_SECONDS = 120  # that an input may wait
MEMORY = 2 << 30  # bytes that an input may take, beside what the process has
CHUNK = 1000  # inputs of one process
# What, what came, and the fix; a bound says what to do.
SAYS = re.compile(
    r"expected .*\bgot\b.*[;:(]|expected .* or more.*, got |unknown .*; known: ", re.DOTALL
)
CHANGES = ("os.mkdir", "os.rename", "os.remove", "os.rmdir", "os.link", "os.symlink", "os.truncate")
STARTS = (
    "os.system",
    "os.exec",
    "os.fork",
    "os.posix_spawn",
    "subprocess.Popen",
    "pickle.find_class",
)
PLACES = (sys.prefix, sys.base_prefix, Path(torch.__file__).parents[1], Path(__file__).parents[1])
OWN = (*(str(place) for place in PLACES), "<frozen ", "<__array")  # code from there is no input's


class Fault(AssertionError):
    """What no input may do."""


class Hang(BaseException):
    """An input took too long."""


_seen: list[Fault] = []  # by the audit, whoever catches what it raises
_allowed: Path | None = (
    None  # the folder in which an input may change files; None: no input is tried
)


def _audit(event: str, values: tuple[Any, ...]) -> None:
    """Sees what Python does; installed for good, since it can't be taken away."""
    if _allowed is None:
        return
    if event in STARTS:
        _refuse(f"{event} {values!r:.200}")
    if event == "exec":
        if not values[0].co_filename.startswith(OWN):
            _refuse(f"code from {values[0].co_filename}")
    elif event == "open":
        path, mode, flags = values
        writes = (
            flags & (os.O_WRONLY | os.O_RDWR | os.O_CREAT)
            if flags
            else mode and set(mode) & set("wax+")
        )
        if writes and isinstance(path, (str, bytes, os.PathLike)):
            _inside(path)
    elif event in CHANGES:
        for path in values[: 2 if event in ("os.rename", "os.link") else 1]:
            _inside(path)


def _inside(path: Any) -> None:
    found = Path(os.path.realpath(os.fsdecode(path)))
    if not found.is_relative_to(_allowed or "/") and found != Path(os.devnull):
        _refuse(f"{found} would be changed, outside the folder")


def _refuse(what: str) -> None:
    _seen.append(Fault(what))
    raise _seen[-1]


def _late(*_: object) -> None:
    raise Hang


@contextlib.contextmanager
def watched(folder: Path) -> Iterator[None]:
    """Within, an input is tried that may change files in ``folder`` alone."""
    global _allowed
    sys.dont_write_bytecode = True
    if not getattr(sys, "_ezo_fuzz", False):
        sys.addaudithook(_audit)
        sys._ezo_fuzz = True  # type: ignore[attr-defined]
    before = signal.signal(signal.SIGPROF, _late)
    signal.setitimer(signal.ITIMER_PROF, CPU_SECONDS)
    _allowed = folder.resolve()
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            yield
    finally:
        _allowed = None
        signal.setitimer(signal.ITIMER_PROF, 0)
        signal.signal(signal.SIGPROF, before)


def attempt(target: Target, chance: random.Random, folder: Path) -> str:
    """Try one input in an empty folder; returns ``refused`` or ``accepted``.

    Raises:
        Fault: the input did what none may do.
    """
    tried = target.make(chance, folder)
    _seen.clear()
    try:
        with watched(folder):
            value = target.read(tried)
        if _seen:
            raise _seen[0]
    except Fault:
        raise
    except (ValueError, OSError) as error:
        if _seen or not SAYS.search(str(error)):
            raise (_seen or [Fault(_told(error))])[0] from error
        return "refused"
    except Hang as error:
        raise Fault(f"more than {CPU_SECONDS:g} s") from error
    except BaseException as error:
        if isinstance(error, KeyboardInterrupt):
            raise
        raise Fault(_told(error)) from error
    try:
        sane = target.sane(value)
    except Exception as error:
        raise Fault(f"accepted {value!r:.200}: {_told(error)}") from error
    if not sane:
        raise Fault(f"accepted {value!r:.200}")
    return "accepted"


def _told(error: BaseException) -> str:
    where = traceback.extract_tb(error.__traceback__)
    ours = [f"{Path(f.filename).name}:{f.lineno}" for f in where if "/fuzz" not in f.filename]
    return f"{type(error).__name__}: {str(error)[:160]!r} ({' '.join(ours[:1] + ours[-1:])})"


def numbered(seed: int, number: int) -> tuple[Target, random.Random]:
    """The target and the source of chance of an input."""
    digest = hashlib.sha256(f"{seed} {number}".encode()).digest()
    chance = random.Random(digest)
    return chance.choices(list(TARGETS.values()), [t.weight for t in TARGETS.values()])[0], chance


def _try_chunk(seed: int, numbers: range, at: Any, told: int) -> None:
    """In a process of its own: try inputs, and write a line of each, and one more of a fault."""
    limit = int(Path("/proc/self/statm").read_text().split()[0]) * mmap.PAGESIZE + MEMORY
    resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
    shm = "/dev/shm" if os.access("/dev/shm", os.W_OK) else None
    root = Path(tempfile.mkdtemp(prefix="ezo-fuzz-", dir=shm))
    for number in numbers:
        at[:8] = number.to_bytes(8, "little")
        target, chance = numbered(seed, number)
        folder = root / "in"
        folder.mkdir()
        try:
            ended = attempt(target, chance, folder)
        except Fault as fault:
            ended = "fault"
            os.write(
                told, f"fault {number} {target.name}: {fault}\n".encode("utf-8", "backslashreplace")
            )
        os.write(told, f"{target.name}.{ended}\n".encode())
        shutil.rmtree(folder)
    shutil.rmtree(root)


def chunk(seed: int, numbers: range) -> list[str]:
    """The log's lines of some inputs; a process that dies is a fault, and the rest goes on."""
    faults: list[str] = []
    count: collections.Counter[str] = collections.Counter()
    start, at = numbers.start, mmap.mmap(-1, 8)
    while start < numbers.stop:
        source, told = os.pipe()
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)  # of threads, which it does not use
            child = os.fork()
        if child == 0:
            os.close(source)
            try:
                _try_chunk(seed, range(start, numbers.stop), at, told)
            except BaseException:
                traceback.print_exc()
                os._exit(1)
            os._exit(0)
        os.close(told)
        for line in _lines(source, child):
            if line.startswith("fault "):
                faults.append(line)
            else:
                count[line] += 1
        _, status = os.waitpid(child, 0)
        if status == 0:
            break
        number = int.from_bytes(at[:8], "little")
        name = numbered(seed, number)[0].name
        faults.append(f"fault {number} {name}: the process died, {status}")
        count[f"{name}.fault"] += 1
        start = number + 1
    sums = " ".join(f"{name}={n}" for name, n in sorted(count.items()))
    return [*faults, f"chunk {numbers.start} {sums}"]


def _lines(source: int, child: int) -> list[str]:
    """What a process says until it ends; one that waits for ever is ended."""
    data, idle = b"", 0
    while idle < IDLE_SECONDS:
        if select.select([source], [], [], 1.0)[0]:
            if not (part := os.read(source, 1 << 16)):
                break
            data, idle = data + part, 0
        elif Path(f"/proc/{child}/stat").read_text().rpartition(")")[2].split()[0] == "S":
            idle += 1  # it waits, and is not stopped by another
    else:
        os.kill(child, signal.SIGKILL)
    os.close(source)
    return data.decode("utf-8", "replace").splitlines()


def summary(lines: list[str]) -> str:
    """A table of all chunks: inputs, refused, accepted and faults by target."""
    count: collections.Counter[str] = collections.Counter()
    for line in lines:
        if line.startswith("chunk "):
            for word in line.split()[2:]:
                name, _, n = word.partition("=")
                count[name] += int(n)
    text = [f"{'target':<14} {'inputs':>9} {'refused':>9} {'accepted':>9} {'faults':>7}"]
    names = [*TARGETS, "all"]
    for name in names:
        parts = list(TARGETS) if name == "all" else [name]
        found = [sum(count[f"{p}.{e}"] for p in parts) for e in ("refused", "accepted", "fault")]
        text.append(f"{name:<14} {sum(found):>9,} {found[0]:>9,} {found[1]:>9,} {found[2]:>7,}")
    return "\n".join(text)


def main() -> int:
    """The command line; returns 1 where there was a fault."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--inputs", type=int, default=10_000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--log", type=Path, help="file that grows by a line a chunk")
    parser.add_argument("--only", type=int, help="try this number alone, and show its traceback")
    given = parser.parse_args()
    torch.set_num_threads(1)  # a process that has threads can't be forked
    fuzz_targets.warm()
    if given.only is not None:
        target, chance = numbered(given.seed, given.only)
        with tempfile.TemporaryDirectory() as folder:
            print(target.name, attempt(target, chance, Path(folder)))
        return 0
    commit, changed = (provenance()[name] for name in ("commit", "dirty"))
    state = f"commit {commit or 'unknown'}{', with changes' if changed else ''}"
    words = " ".join(sys.argv[1:])
    head = f"seed {given.seed}, source {fuzz_targets.source()}"
    about = f"{state}, python tests/fuzz.py {words}"
    lines = (
        given.log.read_text(encoding="utf-8").splitlines()
        if given.log and given.log.exists()
        else []
    )
    if lines and lines[0] != head:
        raise SystemExit(f"{given.log}: expected the log of {head}, got {lines[0]}; remove it")
    done = {int(line.split()[1]) for line in lines if line.startswith("chunk ")}
    if lines[1:2] != [about]:  # the first time, or it goes on by another commit or command
        lines = [head, about, *lines[1:]]
    for start in range(0, given.inputs, CHUNK):
        if start in done:
            continue
        lines += chunk(given.seed, range(start, min(start + CHUNK, given.inputs)))
        if given.log:
            given.log.parent.mkdir(parents=True, exist_ok=True)
            given.log.write_text("\n".join(lines) + "\n", encoding="utf-8")
    lines = [line for line in lines if line.startswith(("seed", "commit", "chunk", "fault"))]
    text = summary(lines)
    if given.log:
        given.log.write_text("\n".join([*lines, text]) + "\n", encoding="utf-8")
    print("\n".join(line for line in lines if line.startswith("fault ")))
    print(text)
    return int(any(line.startswith("fault ") for line in lines))


if __name__ == "__main__":
    sys.exit(main())
