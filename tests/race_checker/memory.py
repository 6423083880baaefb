"""The memory of one launch, cut into cells and numbered from 0 on, whatever the addresses."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from torch import Tensor

CELL = 2
"""Bytes of a cell: the smallest element that kernels store (bfloat16)."""


class Memory:
    """The cells of all tensors of a launch. Tensors that overlap share theirs, and their names are joined."""

    def __init__(self, kernel: str, tensors: Mapping[str, Tensor]) -> None:
        self.kernel = kernel
        spans: list[tuple[int, int, str]] = []
        for name, t in sorted(tensors.items(), key=lambda x: x[1].data_ptr()):
            start, stop = t.data_ptr() // CELL, -(-(t.data_ptr() + t.numel() * t.element_size()) // CELL)
            if spans and start < spans[-1][1]:
                before = spans.pop()
                spans.append((before[0], max(before[1], stop), f"{before[2]}|{name}"))
            elif stop > start:
                spans.append((start, stop, name))
        self.names = [name for _, _, name in spans]
        self.start = np.array([start for start, _, _ in spans], dtype=np.int64)
        self.stop = np.array([stop for _, stop, _ in spans], dtype=np.int64)
        self.base = np.concatenate([[0], np.cumsum(self.stop - self.start)])

    def __len__(self) -> int:
        return int(self.base[-1])

    def cells(self, addresses: np.ndarray, size: int) -> np.ndarray:
        """The cells (addresses, cells of an element) of elements of ``size`` bytes.

        Raises:
            ValueError: an address that is no multiple of the element's size.
            IndexError: an address outside of all tensors.
        """
        if (addresses % size).any():
            raise ValueError(f"{self.kernel} reaches elements of {size} bytes at places that are no multiples of it")
        place = addresses[:, None].astype(np.int64) // CELL + np.arange(max(1, size // CELL))
        owner = np.searchsorted(self.start, place, side="right") - 1
        if (owner < 0).any() or (place >= self.stop[owner]).any():
            raise IndexError(f"{self.kernel} leaves its tensors")
        return np.asarray(place - self.start[owner] + self.base[owner])

    def name(self, cell: int) -> str:
        """The tensor that a cell belongs to."""
        return self.names[int(np.searchsorted(self.base, cell, side="right")) - 1]
