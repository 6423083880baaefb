"""Where the tensors of a launch lie in memory."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from torch import Tensor


@dataclass(frozen=True)
class Spans:
    """Parts of memory, by rising address in bytes; tensors that overlap are one, and their names are joined."""

    names: list[str]
    start: np.ndarray
    stop: np.ndarray

    @classmethod
    def of(cls, tensors: Mapping[str, Tensor]) -> Spans:
        """Those of some tensors; empty ones have none."""
        spans: list[tuple[str, int, int]] = []
        for name, t in sorted(tensors.items(), key=lambda x: x[1].data_ptr()):
            start, stop = t.data_ptr(), t.data_ptr() + t.numel() * t.element_size()
            if spans and start < spans[-1][2]:
                names, first, last = spans.pop()
                spans.append((f"{names}|{name}", first, max(last, stop)))
            elif stop > start:
                spans.append((name, start, stop))
        names, starts, stops = zip(*spans, strict=True) if spans else ((), (), ())
        return cls(list(names), np.array(starts, dtype=np.int64), np.array(stops, dtype=np.int64))

    def owners(self, address: np.ndarray, size: int) -> np.ndarray:
        """Which span each element of ``size`` bytes lies in.

        Raises:
            IndexError: an element that is in none.
        """
        at = np.searchsorted(self.start, address, side="right") - 1
        if (at < 0).any() or (address + size > self.stop[at]).any():
            raise IndexError("outside of all tensors")
        return np.asarray(at)


class Cells:
    """Cells of ``size`` bytes, numbered from 0 on through all spans."""

    def __init__(self, spans: Spans, size: int) -> None:
        self.spans, self.size = spans, size
        # Spans begin at any address, so that a cell's worth is added where one might be cut.
        self.base = np.concatenate([[0], np.cumsum((spans.stop - spans.start) // size + 2)])

    def __len__(self) -> int:
        return int(self.base[-1])

    def of(self, address: np.ndarray, size: int) -> np.ndarray:
        """The cells (addresses, cells of an element) of elements of ``size`` bytes; IndexError as ``owners``."""
        address = address.astype(np.int64)
        at = self.spans.owners(address, size)
        first = address // self.size - self.spans.start[at] // self.size + self.base[at]
        return np.asarray(first[:, None] + np.arange(max(1, size // self.size)))

    def name(self, cell: int) -> str:
        """The name of the span that a cell belongs to."""
        return self.spans.names[int(np.searchsorted(self.base, cell, side="right")) - 1]
