"""Shared memory of a program, and the fences that stores need before products of warp groups may read them."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from .fragments import packed, unpacked
from .number_types import ALL, BY_SIZE, I64, LANE, U16
from .operands import SHARED
from .races import CELL, Findings, Shadow, poisoned
from .warp import Warp

ROW = 16
"""Bytes of a row of the matrices that ldmatrix and stmatrix move."""
NO_LANE, NEITHER = 32, 33
"""Stand for a thread where several take part of what another one names: it is another one than any."""


class SharedMemory:
    """Loads and stores of a warp, by address from ``SHARED`` on.

    Attributes:
        views: element size → all memory. unfenced: of each cell, 1 + the warp whose store was not fenced yet, or 0.
        stored_at: when it was stored, as ``warp.fenced`` counts.
    """

    def __init__(self, size: int, findings: Findings) -> None:
        self.memory = np.zeros(SHARED + size + 16, dtype=np.uint8)
        self.views = {s: self.memory[: len(self.memory) // s * s].view(t) for s, t in BY_SIZE.items()}
        self.findings = findings
        cells = len(self.memory) // CELL + 1
        self.shadow = Shadow(lambda _: "shared", cells, findings)
        self.unfenced, self.stored_at = np.zeros(cells, dtype=np.int32), np.zeros(cells, dtype=np.int64)
        self._own: dict[int, list[np.ndarray]] = {}
        self._tick = 0

    def begin(self) -> None:
        """The next program begins."""
        self._own = {}

    def _places(self, address: np.ndarray, size: int, i: int) -> np.ndarray:
        at = address.astype(I64)
        if (at < SHARED).any() or (at + size > len(self.memory)).any():
            raise IndexError(f"outside of shared memory: {self.findings.instructions[i].text}")
        if (at % size).any():
            self.findings.note("not aligned", later=i)
        return at

    @staticmethod
    def cells(at: np.ndarray, size: int) -> np.ndarray:
        """The cells of elements at places in memory."""
        return np.asarray((at[:, None] // CELL + np.arange(size // CELL)).ravel())

    # --- loads and stores of threads ----------------------------------------------------------------------------------

    def load(
        self, warp: Warp, address: np.ndarray, size: int, count: int, mask: np.ndarray | None, i: int
    ) -> np.ndarray:
        """``count`` neighbouring elements of ``size`` bytes for each thread of the mask. (count, 32)"""
        mask = ALL if mask is None else mask
        self.findings.done["shared loads"] += 1
        out = np.zeros((count, 32), dtype=BY_SIZE[size])
        if not mask.any():
            return out
        at = self._places(address[mask], size * count, i)
        lanes = np.repeat(LANE[mask], size * count // CELL)
        bad = self.shadow.load(warp, self.cells(at, size * count), i, lanes)
        out[:, mask] = self.views[size][(at // size)[None, :] + np.arange(count)[:, None]]
        return poisoned(out, bad, mask, size // CELL)

    def store(
        self, warp: Warp, address: np.ndarray, size: int, count: int, values: Sequence[np.ndarray],
        mask: np.ndarray | None, i: int,
    ) -> None:  # fmt: skip
        """The same, to memory."""
        mask = ALL if mask is None else mask
        self.findings.done["shared stores"] += 1
        if not mask.any():
            return
        at = self._places(address[mask], size * count, i)
        new = np.stack(list(values))[:, mask].view(BY_SIZE[size])
        lanes = np.repeat(LANE[mask], size * count // CELL)
        self._note(warp, self.cells(at, size * count), i, lanes, np.ascontiguousarray(new.T).view(U16).ravel())
        self.views[size][(at // size)[None, :] + np.arange(count)[:, None]] = new

    def _note(self, warp: Warp, cells: np.ndarray, i: int, lanes: np.ndarray, new: np.ndarray) -> None:
        self.shadow.store(warp, cells, i, lanes, lambda: self.views[CELL][cells], new)
        self._tick += 1
        self.unfenced[cells] = warp.index + 1
        self.stored_at[cells] = self._tick
        self._own.setdefault(warp.index, []).append(cells)

    # --- matrices of 8 by 8 -------------------------------------------------------------------------------------------

    def load_matrices(self, warp: Warp, address: np.ndarray, count: int, turned: bool, i: int) -> list[np.ndarray]:
        """ldmatrix: the first 8 · count threads name a row each."""
        self.findings.done["shared loads"] += 1
        at = self._places(address[: 8 * count], ROW, i)
        self.shadow.load(warp, self.cells(at, ROW), i, np.full(len(at) * ROW // CELL, NO_LANE))
        rows = self.views[CELL][at[:, None] // CELL + np.arange(8)].reshape(count, 8, 8)
        return [packed(m.T if turned else m) for m in rows]

    def store_matrices(
        self, warp: Warp, address: np.ndarray, count: int, turned: bool, values: Sequence[np.ndarray], i: int
    ) -> None:
        """stmatrix."""
        self.findings.done["shared stores"] += 1
        at = self._places(address[: 8 * count], ROW, i)
        matrices = [unpacked(x) for x in values]
        new = np.concatenate([m.T if turned else m for m in matrices])
        self._note(warp, self.cells(at, ROW), i, np.full(new.size, NEITHER), new.ravel())
        self.views[CELL][at[:, None] // CELL + np.arange(8)] = new

    # --- what products of warp groups may read ------------------------------------------------------------------------

    def fence(self, warp: Warp) -> None:
        """fence.proxy.async: what this warp stored may be read by products once warps have met."""
        self._tick += 1
        warp.fenced = self._tick
        for cells in self._own.pop(warp.index, []):
            self.unfenced[cells[self.unfenced[cells] == warp.index + 1]] = 0

    def check_fences(self, warp: Warp, cells: np.ndarray, i: int) -> None:
        """Notes what a product reads that was not fenced by whoever stored it."""
        open_ = self.unfenced[cells] != 0
        late = open_ & (self.stored_at[cells] <= warp.fenced)
        if (open_ & ~late).any():
            self.findings.note("wgmma reads what was not fenced", "shared", later=i)
        if (late & (self.unfenced[cells] != warp.index + 1)).any():
            self.findings.note("wgmma reads what only the reader fenced", "shared", later=i)
