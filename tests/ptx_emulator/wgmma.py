"""wgmma: products of warp groups, which read shared memory by themselves until they are waited for."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from .fragments import PLACES, half_value, left, tf32_value
from .number_types import F32, U32
from .operands import SHARED
from .races import CELL, Findings
from .shared_memory import SharedMemory
from .warp import Warp

PITCH = {1: 128, 2: 64, 3: 32}
"""Swizzle mode of a descriptor → bytes of its pattern's rows."""
SWIZZLE = {128: 7, 64: 3, 32: 1}
"""… → which bits of a row's number are mixed into the place."""


def places(descriptor: int, rows: np.ndarray, depth: int, size: int, turned: int) -> np.ndarray:
    """Where an operand's elements (rows, depth) of ``size`` bytes lie in shared memory.

    Raises:
        NotImplementedError: layouts that Triton does not use here: none swizzled, or with a base offset.
    """
    start = (descriptor & 0x3FFF) << 4
    leading, stride = ((descriptor >> 16) & 0x3FFF) << 4, ((descriptor >> 32) & 0x3FFF) << 4
    mode = descriptor >> 62
    if (descriptor >> 49) & 7 or mode not in PITCH:
        raise NotImplementedError(f"descriptor {descriptor:x}")
    pitch = PITCH[mode]
    row, k = rows[:, None], np.arange(depth)[None, :]
    if turned:
        wide = pitch // size
        offset = (row % wide) * size + (k % 8) * pitch + (row // wide) * leading + (k // 8) * stride
    else:
        offset = (row // 8) * stride + (row % 8) * pitch + k * size
    at = start + offset
    return np.asarray(at ^ (((at >> 7) & SWIZZLE[pitch]) << 4))


class GroupProducts:
    """One warp's sixteen rows of each product.

    Args:
        late: products read their operands when they are waited for; otherwise at once. Hardware does anything between.
    """

    def __init__(self, memory: SharedMemory, findings: Findings, *, late: bool) -> None:
        self.memory, self.findings, self.late = memory, findings, late

    def start(
        self, warp: Warp, registers: Sequence[int], a: np.ndarray | tuple[np.ndarray, ...], b: np.ndarray,
        adds: np.ndarray | bool, n: int, k: int, how: str, turned: tuple[int, int], i: int,
    ) -> None:  # fmt: skip
        """wgmma.mma_async: registers (+)= A (16, k) · B (k, n). a: registers, or a descriptor as b is."""
        self.findings.done["wgmma"] += 1
        size = 4 if how == "tf32" else 2
        b_places = places(self._descriptor(b), np.arange(n), k, size, turned[1])
        cells = self.memory.cells(b_places.ravel(), size)
        a_places, a_values = None, None
        if isinstance(a, tuple):
            a_values = left(a, how)
        else:
            rows = 16 * (warp.index % 4) + np.arange(16)
            a_places = places(self._descriptor(a), rows, k, size, turned[0])
            cells = np.concatenate([cells, self.memory.cells(a_places.ravel(), size)])
        if cells.max() * CELL >= len(self.memory.memory) or cells.min() * CELL < SHARED:
            raise IndexError(f"outside of shared memory: {self.findings.instructions[i].text}")
        self.memory.shadow.load(warp, cells, i)
        self.memory.check_fences(warp, cells, i)
        add = bool(adds[0]) if isinstance(adds, np.ndarray) else adds

        def work() -> None:
            values = a_values if a_places is None else self._values(a_places, how)
            out = values @ self._values(b_places, how).T
            for j in range(n // 8):
                for register, (row, column) in zip(registers[4 * j : 4 * j + 4], PLACES, strict=True):
                    x = out[row, 8 * j + column]
                    warp.r[register] = (x + warp.r[register].view(F32) if add else x).view(U32)

        if self.late:
            warp.started.append((work, cells))
        else:
            work()
            warp.started.append((lambda: None, cells))

    @staticmethod
    def _descriptor(x: np.ndarray) -> int:
        if len(np.unique(x)) > 1:
            raise ValueError("a descriptor that differs between threads")
        return int(x[0])

    def _values(self, at: np.ndarray, how: str) -> np.ndarray:
        if how == "tf32":
            return np.asarray(tf32_value(self.memory.views[4][at // 4]))
        return np.asarray(half_value(self.memory.views[2][at // 2], how))

    @staticmethod
    def commit(warp: Warp) -> None:
        """wgmma.commit_group."""
        warp.committed.append(len(warp.started) - sum(warp.committed))

    @staticmethod
    def wait(warp: Warp, most: int) -> None:
        """wgmma.wait_group: until no more than so many groups are left."""
        while len(warp.committed) > most:
            for _ in range(warp.committed.pop(0)):
                work, _cells = warp.started.pop(0)
                work()
