"""Memory that is used again: fresh pages cost more than what is written to them."""

from __future__ import annotations

import math
import sys
import threading
from typing import Any

import numpy as np
from numpy.typing import NDArray

MOST_BYTES = 1 << 25
"""Larger arrays are not kept: they are rare, and somebody may want the memory."""


def _alone() -> int:
    """What is counted where a local variable alone holds an array; interpreters differ."""
    kept = np.empty(1)
    return sys.getrefcount(kept)


ALONE = _alone()


class BufferPool:
    """Hands out arrays by name, the last one again once nobody holds it or a view of it any more."""

    def __init__(self) -> None:
        self._kept: dict[str, NDArray[Any]] = {}
        self._lock = threading.Lock()

    def take(self, name: str, shape: tuple[int, ...], dtype: Any = np.float64) -> NDArray[Any]:
        """An array of this shape whose contents are whatever was there."""
        size = math.prod(shape)
        with self._lock:
            kept = self._kept.pop(name, None)
            # Every view holds the array that it looks at.
            if kept is None or len(kept) < size or sys.getrefcount(kept) > ALONE:
                kept = np.empty(size + size // 8, dtype=dtype)
            if kept.nbytes <= MOST_BYTES:
                self._kept[name] = kept
        return kept[:size].reshape(shape)
