"""Which of ASE's constraints a relaxation heeds, and what is wrong with those that it cannot."""

from __future__ import annotations

from copy import deepcopy
from typing import Any

import numpy as np
from ase import Atoms
from ase.constraints import FixAtoms, FixCartesian, FixedLine, FixedPlane, FixScaled

from ..errors import StructureError

HEEDED = (FixAtoms, FixCartesian, FixScaled, FixedLine, FixedPlane)
"""These say by positions, cell and forces alone what their atoms may do."""


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
