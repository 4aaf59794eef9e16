"""A folder of `ezo export` without a board: emulated on its own, or its program in QEMU."""

import re
import subprocess
import tempfile
from pathlib import Path

from bench.mcu import boards, compilers
from bench.mcu.emulator import DATA_BYTES, Device

SECONDS = 600  # that a program may run in QEMU


def constants(folder: Path | None) -> dict[str, int]:
    """Numbers of an export's ``ezo_model.h`` by name, without EZO_.

    Raises:
        ValueError: the folder is no export.
    """
    header = (folder or Path()) / "src" / "ezo_model.h"
    if folder is None or not header.exists():
        raise ValueError(
            f"expected a folder that `ezo export` wrote, with src/ezo_model.h, got "
            f"{folder or 'none'}; give its --out"
        )
    found = re.findall(r"#define EZO_(\w+) \((-?\d+)\)", header.read_text(encoding="utf-8"))
    return {name: int(value) for name, value in found}


def emulate(
    folder: Path | None,
    data: Path | None = None,
    labels: Path | None = None,
    steps: int | None = None,
    state: Path | None = None,
) -> int:
    """The self-test on an emulated Cortex-M4, then steps on examples of a file.

    Args:
        data, labels: files of int8 examples, one after the other, and of their labels, uint8. A
            step takes the next examples, after the last the first again.
        steps: by default once through the examples.
        state: file for what ``ezo_save`` saves after them.

    Returns:
        0, or what the self-test found.

    Raises:
        ValueError: the folder is no export, or the files don't fit it.
    """
    known = constants(folder)
    assert folder is not None
    pool = None if data is None else _pool(known, data, labels)
    if pool is None and (labels or steps or state):
        raise ValueError("expected --data and --labels beside --steps and --state; give the files")
    with tempfile.TemporaryDirectory() as place:
        program = compilers.link(folder, "zig", "cortex-m4", out=Path(place) / "emulated.elf")
        device = Device(program, known["ARENA_BYTES"], count=pool is None)
    found = device.call("drive_check", device.arena)
    print("the self-test found", "Python's bits" if found == 0 else f"a difference, {found}")
    if pool is None:
        print(f"{device.instructions():,} instructions, {device.stack_bytes():,} bytes of stack")
    if found or pool is None:
        return found
    n = len(pool[1])
    steps = steps or max(1, n // known["BATCH"])
    x, y, losses = (device.put(content) for content in (*pool, bytes(8 * steps)))
    digest = device.call(
        "drive", device.arena, x, y, n, steps, known["RATE"], known["MU"], 1, losses
    )
    for name, step in (("first", 0), ("last", steps - 1)):
        loss = int.from_bytes(device.get(losses + 8 * step, 8), "little", signed=True)
        print(f"{name} step's loss: {loss / known['BATCH'] / 2**20:.3f} bits an example")
    print(f"{steps} steps, CRC-32 of the weights {digest:08x}")
    if state is not None:
        to = device.put(bytes(known["STATE_FILE_BYTES"]))
        state.write_bytes(device.get(to, device.call("drive_save", device.arena, to)))
        print(f"wrote {state}")
    return 0


def _pool(known: dict[str, int], data: Path, labels: Path | None) -> tuple[bytes, bytes]:
    """Both files' bytes."""
    if labels is None:
        raise ValueError("expected --labels beside --data, got none; give the file of labels")
    x, y = data.read_bytes(), labels.read_bytes()
    of = known["INPUT_BYTES"]
    if not x or len(x) % of or len(x) // of != len(y):
        raise ValueError(
            f"expected {of} bytes of {data} for each byte of {labels}, got {len(x):,} and "
            f"{len(y):,}; write int8 examples and uint8 labels"
        )
    if known["TRAINED"] == 0:
        raise ValueError("expected an export that trains, got one for prediction alone")
    if max(y) >= known["CLASSES"]:
        raise ValueError(
            f"expected labels of 0 to {known['CLASSES'] - 1}, got {max(y)} in {labels}; number the "
            "classes from 0"
        )
    if len(x) + 2 * known["STATE_FILE_BYTES"] > DATA_BYTES // 2:
        raise ValueError(
            f"expected {data} of up to {DATA_BYTES // 2 - 2 * known['STATE_FILE_BYTES']:,} bytes, "
            f"got {len(x):,}; give fewer examples"
        )
    return x, y


def qemu(folder: Path | None, board: str, main: Path | None = None) -> int:
    """A program with an exported network on a part of QEMU; returns what its ``main`` returned.

    Args:
        main: its C file; by default the folder's main.c.

    Raises:
        ValueError: the folder is no export, no such part is known, or the C does not compile, does
            not fit or does not end.
    """
    constants(folder)
    assert folder is not None
    if board not in boards.BOARDS:
        known = ", ".join(boards.BOARDS)
        raise ValueError(f"expected --board, one of {known}, got {board}; give one of them")
    if main is not None and not main.exists():
        raise ValueError(f"expected --main, a C file with main, got {main}; give a file")
    part = boards.BOARDS[board]
    with tempfile.TemporaryDirectory() as place:
        program = Path(place) / "main.elf"
        sources = [*sorted((folder / "src").glob("*.c")), main or folder / "main.c"]
        try:
            boards.link(board, sources, folder / "src", program, warnings=())
        except RuntimeError as error:
            raise ValueError(
                f"expected C that links for {part.part}, whose RAM is {part.ram[1]:,} bytes, got "
                f"from the compiler: {error}"
            ) from error
        try:
            done = boards.started(program, board, SECONDS)
        except subprocess.TimeoutExpired as error:
            raise ValueError(
                f"expected main to return within {SECONDS} seconds, got none; in QEMU let it end"
            ) from error
    print(done.stdout + done.stderr, end="")
    print(f"main returned {done.returncode} on {part.part}, {part.ram[1]:,} bytes of RAM")
    return done.returncode
