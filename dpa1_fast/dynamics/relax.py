"""Relaxes many structures at once, whatever their sizes, elements and periodicity.

Structures are relaxed in one batch that new ones enter as others converge (TorchSim's in-flight batching), by steps
that are those of ``ase.optimize.FIRE`` with its defaults (``fire.py``), with cells those of ``UnitCellFilter`` around
it. What a structure does depends on nothing but itself: the model's numbers do not depend on how a batch is packed
(CPU engine), neither do lists (``verlet.py``) and steps. So the same input gives the same output, alone or among
others; on a GPU up to the rounding of its sums.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from ase import Atoms
from ase.constraints import FixAtoms, FixCartesian
from numpy.typing import NDArray

from ..engine import Engine, Result
from ..errors import StructureError
from ..kernels.cpu.threads import one_thread
from ..structures.structure import Structure, from_ase
from .fire import Evaluated, KnownStructures, begin, largest_force, stepper

from torch_sim import InFlightAutoBatcher, optimize  # isort: skip
from torch_sim.state import concatenate_states  # isort: skip

MAX_ATOMS = 4096
"""Atoms that are relaxed at a time: enough to make what a step costs per batch small, whatever the structures."""


@dataclass(frozen=True)
class Relaxed:
    """A structure after its relaxation.

    Attributes:
        atoms: relaxed; a copy of what came in, with new positions and, where its cell was relaxed, a new cell.
        result: what the engine says of it (energy, forces, virial, stress).
        energy_before: eV, as it came in.
        converged: whether the largest force fell below fmax. steps: how many were done.
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

    ``FixAtoms`` and ``FixCartesian`` are heeded. A structure that cannot be evaluated, at its start or on its way, is
    a StructureError in its place, and all others are done.

    Args:
        structures: ``ase.Atoms``; a ``StructureError`` among them is passed on in its place.
        cell: also relax the cell of structures that are periodic along all three axes; others keep theirs.
        fmax: eV/Å. Converged is what has no force on an atom as large, and with ``cell`` no row of the cell's gradient,
            virial / number of atoms, in eV: ASE's criterion for ``UnitCellFilter``.
        steps: at most so many for each structure.
        max_atoms: that are relaxed at a time; a larger structure is relaxed alone. By default 4096.

    Raises:
        ValueError: fmax, steps or max_atoms make no sense.
    """
    if isinstance(structures, Atoms):
        raise TypeError("relax takes a list of structures; for one structure give [atoms]")
    if not fmax > 0.0 or steps < 0 or (max_atoms is not None and max_atoms < 1):
        raise ValueError(f"fmax, steps and max_atoms must be positive; got {fmax}, {steps} and {max_atoms}")
    ends: dict[int, _End | StructureError] = {}
    ready: dict[int, tuple[Structure, NDArray[np.float64] | None]] = {}
    for k, atoms in enumerate(structures):
        name = f"structure {k}"
        try:
            if isinstance(atoms, StructureError):
                raise atoms
            ready[k] = _right_handed(from_ase(engine.config, atoms, name)), _free(atoms, name)
        except StructureError as error:
            ends[k] = error
    with one_thread() if engine.backend == "cpu" else nullcontext():
        for with_cell in (False, True):
            group = [k for k, (s, _) in ready.items() if (cell and bool(s.pbc.all())) == with_cell]
            if group:
                model = KnownStructures(engine, [ready[k][0] for k in group], [ready[k][1] for k in group], with_cell)
                found = _relax(model, with_cell, fmax, steps, max_atoms or MAX_ATOMS)
                ends |= dict(zip(group, found, strict=True))
    every = ((atoms, ends[k]) for k, atoms in enumerate(structures))
    return [end if isinstance(end, StructureError) else _relaxed(atoms, end) for atoms, end in every]


@dataclass(frozen=True)
class _End:
    """Where a structure ended; its cell where it moved, and right-handed, as in ``structure``."""

    structure: Structure
    positions: NDArray[np.float64]
    cell: NDArray[np.float64] | None
    evaluated: Evaluated
    before: float
    converged: bool
    steps: int


def _relax(model: KnownStructures, cell: bool, fmax: float, steps: int, room: int) -> list[_End | StructureError]:
    """Relaxes all structures of the model, in their order."""
    sizes = [len(s) for s in model.structures]
    before: dict[int, float] = {}
    ends: dict[int, _End | StructureError] = {}

    def done(state: Any, _: Any = None) -> Any:
        """Which systems are done, (S,); of those it is noted how they ended, as long as the model remembers it."""
        longest = largest_force(state, cell)
        over = state.energy.isnan() | (longest < fmax) | (state.taken >= steps)
        for row in over.nonzero().flatten().tolist():
            k, atoms = int(state.index[row]), model.atoms_of(row)
            ends[k] = model.errors.get(k) or _End(
                model.structures[k],
                state.positions[atoms].cpu().numpy().copy(),
                state.cell[row].mT.cpu().numpy().copy() if cell else None,
                model.evaluated(row),
                before[k],
                bool(longest[row] < fmax),
                int(state.taken[row]),
            )
        return over

    waiting = []
    for chunk in _chunks(sizes, room):
        state = begin(model, chunk, cell)
        before |= dict(zip(chunk, state.energy.tolist(), strict=True))
        # What is done before it begins takes no step.
        state.pop(done(state).nonzero().flatten())
        if state.n_systems:
            waiting.append(state)
    if waiting:
        # One step between swaps: a converged structure leaves at once, as ASE's does. Steps are counted by structure.
        optimize(
            concatenate_states(waiting),
            model,
            optimizer=lambda model: (None, stepper(model, cell)),
            convergence_fn=done,
            autobatcher=InFlightAutoBatcher(model, memory_scales_with="n_atoms", max_memory_scaler=max(room, *sizes)),
            max_steps=1 << 60,
            steps_between_swaps=1,
        )
    return [ends[k] for k in range(len(sizes))]


def _chunks(sizes: Sequence[int], room: int) -> list[list[int]]:
    chunks: list[list[int]] = []
    filled = room
    for k, size in enumerate(sizes):
        if not chunks or filled + size > room:
            chunks.append([])
            filled = 0
        chunks[-1].append(k)
        filled += size
    return chunks


def _right_handed(s: Structure) -> Structure:
    """The same crystal in a right-handed cell: TorchSim takes the determinant of a cell for its volume."""
    return replace(s, cell=-s.cell) if np.linalg.det(s.cell) < 0.0 else s


def _free(atoms: Atoms, name: str) -> NDArray[np.float64] | None:
    """(n, 3): 0 where a constraint holds an atom, or None where none does.

    Raises:
        StructureError: a constraint that is neither FixAtoms nor FixCartesian.
    """
    if not atoms.constraints:
        return None
    free = np.ones((len(atoms), 3))
    for constraint in atoms.constraints:
        if isinstance(constraint, FixAtoms):
            free[constraint.index] = 0.0
        elif isinstance(constraint, FixCartesian):
            free[constraint.index] *= ~np.asarray(constraint.mask, dtype=bool)
        else:
            kind = type(constraint).__name__
            raise StructureError(name, f"constraint {kind} is not supported; FixAtoms and FixCartesian are")
    return free


def _relaxed(before: Atoms, end: _End) -> Relaxed:
    """The last step said what the engine says of a structure where it ended: nothing is computed again."""
    volume = end.structure.volume if end.cell is None else replace(end.structure, cell=end.cell).volume
    e = end.evaluated
    result = Result(e.energy, e.forces, e.virial, e.energies, volume)
    return Relaxed(_moved(before, end), result, end.before, end.converged, end.steps)


def _moved(before: Atoms, end: _End) -> Atoms:
    """A copy of what came in, as it ended."""
    atoms: Atoms = before.copy()
    # Not through constraints, which have been heeded.
    atoms.set_positions(end.positions, apply_constraint=False)
    if end.cell is not None:
        # Back to the hand that the cell had.
        hand = np.sign(np.linalg.det(before.cell[:]))
        atoms.set_cell(hand * end.cell, apply_constraint=False)
    return atoms
