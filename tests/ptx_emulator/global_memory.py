"""Global memory: the tensors of a launch, where they are."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from tensor_spans import Cells, Spans
from torch import Tensor
from triton._C.libtriton import interpreter as raw

from .number_types import ALL, BY_SIZE, I64, LANE, U16, U64
from .races import CELL, Findings, Shadow, poisoned
from .warp import Warp


class GlobalMemory:
    """Loads and stores of a warp, by address. Tensors that overlap are one."""

    def __init__(self, tensors: Mapping[str, Tensor], findings: Findings) -> None:
        self.cells = Cells(Spans.of(tensors), CELL)
        self.findings = findings
        self.shadow = Shadow(self.cells.name, len(self.cells), findings)

    def _cells(self, address: np.ndarray, size: int, i: int) -> np.ndarray:
        if (address % size).any():
            self.findings.note("not aligned", later=i)
        try:
            return self.cells.of(address, size).ravel()
        except IndexError as e:
            x = self.findings.instructions[i]
            raise IndexError(f"{x.text} at {x.place} is {e}") from None

    def load(
        self, warp: Warp, address: np.ndarray, size: int, count: int, mask: np.ndarray | None, i: int
    ) -> np.ndarray:
        """``count`` neighbouring elements of ``size`` bytes for each thread of the mask. (count, 32)"""
        mask = ALL if mask is None else mask
        self.findings.done["global loads"] += 1
        bad = None
        if mask.any():
            cells = self._cells(address.view(I64)[mask], size * count, i)
            bad = self.shadow.load(warp, cells, i, np.repeat(LANE[mask], size * count // CELL))
        return poisoned(self._read(address, size, count, mask), bad, mask, size // CELL)

    def _read(self, address: np.ndarray, size: int, count: int, mask: np.ndarray) -> np.ndarray:
        t = np.dtype(BY_SIZE[size])
        places, every = self._places(address, size, count, mask)
        return np.asarray(raw.load(places, every, np.zeros((count, 32), dtype=t), t))

    def _places(self, address: np.ndarray, size: int, count: int, mask: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        places = address + (np.arange(count, dtype=U64) * U64(size))[:, None]
        return places, np.broadcast_to(mask, (count, 32)).copy()

    def store(
        self, warp: Warp, address: np.ndarray, size: int, count: int, values: Sequence[np.ndarray],
        mask: np.ndarray | None, i: int,
    ) -> None:  # fmt: skip
        """The same, to memory."""
        mask = ALL if mask is None else mask
        self.findings.done["global stores"] += 1
        if not mask.any():
            return
        chosen = address.view(I64)[mask]
        cells = self._cells(chosen, size * count, i)
        if len(np.unique(chosen)) < len(chosen):
            self.findings.note("two threads of a warp store to one place", later=i)
        new = np.stack(list(values))

        def in_cells(x: np.ndarray) -> np.ndarray:
            return np.ascontiguousarray(x.T[mask]).view(U16).ravel()

        self.shadow.store(
            warp, cells, i, np.repeat(LANE[mask], size * count // CELL),
            lambda: in_cells(self._read(address, size, count, mask)), in_cells(new.view(BY_SIZE[size])),
        )  # fmt: skip
        places, every = self._places(address, size, count, mask)
        raw.store(places, new, every)
