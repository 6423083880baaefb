"""Masses, velocities and what may move of a structure that molecular dynamics begins with."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from ase import Atoms, units
from ase.constraints import FixAtoms, FixCartesian
from numpy.typing import NDArray

from ..errors import StructureError

Array = NDArray[np.float64]


def masses_of(atoms: Atoms, name: str) -> Array:
    """(n,) u.

    Raises:
        StructureError: an atom without a mass.
    """
    masses = np.asarray(atoms.get_masses(), dtype=np.float64)
    for k in np.flatnonzero(~(np.isfinite(masses) & (masses > 0.0))).tolist():
        raise StructureError(name, f"atom {k} ({atoms.symbols[k]}) has the mass {masses[k]:g}; it needs a positive one")
    return masses


def free_of(atoms: Atoms, name: str) -> NDArray[np.bool_]:
    """(n, 3) which coordinates may move.

    Raises:
        StructureError: a constraint of another kind than FixAtoms and FixCartesian, or for atoms that there are not.
    """
    free = np.ones((len(atoms), 3), dtype=bool)
    for constraint in atoms.constraints:
        kind = type(constraint).__name__
        if not isinstance(constraint, FixAtoms | FixCartesian):
            known = "FixAtoms and FixCartesian"
            raise StructureError(name, f"constraint {kind} is not supported in molecular dynamics; {known} are")
        index = np.asarray(constraint.index)
        if len(index) and not -len(atoms) <= index.min() <= index.max() < len(atoms):
            raise StructureError(name, f"constraint {kind} is for atoms that are not among its {len(atoms)}")
        mask = np.ones(3, dtype=bool) if isinstance(constraint, FixAtoms) else np.asarray(constraint.mask, dtype=bool)
        free[index] &= ~mask
    return free


def velocities_of(atoms: Atoms, free: NDArray[np.bool_], masses: Array, name: str) -> Array | None:
    """(n, 3) those that the structure brings along, or None where it brings none (or nothing but zeros).

    Raises:
        StructureError: one that is not finite.
    """
    if "momenta" not in atoms.arrays:
        return None
    found = np.asarray(atoms.arrays["momenta"], dtype=np.float64) / masses[:, None] * free
    if not np.isfinite(found).all():
        bad = int(np.argwhere(~np.isfinite(found))[0][0])
        raise StructureError(name, f"velocity of atom {bad} is not finite")
    return found if found.any() else None


def maxwell(masses: Array, free: NDArray[np.bool_], temperature: float, seed: Sequence[int], rest: bool) -> Array:
    """(n, 3) velocities drawn at a temperature.

    Args:
        masses: (n,) u. free: (n, 3). temperature: K, which they have to the last digit.
        rest: whether the total momentum is taken out.
    """
    kT = units.kB * temperature
    drawn = np.random.default_rng(list(seed)).standard_normal((len(masses), 3))
    velocities = drawn * np.sqrt(kT / masses)[:, None] * free
    if rest:
        velocities = velocities - (masses[:, None] * velocities).sum(axis=0) / masses.sum()
    twice = float((masses[:, None] * velocities**2).sum())
    count = degrees(free, rest)
    return velocities * np.sqrt(count * kT / twice) if twice > 1e-12 and count else np.zeros_like(velocities)


def degrees(free: NDArray[np.bool_], rest: bool) -> int:
    """How many degrees of freedom have kinetic energy, without those of the total momentum where that is at rest."""
    return int(free.sum()) - (3 if rest else 0)
