"""The exported C on a processor emulated in this process (PyPI's ``unicorn``).

The arena ends where memory ends, and so does the stack below: what reaches over an edge faults.
"""

import importlib
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np

from bench.mcu.elf import Elf

FLASH, RAM, DATA = 0x08000000, 0x20000000, 0x60000000
DATA_BYTES = 16 << 20  # for examples and whatever else is `put`
STACK, ARENA = 0x2F000000, 0x30000000
PAGE = 0x1000
STACK_ROOM = 1 << 16
RETURN = 0x0FFF0000
FILL = 0xA5


class Device:
    """A Cortex-M processor with an exported network.

    Args:
        program: linked by `bench.mcu.compilers.link`.
        arena_bytes: of the export.
        processor: a name of `PROCESSORS`.
        count: whether to count instructions, which is slower.
    """

    def __init__(
        self, program: Path, arena_bytes: int, processor: str = "cortex-m4", count: bool = False
    ) -> None:
        unicorn: Any = importlib.import_module("unicorn")
        arm_const: Any = importlib.import_module("unicorn.arm_const")

        self._elf, self._registers = Elf(program), arm_const
        models = {
            "cortex-m0+": arm_const.UC_CPU_ARM_CORTEX_M0,
            "cortex-m3": arm_const.UC_CPU_ARM_CORTEX_M3,
            "cortex-m4": arm_const.UC_CPU_ARM_CORTEX_M4,
            "cortex-m33": arm_const.UC_CPU_ARM_CORTEX_M33,
        }
        mode = unicorn.UC_MODE_THUMB | unicorn.UC_MODE_MCLASS
        self._uc: Any = unicorn.Uc(unicorn.UC_ARCH_ARM, mode, models[processor])
        self._uc.mem_map(FLASH, 8 << 20)
        self._uc.mem_map(RAM, 1 << 20)
        self._uc.mem_map(DATA, DATA_BYTES)
        self._uc.mem_map(STACK - STACK_ROOM, STACK_ROOM)
        self._uc.mem_map(RETURN, PAGE)
        room = -(-arena_bytes // PAGE) * PAGE
        self._uc.mem_map(ARENA, room)
        self.arena, self.arena_bytes = ARENA + room - arena_bytes, arena_bytes
        for address, content in self._elf.loads():
            self._uc.mem_write(address, content)
        self._uc.mem_write(ARENA, bytes([FILL]) * room)
        self._uc.mem_write(STACK - STACK_ROOM, bytes([FILL]) * STACK_ROOM)
        self._next = DATA
        self._blocks: Counter[tuple[int, int]] = Counter()
        if count:
            self._uc.hook_add(unicorn.UC_HOOK_BLOCK, self._see)

    def _see(self, uc: Any, address: int, size: int, _: Any) -> None:
        self._blocks[address, size] += 1

    def put(self, content: bytes) -> int:
        """Bytes into memory that is not the arena; returns their address."""
        at = self._next
        self._uc.mem_write(at, content)
        self._next += -(-len(content) // 8) * 8
        return at

    def get(self, address: int, n: int) -> bytes:
        return bytes(self._uc.mem_read(address, n))

    def call(self, name: str, *arguments: int) -> int:
        """A function, with integers and addresses; the first four in registers."""
        arm = self._registers
        rest = arguments[4:]
        top = STACK - 8 * -(-len(rest) // 2)
        for i, value in enumerate(rest):
            self._uc.mem_write(top + 4 * i, (value & 0xFFFFFFFF).to_bytes(4, "little"))
        for register, value in zip(
            (arm.UC_ARM_REG_R0, arm.UC_ARM_REG_R1, arm.UC_ARM_REG_R2, arm.UC_ARM_REG_R3),
            arguments,
            strict=False,
        ):
            self._uc.reg_write(register, value & 0xFFFFFFFF)
        self._uc.reg_write(arm.UC_ARM_REG_SP, top)
        self._uc.reg_write(arm.UC_ARM_REG_LR, RETURN | 1)
        self._uc.emu_start(self._elf.address(name) | 1, RETURN)
        found: int = self._uc.reg_read(arm.UC_ARM_REG_R0)
        return found

    def instructions(self) -> int:
        """Executed so far, where they are counted."""
        return sum(n * self._length(*block) for block, n in self._blocks.items())

    def by_function(self) -> dict[str, int]:
        """Instructions executed in each function, most first."""
        functions = sorted(
            (s.address & ~1, s.name) for s in self._elf.symbols if s.defined and s.bytes
        )
        starts = np.array([address for address, _ in functions])
        found: Counter[str] = Counter()
        for (address, size), n in self._blocks.items():
            at = int(np.searchsorted(starts, address, side="right")) - 1
            found[functions[at][1] if at >= 0 else "?"] += n * self._length(address, size)
        return dict(found.most_common())

    def _length(self, address: int, size: int) -> int:
        """Instructions of a block: halfwords that begin with 111 and two bits that aren't both 0
        are the first of two."""
        code, at, n = self.get(address, size), 0, 0
        while at < size:
            at += 4 if code[at + 1] >> 3 in (0b11101, 0b11110, 0b11111) else 2
            n += 1
        return n

    def stack_bytes(self) -> int:
        """The most that the stack was filled."""
        stack = self.get(STACK - STACK_ROOM, STACK_ROOM)
        untouched = len(stack) - len(stack.lstrip(bytes([FILL])))
        return len(stack) - untouched

    def before_arena(self) -> bytes:
        """Memory between the page's start and the arena, filled with `FILL` at first."""
        return self.get(ARENA, self.arena - ARENA)
