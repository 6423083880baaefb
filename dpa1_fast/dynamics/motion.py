"""Where the atoms of a set of systems are, how fast they move, and what pulls at them.

Every sum runs over the rows of one system in an order that only their number decides, and all else is done element by
element: what a system does depends on itself alone, to the last bit.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..structures.structure import Structure

Array = NDArray[np.float64]


@dataclass(frozen=True)
class Found:
    """What systems evaluated to: energy (S,), energies (n,) and virial (S, 3, 3) in eV, forces (n, 3) in eV/Å."""

    energy: Array
    energies: Array
    forces: Array
    virial: Array


class Motion:
    """The state that integrators move. Times are in ASE's unit, Å·√(u/eV).

    Attributes:
        structures: the set. sizes: (S,) atoms of each. offsets: (S + 1,).
        positions (n, 3): Å, never wrapped. velocities (n, 3): Å per unit of time. masses (n, 1): u.
        cells (S, 3, 3): Å, rows are lattice vectors.
        free: (n, 3) 1 where an atom may move and 0 where not, or None where all may.
        dof: (S,) how many degrees of freedom have kinetic energy.
        found: what the systems evaluated to where they are; None before the first evaluation.
    """

    def __init__(
        self, structures: Sequence[Structure], velocities: Array, masses: Array, free: Array | None, dof: Array
    ) -> None:
        self.structures = list(structures)
        self.positions = np.concatenate([s.positions for s in structures])
        self.velocities, self.masses, self.free, self.dof = velocities, masses.reshape(-1, 1), free, dof
        self.cells = np.stack([s.cell for s in structures])
        self.found: Found | None = None
        self._index()

    def _index(self) -> None:
        self.sizes = np.array([len(s) for s in self.structures], dtype=np.int64)
        self.offsets = np.concatenate([[0], np.cumsum(self.sizes)])

    @property
    def step(self) -> Found:
        """What the systems evaluated to."""
        assert self.found is not None
        return self.found

    @property
    def forces(self) -> Array:
        """(n, 3) eV/Å, 0 along what may not move."""
        return self.step.forces if self.free is None else self.step.forces * self.free

    def change(self, stay: NDArray[np.bool_]) -> None:
        """Leaves only those systems that stay, (S,)."""
        rows = np.repeat(stay, self.sizes)
        self.positions, self.velocities, self.masses = self.positions[rows], self.velocities[rows], self.masses[rows]
        self.free = None if self.free is None else self.free[rows]
        self.cells, self.dof = self.cells[stay], self.dof[stay]
        if self.found is not None:
            f = self.found
            self.found = Found(f.energy[stay], f.energies[rows], f.forces[rows], f.virial[stay])
        self.structures = [s for s, stays in zip(self.structures, stay.tolist(), strict=True) if stays]
        self._index()

    def per_atom(self, x: NDArray[Any]) -> NDArray[Any]:
        """A number of each system (S,) for each of its atoms, (n, 1)."""
        return np.repeat(x, self.sizes)[:, None]

    def twice_kinetic(self) -> Array:
        """(S,) eV: Σ m v²."""
        square = self.velocities * self.velocities
        each = self.masses[:, 0] * (square[:, 0] + square[:, 1] + square[:, 2])
        return np.asarray(np.add.reduceat(each, self.offsets[:-1]))

    def twice_kinetic_tensor(self) -> Array:
        """(S, 3, 3) eV: Σ m v⊗v."""
        v, m = self.velocities, self.masses[:, 0]
        out = np.empty((len(self.sizes), 3, 3))
        for a, b in ((0, 0), (1, 1), (2, 2), (1, 2), (0, 2), (0, 1)):
            out[:, a, b] = out[:, b, a] = np.add.reduceat(m * v[:, a] * v[:, b], self.offsets[:-1])
        return out

    def kick(self, time: float) -> None:
        """Velocities, by the forces for so long."""
        self.velocities += time * self.forces / self.masses

    def drift(self, time: float) -> None:
        """Positions, by the velocities for so long."""
        self.positions = self.positions + time * self.velocities
