"""Which of ASE's constraints a relaxation heeds, and what is wrong with those that it cannot."""

from __future__ import annotations

from copy import deepcopy
from typing import Any

import numpy as np
from ase import Atoms
from ase.constraints import FixAtoms, FixCartesian, FixedLine, FixedPlane, FixScaled, FixSymmetry
from ase.stress import full_3x3_to_voigt_6_stress, voigt_6_to_full_3x3_stress
from numpy.typing import NDArray

from ..errors import StructureError

Array = NDArray[np.float64]

OF_SOME_ATOMS = (FixAtoms, FixCartesian, FixScaled, FixedLine, FixedPlane)
HEEDED = (*OF_SOME_ATOMS, FixSymmetry)
"""These say by positions, cell, forces and stress alone what atoms and cell may do."""


def constrained(atoms: Atoms, name: str) -> Atoms | None:
    """Positions, cell and constraints of a structure, or None where it has no constraints.

    Raises:
        StructureError: a constraint of another kind, one for atoms that there are not, or one without a direction.
    """
    if not atoms.constraints:
        return None
    for constraint in atoms.constraints:
        kind = type(constraint).__name__
        if not isinstance(constraint, HEEDED):
            known = ", ".join(c.__name__ for c in HEEDED)
            raise StructureError(name, f"constraint {kind} is not supported; {known} are. Remove it to relax without")
        if isinstance(constraint, FixSymmetry):
            _check_symmetry(constraint, atoms, name)
            continue
        index = np.asarray(constraint.index)
        if len(index) and not -len(atoms) <= index.min() <= index.max() < len(atoms):
            bad = int(index.max() if index.max() >= len(atoms) else index.min())
            raise StructureError(name, f"constraint {kind} is for atom {bad}, but there are {len(atoms)} atoms")
        _check_direction(constraint, kind, name)
        if isinstance(constraint, FixScaled) and np.linalg.det(atoms.cell.complete()) == 0.0:
            raise StructureError(name, f"constraint {kind} is along lattice vectors that are linearly dependent")
    bare = Atoms(atoms.numbers, atoms.positions, cell=atoms.cell, pbc=atoms.pbc)
    bare.set_constraint(deepcopy(atoms.constraints))
    return bare


def _check_direction(constraint: Any, kind: str, name: str) -> None:
    if isinstance(constraint, FixedLine | FixedPlane) and not np.isfinite(constraint.dir).all():
        raise StructureError(name, f"constraint {kind} has no direction: its vector is 0 or not finite")
    if isinstance(constraint, FixCartesian | FixScaled) and np.shape(constraint.mask) != (3,):
        raise StructureError(
            name, f"constraint {kind} needs a mask of three, got one of shape {np.shape(constraint.mask)}"
        )


def _check_symmetry(constraint: FixSymmetry, atoms: Atoms, name: str) -> None:
    count = len(constraint.symm_map[0])
    if count != len(atoms):
        raise StructureError(name, f"constraint FixSymmetry is for {count} atoms, but there are {len(atoms)}")
    try:
        np.linalg.inv(atoms.cell[:])
    except np.linalg.LinAlgError:
        raise StructureError(name, "constraint FixSymmetry needs three independent lattice vectors") from None


def _symmetries(atoms: Atoms) -> list[FixSymmetry]:
    return [c for c in atoms.constraints if isinstance(c, FixSymmetry)]


def keeps_symmetry(atoms: Atoms) -> bool:
    """Whether a constraint holds what a cell may do."""
    return bool(_symmetries(atoms))


def hold_virial(atoms: Atoms, virial: Array) -> Array:
    """What constraints leave of a symmetric virial (3, 3) in eV: that which keeps the cell's symmetry."""
    six = full_3x3_to_voigt_6_stress(virial)
    for constraint in _symmetries(atoms):
        constraint.adjust_stress(atoms, six)
    return np.asarray(voigt_6_to_full_3x3_stress(six))


def hold_cell(atoms: Atoms, cell: Array) -> Array:
    """Where constraints let a cell (3, 3) in Å go from where the structure is: to one that has its symmetry."""
    out = cell.copy()
    for constraint in _symmetries(atoms):
        try:
            constraint.adjust_cell(atoms, out)
        except (RuntimeError, np.linalg.LinAlgError):
            # ASE refuses long steps. The virial that made this one has the symmetry, so it has it but for rounding; and
            # a cell without a volume is told of by the next evaluation.
            return out
    return out
