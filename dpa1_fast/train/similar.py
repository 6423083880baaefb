"""How much an element is like others, from the periodic table or from electron configurations."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from ..electrons import SYMBOLS, econf_vector

WAYS = ("neighbors", "electrons")
NEAREST = 3
"""So many known elements stand for a new one."""

NOBLE = (0, 2, 10, 18, 36, 54, 86, 118)
"""Atomic numbers with which a period ends."""


def place(symbol: str) -> tuple[float, float]:
    """Period and group of an element; those between group 3 and 4 lie between them."""
    z = SYMBOLS.index(symbol) + 1
    period = next(k for k in range(1, len(NOBLE)) if z <= NOBLE[k])
    nth, length = z - NOBLE[period - 1], NOBLE[period] - NOBLE[period - 1]
    if length == 2:
        return 1.0, 1.0 if nth == 1 else 18.0
    if nth <= 2 or length == 18:
        return float(period), float(nth if length == 18 or nth <= 2 else nth + 10)
    if length == 8:
        return float(period), float(nth + 10)
    # Fifteen elements from La and Ac on share group 3.
    return float(period), 3.0 + (nth - 3) / 15.0 if nth <= 17 else float(nth - 14)


def shares(symbol: str, known: Sequence[str], way: str) -> NDArray[np.float64]:
    """How much each known type counts for a new one; they sum to 1. (len(known),).

    ``neighbors``: by distance in the periodic table, a group's member one period away nearer than the next group.
    ``electrons``: by distance of electron configurations. For names that are no elements all
    count alike.
    """
    elements = [k for k, name in enumerate(known) if name in SYMBOLS]
    out = np.zeros(len(known))
    if symbol not in SYMBOLS or not elements:
        out[:] = 1.0 / len(known)
        return out
    distances = np.array([_distance(symbol, known[k], way) for k in elements])
    nearest = np.argsort(distances, kind="stable")[:NEAREST]
    weight = 1.0 / distances[nearest] ** 2
    out[np.array(elements)[nearest]] = weight / weight.sum()
    return out


def _distance(a: str, b: str, way: str) -> float:
    if way == "electrons":
        return float(np.linalg.norm(econf_vector(a) - econf_vector(b)))
    (p, g), (q, h) = place(a), place(b)
    return float(np.hypot(0.8 * (p - q), g - h))
