"""Pairs of atoms that lie far apart or in a long thin cell, by scipy's k-d tree: cost follows atoms, not volume.

A search that sorts atoms into a grid of cells needs memory and time for the empty ones too; vesin bounds their number,
and divides by zero where that leaves none along an axis. Here periodic images become points of their own, as many as
lie within the cut-off of the box, and a tree finds the pairs.
"""

from __future__ import annotations

from itertools import product

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]
Index = NDArray[np.int64]


def pairs(points: Array, cell: Array, periodic: NDArray[np.bool_], cutoff: float) -> tuple[Index, Index, Index, Array]:
    """All pairs |r_j − r_i + S·cell| < cutoff, both ways round, sorted by i and then j.

    Args:
        points: (n, 3) Å, inside of the cell along its periodic axes. cell: (3, 3) Å, rows are lattice vectors, of full
            rank. cutoff: Å.

    Returns:
        i, j (e,); S (e, 3) cell shifts; D (e, 3) r_j − r_i + S·cell in Å.
    """
    from scipy.spatial import cKDTree  # few structures need it, and it takes a while to load

    images, atom, shift = _images(points, cell, periodic, cutoff)
    found = cKDTree(points).sparse_distance_matrix(cKDTree(images), cutoff, output_type="ndarray")
    found = found[found["v"] < cutoff]
    i, image = found["i"].astype(np.int64), found["j"].astype(np.int64)
    j, s = atom[image], shift[image]
    itself = (i == j) & (s == 0).all(axis=1)
    i, j, s, image = i[~itself], j[~itself], s[~itself], image[~itself]
    order = np.lexsort((*s.T, j, i))
    i, j, s, image = i[order], j[order], s[order], image[order]
    return i, j, s, images[image] - points[i]


def _images(points: Array, cell: Array, periodic: NDArray[np.bool_], cutoff: float) -> tuple[Array, Index, Index]:
    """Atoms and their images within the cut-off of the box: places, atom of each, and shift of each."""
    n = len(points)
    dual = np.linalg.inv(cell)
    fraction = points @ dual
    reach = cutoff * np.linalg.norm(dual, axis=0)  # the cut-off in units of the distance of lattice planes
    most = np.where(periodic, np.ceil(reach), 0.0).astype(int)
    ranges = [range(-k, k + 1) for k in most]
    places, atoms, shifts = [], [], []
    for s in product(*ranges):
        moved = fraction + s
        near = ((moved > -reach) & (moved < 1.0 + reach) | ~periodic).all(axis=1)
        which = np.arange(n) if s == (0, 0, 0) else np.flatnonzero(near)
        places.append(points[which] + np.asarray(s, float) @ cell)
        atoms.append(which)
        shifts.append(np.broadcast_to(np.asarray(s, np.int64), (len(which), 3)))
    return np.concatenate(places), np.concatenate(atoms).astype(np.int64), np.concatenate(shifts)
