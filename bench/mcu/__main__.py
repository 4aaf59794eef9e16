"""``python -m bench.mcu``: the exported C on boards and processors; rows out.

native         steps on this machine, weights compared byte for byte
boards         parts' memory maps under QEMU: bits, RAM, flash, stack (needs gcc and QEMU)
instructions   of a step on an emulated Cortex-M4, by gcc and clang
onnx           how often onnxruntime gives the class of a trained network, on MNIST's test set
emulate        an exported folder on an emulated Cortex-M4: its self-test, and steps on --data
qemu           an exported folder's main.c on a part under QEMU (needs gcc and QEMU)
table          the rows of reports/mcu for people, sizes in KiB
check          rows against those of reports/mcu: instructions and bytes must not grow
"""

import argparse
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

from bench.mcu import boards, compilers, exchange, exported, table
from bench.mcu.cases import POOL, Case, Problem
from bench.mcu.elf import Elf
from bench.mcu.emulator import Device
from bench.mcu.native import Native
from ezo import rows
from ezo.files import run_command
from ezo.rows import Row

METHODS = ("full-zo", "elastic-1", "elastic-2", "tail-only-2")
LENET = [Case("lenet5", method, 32) for method in METHODS]
MLP = Case("mlp", "elastic-1", 8, ram=16 * 1024)
SMALL = Case("lenet5", "elastic-2", 32, ram=256 * 1024)
ON_BOARDS = [
    *(("nrf52840dk", Case("lenet5", method, 32, ram=256 * 1024)) for method in METHODS),
    ("netduinoplus2", Case("lenet5", "elastic-2", 32, False, ram=128 * 1024)),
    ("microbit", MLP),
    ("virt-rv32", Case("lenet5", "elastic-2", 8, ram=256 * 1024)),
]
COUNTED = [
    SMALL,
    *(Case("lenet5", "full-zo", 1), Case("lenet5", "elastic-2", 8), MLP),
    *(Case("lenet5", "elastic-2", 8, False, ram=128 * 1024), Case("lenet5", "tail-only-2", 8)),
    Case("cnn", "elastic-1", 8),
]
COMMITTED = Path("reports/mcu/rows.jsonl")
CODE_BYTES = 16 * 1024
SAME_CLASS = 99.0  # % of MNIST's test set, by onnxruntime
LARGER = 1.01  # what `check` lets pass, for another release of a compiler


def main() -> int:
    """The command line."""
    return run_command("python -m bench.mcu", _command)


def _command() -> int:
    parser = argparse.ArgumentParser(prog="python -m bench.mcu", description=__doc__)
    choices = ("native", "boards", "instructions", "onnx", "emulate", "qemu", "table", "check")
    parser.add_argument("what", choices=choices)
    parser.add_argument(
        "folder", nargs="?", type=Path, help="of emulate and qemu: what was exported"
    )
    parser.add_argument("--steps", type=int, help="native 1,000, on boards 100, counted 2")
    parser.add_argument("--only", default="", help="cases and boards whose names hold this")
    parser.add_argument("--out", type=Path, help="folder for rows; by default none are kept")
    parser.add_argument("--data", type=Path, help="of emulate: a file of int8 examples")
    parser.add_argument("--labels", type=Path, help="of emulate: a file of their labels, uint8")
    parser.add_argument("--main", type=Path, help="of qemu: C with main; by default the folder's")
    parser.add_argument("--state", type=Path, help="of emulate: file for what was learnt")
    parser.add_argument(
        "--board", default="nrf52840dk", help="of qemu: " + ", ".join(boards.BOARDS)
    )
    given = parser.parse_args()
    if given.what == "emulate":
        return exported.emulate(given.folder, given.data, given.labels, given.steps, given.state)
    if given.what == "qemu":
        return exported.qemu(given.folder, given.board, given.main)
    if given.what == "table":
        print(table.text(rows.read(COMMITTED)))
        return 0
    if given.what == "check":
        return _check(COMMITTED, given.out)
    measure = {
        "native": _native,
        "boards": _boards,
        "instructions": _instructions,
        "onnx": lambda steps, _: exchange.measure(steps),
    }[given.what]
    worst = 0
    for row in measure(given.steps, given.only):
        value = f"{row.value:,.{2 if row.unit == '%' else 0}f}"
        print(f"{row.case:<52} {row.metric:<20} {value:>14} {row.unit:<4} {row.note}")
        sys.stdout.flush()
        worst |= row.metric == "same_bytes" and row.value != 1
        if given.out:
            rows.write(given.out / "rows.jsonl", [row], append=True)
    return int(worst)


def _row(case: Case, where: str, metric: str, value: float, unit: str, note: str = "") -> Row:
    return Row(
        case=f"{case.name}@{where}",
        metric=metric,
        value=float(value),
        unit=unit,
        note=note,
        model=case.model,
        data="digits",
        method=case.method,
        precision="int8",
        device=where,
        config={"batch_size": case.batch, "fraction": 8 if case.fraction else 0},
        **rows.provenance(),
    )


def _native(steps: int | None, only: str) -> Iterator[Row]:
    """Byte-equal weights after many steps on this machine."""
    steps = steps or 1000
    for case in [*LENET, MLP]:
        if only not in case.name:
            continue
        with tempfile.TemporaryDirectory() as folder:
            problem = Problem(case)
            device = Native(Path(folder), problem.write(Path(folder)))
            got = device.train(problem.x.m, problem.y, steps, *problem.rates)
            same = got == problem.train(steps)
        yield _row(case, "native", "same_bytes", same, "1", f"after {steps} steps")


def _boards(steps: int | None, only: str) -> Iterator[Row]:
    steps = steps or 100
    every = max(1, steps // 10)
    for name, case in ON_BOARDS:
        if only not in f"{case.name}@{name}":
            continue
        part = boards.BOARDS[name]
        with tempfile.TemporaryDirectory() as folder:
            problem = Problem(case)
            planned = problem.write(Path(folder))
            program = boards.build(
                Path(folder), name, problem.x.m, problem.y, steps // every * every, every
            )
            found = boards.go(program, name, 7200)
            expected = [problem.train(every) for _ in range(steps // every)]
        note = f"{part.part}, way {planned.way.name}"
        yield _row(case, name, "same_bytes", found.digests == expected, "1", f"after {steps} steps")
        yield _row(case, name, "ram_bytes", found.ram_bytes, "B", f"of {part.ram[1]}, {note}")
        yield _row(case, name, "arena_bytes", planned.total, "B", note)
        yield _row(case, name, "stack_bytes", found.stack_bytes, "B", note)
        yield _row(case, name, "flash_bytes", found.flash_bytes, "B", f"{POOL} examples in it")


def _instructions(steps: int | None, only: str) -> Iterator[Row]:
    """Of one step, the mean of those after the first; and the code's size."""
    steps = steps or 2
    for case in COUNTED:
        for compiler in ("gcc", "zig"):
            if only not in f"{case.name}@{compiler}":
                continue
            with tempfile.TemporaryDirectory() as folder:
                problem = Problem(case)
                planned = problem.write(Path(folder))
                program = compilers.link(Path(folder), compiler, "cortex-m4")
                files = compilers.objects(Path(folder), compiler, "cortex-m4")
                device = Device(program, planned.total, count=True)
                x = device.put(problem.x.m.numpy().tobytes())
                y = device.put(problem.labels().numpy().tobytes())
                rate, mu = problem.rates
                calls = [(device.arena, x, y, POOL, 1, rate, mu, fresh, 0) for fresh in (1, 0)]
                digest = device.call("drive", *calls[0])
                before = _stepped(device)
                for _ in range(steps):
                    digest = device.call("drive", *calls[1])
                mean = (_stepped(device) - before) / steps
                same = digest == problem.train(1 + steps)
            where = f"cortex-m4-{compiler}"
            note = f"-O2, way {planned.way.name}"
            ours = [f for f in files if not f.name.startswith(("drive", "ezo_model", "ezo_check"))]
            yield _row(case, where, "same_bytes", same, "1", f"after {1 + steps} steps")
            yield _row(case, where, "step_instructions", mean, "1", note)
            yield _row(case, where, "code_bytes", sum(Elf(f).flash() for f in ours), "B", note)
            yield _row(case, where, "stack_bytes", device.stack_bytes(), "B", note)


def _stepped(device: Device) -> int:
    """Instructions so far, but those of the digest, which no training needs."""
    return device.instructions() - sum(
        n for name, n in device.by_function().items() if name in ("ezo_digest", "crc", "drive")
    )


def _check(committed: Path, out: Path | None) -> int:
    """Rows of ``--out`` against the committed ones."""
    if out is None:
        raise SystemExit("bench.mcu: expected --out, the folder whose rows are checked")
    known = {(r.case, r.metric): r.value for r in rows.read(committed)}
    failed = 0
    for row in rows.read(out / "rows.jsonl"):
        old, new = known.get((row.case, row.metric)), row.value
        counted = row.metric in ("step_instructions", "ram_bytes", "stack_bytes", "code_bytes")
        if counted and old is not None and new is not None and new > LARGER * old:
            print(f"{row.case}: {row.metric} grew from {old:,.0f} to {new:,.0f}")
            failed = 1
        if row.metric == "same_bytes" and new != 1:
            print(f"{row.case}: other bytes than Python's")
            failed = 1
        if row.metric == "same_class" and new is not None and new < SAME_CLASS:
            print(f"{row.case}: onnxruntime gives our class to {new:.2f} % of the examples")
            failed = 1
        gcc_code = row.metric == "code_bytes" and row.device.endswith("gcc")
        if gcc_code and new is not None and new > CODE_BYTES:
            print(f"{row.case}: code of {new:,.0f} bytes is more than {CODE_BYTES:,}")
            failed = 1
    return failed


if __name__ == "__main__":
    sys.exit(main())
