"""Farthest points: of many vectors the few that leave none of the others far from all of them."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

Rows = NDArray[np.float32]
ALIKE = 1e-4
"""Distances below this are none: copies, moved and turned ones too."""
SMALL = 0.01
"""A component that spreads by less than this part of the largest spread is scaled as if it spread so far."""
ROUNDED = 1e-3
"""Where all spread by less than this part of the largest number, rounding would be scaled up: likewise."""


@dataclass(frozen=True)
class Taken:
    """One point: its row, its distance from the nearest before it (infinite for the first), and which that was.

    ``nearest``: the order of an earlier one, or −1: one that was known beforehand.
    """

    row: int
    distance: float
    nearest: int


@dataclass(frozen=True)
class Scale:
    """Centres and scales components, so that all of them count; a distance is an RMS over components."""

    mean: Rows
    factor: Rows

    @classmethod
    def of(cls, rows: Rows) -> Scale:
        """From the spread of rows (k, D)."""
        spread = rows.std(0, dtype=np.float64)
        largest = float(np.abs(rows).max(initial=0.0))
        floor = max(SMALL * float(spread.max(initial=0.0)), ROUNDED * largest, 1e-12)
        factor = 1.0 / (np.maximum(spread, floor) * np.sqrt(max(rows.shape[1], 1)))
        return cls(rows.mean(0, dtype=np.float64).astype(np.float32), factor.astype(np.float32))

    def __call__(self, rows: NDArray[Any]) -> Rows:
        """Rows (k, D) as distances take them."""
        out: Rows = (rows.astype(np.float32) - self.mean) * self.factor
        return out


def distances(rows: Rows, point: Rows) -> NDArray[np.float64]:
    """Of rows (k, D) from a point (D,)."""
    d = rows - point
    out: NDArray[np.float64] = np.sqrt(np.einsum("kd,kd->k", d, d, dtype=np.float64))
    return out


def farthest(rows: Rows, count: int, known: Iterable[Rows] = ()) -> list[Taken]:
    """Points one after another, each the farthest from all before it; of equally far ones the first.

    Args:
        rows: (k, D), the first of which comes first where nothing is known. count: at most so many.
        known: points (D,) that are there already.

    Returns:
        fewer than ``count`` where all that are left are copies of those taken or known.
    """
    near, whose = np.full(len(rows), np.inf), np.full(len(rows), -1)
    for point in known:
        near = np.minimum(near, distances(rows, point))
    out: list[Taken] = []
    while len(out) < min(count, len(rows)):
        k = int(near.argmax())
        if near[k] < ALIKE:
            break
        out.append(Taken(k, float(near[k]), int(whose[k])))
        d = distances(rows, rows[k])
        closer = d < near
        near[closer], whose[closer] = d[closer], len(out) - 1
        near[k] = 0.0
    return out
