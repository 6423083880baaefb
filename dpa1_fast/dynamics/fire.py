"""FIRE for many structures at once: TorchSim's, made to take ASE's steps.

TorchSim 0.3's "ase_fire" differs from ``ase.optimize.FIRE`` in three places, and each is put right from outside:

- A system that comes new into a batch has velocities NaN, and while there is one, *every* system of the batch skips
  its power test. Here velocities begin at 0 and dt at twice dt: the power test finds 0, halves dt, and the first step
  is ASE's. So what a structure does no longer depends on who is in the batch with it.
- α shrinks before it mixes velocities, where ASE's shrinks after. Here TorchSim's factor is 1, and α shrinks after.
- The gradient along the cell lacks the factor F⁻ᵀ of ``ase.filters.UnitCellFilter`` (F: the deformation since the
  start), so that it is no gradient away from F = 1. Here it is multiplied in.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from ..drivers.torchsim import DPA1Model
from ..engine import Engine
from ..errors import StructureError
from ..structures.structure import Structure
from .stepper import Step

# After the driver, which says how to install it where it is missing.
from torch_sim.optimizers import FireState, UnitCellFireState, fire, unit_cell_fire  # isort: skip
from torch_sim.state import SimState  # isort: skip

N_MIN, F_DEC, F_ALPHA = 5, 0.5, 0.99
"""ASE's, and TorchSim's: after how many steps downhill dt grows, how dt and α shrink."""


@dataclass(kw_only=True)
class Start(SimState):  # type: ignore[misc]
    """Systems before their first evaluation. index (S,): which structure each is."""

    index: torch.Tensor
    _system_attributes = SimState._system_attributes | {"index"}


class _Light:
    """What TorchSim does anew for every atom or system at every step, done for all at once.

    Its ``n_systems`` sorts all atoms, and its ``pop`` goes through them in Python.
    """

    @property
    def n_systems(self: Any) -> int:
        """Number of systems."""
        return len(self.index)

    def pop(self: Any, system_indices: Any) -> list[Any]:
        """Takes systems out, one state for each, as ``SimState.pop``."""
        going = torch.zeros(self.n_systems, dtype=torch.bool, device=self.device)
        going[torch.as_tensor(system_indices, dtype=torch.int64, device=self.device)] = True
        if not going.any():
            return []
        gone: list[Any] = type(self)(**self._part(going)).split()
        vars(self).update(self._part(~going))
        return gone

    def _part(self: Any, systems: torch.Tensor) -> dict[str, Any]:
        """The attributes of some systems, a mask (S,)."""
        atoms = systems[self.system_idx]
        part = {name: getattr(self, name)[atoms] for name in self._atom_attributes}
        part |= {name: getattr(self, name)[systems] for name in self._system_attributes}
        part["system_idx"] = (torch.cumsum(systems, 0) - 1)[part["system_idx"]]
        return part | {name: getattr(self, name) for name in self._global_attributes}


@dataclass(kw_only=True)
class AtomsState(_Light, FireState):  # type: ignore[misc]
    """Systems whose atoms move. index, taken (S,): which structure each is, and how many steps it has done."""

    index: torch.Tensor
    taken: torch.Tensor
    _system_attributes = FireState._system_attributes | {"index", "taken"}


@dataclass(kw_only=True)
class CellState(_Light, UnitCellFireState):  # type: ignore[misc]
    """Systems whose atoms and cells move."""

    index: torch.Tensor
    taken: torch.Tensor
    _system_attributes = UnitCellFireState._system_attributes | {"index", "taken"}


@dataclass(frozen=True)
class Evaluated:
    """What the engine says of one structure: energy eV, energies (n,) eV, forces (n, 3) eV/Å, virial (3, 3) eV."""

    energy: float
    energies: NDArray[np.float64]
    forces: NDArray[np.float64]
    virial: NDArray[np.float64]


class KnownStructures(DPA1Model):
    """The model of structures that a state names by ``index``; what fails is noted and leaves, others go on.

    Args:
        engine: evaluates. structures: that ``index`` counts.
        free: for each, (n, 3) 0 where a coordinate of an atom is held, or None. cell: whether cells will move.

    Attributes:
        errors: of each structure that failed. Its energy becomes NaN and its forces 0.
    """

    def __init__(
        self, engine: Engine, structures: Sequence[Structure], free: Sequence[NDArray[np.float64] | None], cell: bool
    ) -> None:
        super().__init__(engine)
        self._compute_stress = cell
        self.structures, self.free = structures, free
        self.errors: dict[int, StructureError] = {}
        self._held: NDArray[np.float64] | None = None
        self._last: Step | None = None

    def atoms_of(self, row: int) -> slice:
        """Where the atoms of a system of the last state are."""
        offsets = self._moving.verlet.offsets
        return slice(int(offsets[row]), int(offsets[row + 1]))

    def evaluated(self, row: int) -> Evaluated:
        """What a system of the last state was found to be, forces on held atoms included."""
        assert self._last is not None
        last, atoms = self._last, self.atoms_of(row)
        return Evaluated(
            float(last.energy[row]), last.energies[atoms].copy(), last.forces[atoms].copy(), last.virial[row].copy()
        )

    def _follow(self, state: Any, *_: Any) -> None:
        index = state.index.tolist()
        if index == self._members:
            return
        known = {i: k for k, i in enumerate(self._members)}
        self._moving.select([known.get(i, self.structures[i]) for i in index])
        self._members, held = index, [self.free[i] for i in index]
        some = any(h is not None for h in held)
        ones = (np.ones((len(self.structures[i]), 3)) if h is None else h for i, h in zip(index, held, strict=True))
        self._held = np.concatenate(list(ones)) if some else None

    def _outputs(self, state: Any, step: Step, cells: Any) -> dict[str, torch.Tensor]:
        for k, error in step.errors.items():
            self.errors[self._members[k]] = error
            step.energy[k] = np.nan
        step.errors.clear()
        self._last = step
        if self._held is not None:
            step = replace(step, forces=step.forces * self._held)
        return super()._outputs(state, step, cells)


def begin(model: KnownStructures, index: Sequence[int], cell: bool) -> Any:
    """The state of some structures at their start, evaluated; ``cell``: whether cells will move."""
    chosen = [model.structures[i] for i in index]
    sizes = torch.tensor([len(s) for s in chosen])
    start = Start(
        positions=torch.from_numpy(np.concatenate([s.positions for s in chosen])),
        masses=torch.ones(int(sizes.sum()), dtype=torch.float64),
        # Lattice vectors in columns, as TorchSim has them.
        cell=torch.from_numpy(np.stack([s.cell.T for s in chosen])),
        pbc=True,  # Each structure knows its own.
        atomic_numbers=torch.from_numpy(np.concatenate([s.types for s in chosen])),
        system_idx=torch.repeat_interleave(torch.arange(len(chosen)), sizes),
        index=torch.tensor(index),
    )
    start = start.to(model.device, model.dtype)
    make, kind = (unit_cell_fire, CellState) if cell else (fire, AtomsState)
    first, _ = make(model, dt_start=0.1 / F_DEC)
    state = kind(**vars(first(start)), index=start.index, taken=torch.zeros_like(start.index))
    state.velocities.zero_()
    if cell:
        state.cell_velocities.zero_()
    return state


def stepper(model: KnownStructures, cell: bool) -> Callable[[Any], Any]:
    """One step of all systems of a state that ``begin`` made."""
    _, step = (unit_cell_fire if cell else fire)(model, n_min=N_MIN, f_dec=F_DEC, f_alpha=1.0)

    def ase_step(state: Any) -> Any:
        state = step(state)
        state.alpha = torch.where(state.n_pos > N_MIN + 1, F_ALPHA * state.alpha, state.alpha)
        state.taken = state.taken + 1
        if cell:
            state.cell_forces = torch.linalg.solve(state.deform_grad(), state.cell_forces.mT).mT
        return state

    return ase_step


def largest_force(state: Any, cell: bool) -> torch.Tensor:
    """(S,) eV/Å: what ASE compares with fmax, the longest force on an atom or, with ``cell``, on a row of the cell."""
    forces = state.forces
    if cell:
        forces = torch.bmm(forces.unsqueeze(1), state.deform_grad()[state.system_idx]).squeeze(1)
    longest = torch.zeros_like(state.energy)
    longest.scatter_reduce_(0, state.system_idx, forces.norm(dim=1), "amax")
    return torch.maximum(longest, state.cell_forces.norm(dim=2).amax(dim=1)) if cell else longest
