"""Relaxes many structures at once, whatever their sizes, elements and periodicity.

Structures are relaxed in one batch that new ones enter as others converge, by the steps of ``ase.optimize.FIRE`` with
its defaults (``fire.py``), with cells those of FIRE around ``UnitCellFilter`` (``degrees_of_freedom.py``). What a
structure does depends on nothing but itself: the model's numbers do not depend on how a batch is packed (CPU engine),
neither do lists (``verlet.py``) and steps. So the same input gives the same output, alone or among others; on a GPU up
to the rounding of its sums.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from ase import Atoms
from numpy.typing import NDArray

from ..engine import Engine, Result
from ..errors import StructureError
from ..kernels.cpu.threads import one_thread
from ..structures.structure import from_ase
from .constraints import constrained
from .degrees_of_freedom import DegreesOfFreedom, System
from .fire import Fire
from .stepper import Moving, Step

MAX_ATOMS = 4096
"""Atoms that are relaxed at a time: enough to make what a step costs per batch small, whatever the structures."""


@dataclass(frozen=True)
class Relaxed:
    """A structure after its relaxation.

    Attributes:
        atoms: relaxed; a copy of what came in, with new positions and, where its cell was relaxed, a new cell.
        result: what the engine says of it (energy, forces, virial, stress). Forces are the model's: those on atoms that
            a constraint holds are not 0.
        energy_before: eV, as it came in.
        converged: whether the largest force that constraints leave fell below fmax. steps: how many were done.
    """

    atoms: Atoms
    result: Result
    energy_before: float
    converged: bool
    steps: int


def relax(
    engine: Engine,
    structures: Sequence[Any],
    *,
    cell: bool = False,
    fmax: float = 0.05,
    steps: int = 500,
    max_atoms: int | None = None,
) -> list[Relaxed | StructureError]:
    """Relaxes structures to the nearest minimum of energy; results in their order.

    Steps are those of ``ase.optimize.FIRE`` with its defaults, with ``cell`` of FIRE around ``UnitCellFilter``.

    The constraints ``FixAtoms``, ``FixCartesian``, ``FixScaled`` (rows such as ``F F T`` of a POSCAR), ``FixedLine``,
    ``FixedPlane`` and ``FixSymmetry`` are heeded, alone and together, as ASE heeds them: where a cell moves, all atoms
    follow it, fixed ones too, and a constraint holds what an atom would do besides. A structure with another constraint
    is a StructureError that names it.

    A structure that cannot be evaluated, at its start or on its way, is a StructureError in its place, and all others
    are done.

    Args:
        structures: ``ase.Atoms``; a ``StructureError`` among them is passed on in its place.
        cell: also relax the cell of structures that are periodic along all three axes; others keep theirs.
        fmax: eV/Å. Converged is what has no force on an atom as large, and with ``cell`` no row of the cell's gradient,
            virial / number of atoms, in eV: ASE's criterion for ``UnitCellFilter``.
        steps: at most so many for each structure.
        max_atoms: that are relaxed at a time; a larger structure is relaxed alone. By default 4096.

    Raises:
        TypeError: a single ``ase.Atoms`` instead of a list, or something else than ``ase.Atoms`` in it.
        ValueError: fmax, steps or max_atoms make no sense.
    """
    if isinstance(structures, Atoms):
        raise TypeError("relax takes a list of structures; for one structure give [atoms]")
    if not fmax > 0.0 or not steps >= 0 or (max_atoms is not None and not max_atoms >= 1):
        raise ValueError(f"fmax, steps and max_atoms must be positive; got {fmax}, {steps} and {max_atoms}")
    structures = list(structures)
    ends: dict[int, _End | StructureError] = {}
    systems: dict[int, System] = {}
    for k, atoms in enumerate(structures):
        name = f"structure {k}"
        try:
            if isinstance(atoms, StructureError):
                raise atoms
            structure = from_ase(engine.config, atoms, name)
            systems[k] = System(structure, cell and bool(structure.pbc.all()), constrained(atoms, name))
        except StructureError as error:
            ends[k] = error
    with one_thread() if engine.backend == "cpu" else nullcontext():
        ends |= _relax(engine, systems, fmax, steps, max_atoms or MAX_ATOMS)
    every = ((atoms, ends[k]) for k, atoms in enumerate(structures))
    return [end if isinstance(end, StructureError) else _relaxed(atoms, end) for atoms, end in every]


@dataclass(frozen=True)
class _End:
    """Where a system ended: positions (n, 3) and cell (3, 3) in Å, and what the engine says of it there."""

    system: System
    positions: NDArray[np.float64]
    cell: NDArray[np.float64]
    result: Result
    before: float
    converged: bool
    steps: int


def _relax(
    engine: Engine, systems: dict[int, System], fmax: float, steps: int, max_atoms: int
) -> dict[int, _End | StructureError]:
    """Relaxes systems, and says of each how it ended."""
    ends: dict[int, _End | StructureError] = {}
    stepper, fire, freedom = Moving(engine), Fire(), DegreesOfFreedom()
    waiting = sorted(systems, key=lambda k: -len(systems[k].structure))
    batch: list[int] = []
    stay = np.zeros(0, dtype=bool)
    before: dict[int, float] = {}
    while True:
        stayed = np.flatnonzero(stay).tolist()
        atoms = sum(len(systems[batch[k]].structure) for k in stayed)
        new = _take(waiting, systems, max_atoms - atoms, empty=not stayed)
        batch = [batch[k] for k in stayed] + new
        if not batch:
            return ends
        if new or len(stayed) < len(stay):
            entering = [systems[k] for k in new]
            stepper.select([*stayed, *(s.structure for s in entering)])
            freedom.change(stay, entering)
            fire.change(stay, [s.rows for s in entering])
        found = stepper.step(freedom.positions, freedom.cells)
        before |= {k: float(found.energy[row]) for row, k in enumerate(batch[len(stayed) :], len(stayed))}
        force = freedom.forces(found)
        converged = fire.longest(force) < fmax
        stay = ~converged & (fire.taken < steps)
        stay[list(found.errors)] = False
        for row in np.flatnonzero(~stay).tolist():
            k = batch[row]
            ends[k] = found.errors.get(row) or _End(
                systems[k],
                *freedom.where(row),
                _result(found, row, freedom),
                before[k],
                bool(converged[row]),
                int(fire.taken[row]),
            )
        # Those that are done move once more, which nobody looks at: leaving and entering are one change of the batch.
        if stay.any():
            freedom.move(fire.step(force))


def _take(waiting: list[int], systems: dict[int, System], room: int, empty: bool) -> list[int]:
    """Takes the largest systems that fit into a batch with room for so many atoms; the list begins with the largest.

    One that fits into no batch is taken if the batch is empty and nothing else waits.
    """

    def minus_size(k: int) -> int:
        return -len(systems[k].structure)

    taken: list[int] = []
    while waiting and (place := bisect_left(waiting, -room, key=minus_size)) < len(waiting):
        k = waiting.pop(place)
        taken.append(k)
        room += minus_size(k)
    return taken or ([waiting.pop(0)] if empty and waiting else [])


def _result(found: Step, row: int, freedom: DegreesOfFreedom) -> Result:
    """The last step said what the engine says of a structure where it ended: nothing is computed again."""
    atoms, _, cell = freedom.atoms_of(row), *freedom.where(row)
    volume = replace(freedom.systems[row].structure, cell=cell).volume
    energies, forces = found.energies[atoms].copy(), found.forces[atoms].copy()
    virial, closest = found.virial[row].copy(), float(found.closest[row])
    return Result(float(found.energy[row]), forces, virial, energies, volume, closest=closest)


def _relaxed(before: Atoms, end: _End) -> Relaxed:
    atoms: Atoms = before.copy()
    # Not through constraints, which have been heeded.
    atoms.set_positions(end.positions, apply_constraint=False)
    if end.system.cell_moves:
        atoms.set_cell(end.cell, apply_constraint=False)
    return Relaxed(atoms, end.result, end.before, end.converged, end.steps)
