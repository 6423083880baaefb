"""Who loaded and stored what since the last barrier, and what can go wrong between them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from .number_types import U32
from .parser import Instruction
from .warp import Warp

CELL = 2
"""Bytes of a cell: the smallest element that is loaded or stored."""


@dataclass(frozen=True)
class Finding:
    """What was found in a kernel.

    Attributes:
        kind: RAW, WAR ("a load of what another warp stored", …), or in words. memory: a tensor's name, "shared", or "".
        earlier, later: source lines.
    """

    kind: str
    memory: str
    earlier: str
    later: str

    @property
    def may_be_harmless(self) -> bool:
        """Where several warps hold an element of a tensor in global memory, all load it and one stores it again; which
        comes first matters only if what the others loaded is used, and then results say so."""
        return self.kind in ("RAW", "WAR") and self.memory not in ("shared", "")


class Findings:
    """What was found in one kernel, with how many cells each concerns; and counts of what was done."""

    def __init__(self, instructions: Sequence[Instruction]) -> None:
        self.instructions = instructions
        self.found: Counter[Finding] = Counter()
        self.done: Counter[str] = Counter()

    def place(self, i: int) -> str:
        """The source line of an instruction."""
        return self.instructions[i].place

    def note(
        self, kind: str, memory: str = "", earlier: int | None = None, later: int | None = None, n: int = 1
    ) -> None:
        """Notes what was found between two instructions, at one, or at none."""
        places = ("" if i is None else self.place(i) for i in (earlier, later))
        self.found[Finding(kind, memory, *places)] += n


class Shadow:
    """What every warp did to each cell of a memory since the last barrier.

    Args:
        name: of the memory that a cell belongs to. cells: how many.
    """

    def __init__(self, name: Callable[[int], str], cells: int, findings: Findings) -> None:
        self.name, self.findings = name, findings
        self.readers, self.writers = np.zeros(cells, dtype=U32), np.zeros(cells, dtype=U32)
        self.reader, self.writer = np.zeros(cells, dtype=np.int32), np.zeros(cells, dtype=np.int32)
        # Of the last store: which lane's, and between which two synchronisations of its warp.
        self.lane, self.sync = np.zeros(cells, dtype=np.int8), np.zeros(cells, dtype=np.int32)
        self._touched: list[np.ndarray] = []

    def clear(self) -> None:
        """All warps have met."""
        for cells in self._touched:
            self.readers[cells] = 0
            self.writers[cells] = 0
        self._touched = []

    def keeps_reading(self, warp: Warp, cells: np.ndarray) -> None:
        """A load that goes on beyond a barrier."""
        self.readers[cells] |= warp.bit
        self._touched.append(cells)

    def load(self, warp: Warp, cells: np.ndarray, i: int, lanes: np.ndarray | None = None) -> np.ndarray | None:
        """Notes a load by instruction i; gives which of the cells another warp stored, None where there are none.

        Args:
            lanes: which thread loads each cell; None where no thread does.
        """
        writers, too_late = self.writers[cells], None
        others = (writers & ~warp.bit) != 0
        if others.any():
            too_late = others
            self._conflict("RAW", cells, others, self.writer, i)
        own = writers & warp.bit
        if lanes is not None and own.any():
            near = (own != 0) & (self.lane[cells] != lanes) & (self.sync[cells] == warp.syncs)
            if near.any():
                self._conflict("RAW in a warp", cells, near, self.writer, i)
        self.reader[cells] = i
        self.keeps_reading(warp, cells)
        return too_late

    def store(
        self, warp: Warp, cells: np.ndarray, i: int, lanes: np.ndarray, old: Callable[[], np.ndarray], new: np.ndarray
    ) -> None:
        """Notes a store. old, new: what is in the cells before and after."""
        others = (self.readers[cells] & ~warp.bit) != 0
        if others.any():
            self._conflict("WAR", cells, others, self.reader, i)
        others = (self.writers[cells] & ~warp.bit) != 0
        if others.any():
            others &= old() != new
            if others.any():
                self._conflict("WAW of different values", cells, others, self.writer, i)
        self.writers[cells] |= warp.bit
        self.writer[cells] = i
        self.lane[cells], self.sync[cells] = lanes, warp.syncs
        self._touched.append(cells)

    def _conflict(self, kind: str, cells: np.ndarray, which: np.ndarray, earlier: np.ndarray, i: int) -> None:
        at = int(cells[np.nonzero(which)[0][0]])
        self.findings.note(kind, self.name(at), int(earlier[at]), i, int(which.sum()))


def poisoned(out: np.ndarray, bad: np.ndarray | None, mask: np.ndarray, cells: int) -> np.ndarray:
    """NaN where another warp stored what is loaded.

    Args:
        out: (elements of a thread, 32). bad: (threads of the mask · elements · cells of an element,) or None.
    """
    if bad is None:
        return out
    whole = np.zeros((32, len(out)), dtype=bool)
    whole[mask] = bad.reshape(-1, len(out), cells).any(axis=2)
    return np.where(whole.T, np.iinfo(out.dtype).max, out)
