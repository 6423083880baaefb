"""OpenMM: a ``PythonForce`` for a system of OpenMM's, and ``openmm-ml``'s potential of the name "dpa1_fast"."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import ase.units
import numpy as np
from ase import Atoms

from ..structures.verlet import Array
from .copies import Copies

try:
    import openmm
    from openmm import unit
except ImportError as error:
    raise ImportError(f"OpenMM is needed ({error}): pip install 'dpa1-fast[openmm]'") from error

KJ_PER_MOL = ase.units.kJ / ase.units.mol
"""eV."""


class Compute:
    """What OpenMM calls at every step. It can be pickled, and so a system with it serialized."""

    def __init__(self, copies: Copies) -> None:
        self._copies = copies

    def __call__(self, state: Any) -> tuple[float, Array]:
        """Energy in kJ/mol and forces (n, 3) in kJ/mol/nm of a state."""
        positions = state.getPositions(asNumpy=True).value_in_unit(unit.angstrom)
        cell = np.zeros((3, 3))
        if self._copies.atoms.pbc.any():
            cell = state.getPeriodicBoxVectors(asNumpy=True).value_in_unit(unit.angstrom)
        step = self._copies(positions[None], cell[None])
        return float(step.energy[0]) / KJ_PER_MOL, step.forces * (10.0 / KJ_PER_MOL)


def python_force(
    model: Any, elements: Iterable[Any], periodic: bool, particles: Iterable[int] | None = None, **options: Any
) -> openmm.PythonForce:
    """A force to add to an OpenMM system.

    Args:
        model: a file or a bundled model's name, or an ``Engine``.
        elements: of the atoms that it acts on, in order: symbols or atomic numbers.
        periodic: whether the system's box counts, along all three axes.
        particles: which of the system's particles these atoms are; by default all.
        options: precision, threads, device, backend, head as for ``dpa1_fast.load``.

    Raises:
        ModelFileError, BackendError: as ``dpa1_fast.load``. StructureError: an element that the model does not know.
            At a step OpenMM reports it as its own exception, with our words in it.
    """
    # Places are OpenMM's to give; until then the atoms stand in a row, in a box that holds them.
    symbols = list(elements)
    row = np.arange(len(symbols))[:, None] * [3.0, 0.0, 0.0]
    atoms = Atoms(symbols, row, cell=[3.0 * len(symbols) + 3.0] * 3, pbc=periodic)
    force = openmm.PythonForce(Compute(Copies(model, atoms, **options)))
    force.setUsesPeriodicBoundaryConditions(bool(periodic))
    if particles is not None:
        force.setParticles(list(particles))
    return force
