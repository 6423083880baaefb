"""Compiled neighbour lists: fresh ones (``native/grid.h``) and those that last (``native/candidates.h``)."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

from . import library
from .buffer_pool import BufferPool

Array = NDArray[np.float64]
Index = NDArray[np.int64]

_POOL = BufferPool()


def search(
    positions: Array, real: NDArray[np.bool_], lattice: Array, dual: Array, cutoff: float
) -> tuple[Index, Index, Index, Array] | None:
    """Every pair closer than the cut-off, both ways round, sorted by (i, j, S).

    Args:
        positions: (n, 3) Å. real: (n,), False for virtual atoms, which are left out. lattice: (3, 3) Å, zero rows along
            axes that are not periodic. dual: (3, 3) its pseudo-inverse. cutoff: Å.

    Returns:
        ``counts``, ``image``, ``atom`` and ``shift`` of ``verlet.Candidates``; None where another way must be found.
    """
    if not library.available():
        return None
    lib, sizes, n = library.library(), np.zeros(2, dtype=np.int64), len(positions)
    given = [np.ascontiguousarray(x) for x in (real, positions, lattice, dual)]
    if not lib.dpa1_search(n, *map(_at, given), cutoff, _at(sizes)):
        return None
    pairs, images = sizes.tolist()
    counts, image, atom = (np.empty(k, dtype=np.int64) for k in (n, pairs, images))
    shift = np.empty((images, 3))
    lib.dpa1_found(_at(counts), _at(image), _at(atom), _at(shift))
    return counts, image, atom, shift


def edges(
    positions: Array, real: NDArray[np.bool_], lattice: Array, dual: Array, cutoff: float
) -> tuple[Index, Index, Array, float] | None:
    """The same pairs for a structure that is evaluated once; arguments as of ``search``.

    Returns:
        center, neighbor (e,); vector (e, 3) Å, r_neighbor − r_center through the faces; the shortest distance, Å,
        infinite where there is none. None where another way must be found.
    """
    if not library.available():
        return None
    lib, least = library.library(), np.full(1, np.inf)
    given = [np.ascontiguousarray(x) for x in (real, positions, lattice, dual)]
    count = lib.dpa1_fresh(len(positions), *map(_at, given), cutoff, _at(least))
    if count < 0:
        return None
    center, neighbor = (_POOL.take(f"fresh {name}", (count,), np.int64) for name in ("center", "neighbor"))
    vector = _POOL.take("fresh vector", (count, 3))
    lib.dpa1_fresh_edges(_at(center), _at(neighbor), _at(vector))
    return center, neighbor, vector, math.sqrt(least[0])


def row(counts: Index, image: Index, atom: Index, shift: Array) -> tuple[int, ...]:
    """One structure's list as ``near_edges`` reads it; the arrays must live on."""
    return len(atom), _at(counts), _at(image), _at(atom), _at(shift)


def near_edges(
    table: Index, candidates: int, offsets: Index, positions: Array, cells: Array, cutoff: float
) -> tuple[Index, tuple[Index, Index, Array], float]:
    """The candidates of all structures that are closer than the cut-off.

    Args:
        table: (S, 5), the ``row`` of each. candidates: how many there are in all. offsets: (S + 1,) first atom of each.
        positions: (n, 3) Å. cells: (S, 3, 3) Å, rows are lattice vectors. cutoff: Å.

    Returns:
        first_edge (n + 1,); centers, neighbors (e,) and vectors (e, 3) Å, sorted by centre; the least square of a
        distance, Å², infinite where there is none.
    """
    first_edge, least = np.empty(len(positions) + 1, dtype=np.int64), np.empty(1)
    center, neighbor = (_POOL.take(name, (candidates + 1,), np.int64) for name in ("center", "neighbor"))
    vector = _POOL.take("vector", (candidates + 1, 3))
    given = (_at(x) for x in (offsets, table, positions, cells))
    filled = (_at(x) for x in (first_edge, center, neighbor, vector, least))
    e = library.library().dpa1_near_edges(len(table), *given, cutoff, *filled)
    return first_edge, (center[:e], neighbor[:e], vector[:e]), float(least[0])


def _at(x: NDArray[Any]) -> int:
    address: int = x.__array_interface__["data"][0]
    return address
