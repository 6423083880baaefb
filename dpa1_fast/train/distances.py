"""Whether distances are in Å, as far as the elements tell: atoms touch at about the sum of their covalent radii."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from ase.data import atomic_numbers, covalent_radii
from numpy.typing import NDArray
from scipy.spatial import cKDTree

from ..structures.batch import Neighborhood
from ..structures.structure import Structure

LOOKED = 200
"""Structures that are looked at, evenly over the data."""
TOO_NEAR, TOO_FAR = 0.45, 1.75
"""Of the sum of covalent radii: in nm atoms are 0.1 of what they should be apart, in bohr 1.89 times."""
NOBLE = ("He", "Ne", "Ar", "Kr", "Xe", "Rn")
"""These do not touch."""

Array = NDArray[np.float64]


def radii_of(type_map: Sequence[str]) -> Array:
    """Covalent radii (ntypes,), Å; NaN for types that are no elements, and for noble gases."""
    known = [name in atomic_numbers and name not in (*NOBLE, "X") for name in type_map]
    return np.array(
        [covalent_radii[atomic_numbers[n]] if k else np.nan for n, k in zip(type_map, known, strict=True)], np.float64
    )


def spacing_by_radii(type_map: Sequence[str], structures: Sequence[Structure]) -> float | None:
    """How far apart atoms are by their covalent radii, roughly and without a search that dense data would choke.

    Of crystals the cube root of the volume of an atom, of others the distance to the nearest, over twice the mean
    radius; the median over structures, None where none tells.
    """
    radii = radii_of(type_map)
    found = []
    for s in structures:
        mean = float(radii[s.types].mean()) if len(s) else np.nan
        if s.pbc.all():
            apart = (abs(float(np.linalg.det(s.cell))) / max(len(s), 1)) ** (1 / 3)
        else:
            apart = np.inf if len(s) < 2 else float(np.median(cKDTree(s.positions).query(s.positions, 2)[0][:, 1]))
        if np.isfinite(apart / mean):
            found.append(apart / (2 * mean))
    return float(np.median(found)) if found else None


def nearest_by_radii(type_map: Sequence[str], parts: Sequence[Neighborhood]) -> float | None:
    """The median over atoms of the distance to the nearest one, by the sum of both covalent radii; None where there is
    nobody within the cut-off."""
    radii = radii_of(type_map)
    found = [np.zeros(0)]
    for part in parts:
        e, types = part.edges, part.structure.types
        ratio = np.linalg.norm(e.vector, axis=1) / (radii[types[e.center]] + radii[types[e.neighbor]])
        least = np.full(len(types), np.inf)
        np.minimum.at(least, e.center, np.where(np.isfinite(ratio), ratio, np.inf))
        found.append(least[np.isfinite(least)])
    near = np.concatenate(found)
    return float(np.median(near)) if len(near) else None
