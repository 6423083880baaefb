"""What an optimizer moves of a set of structures: atoms, and cells by the rules of ``ase.filters.UnitCellFilter``.

A structure whose cell stays has one row of three numbers for each atom: its position in Å, and the force on it in eV/Å.

A structure of n atoms whose cell moves has n + 3. Let F be the deformation since its start, so that its cell's rows are
cell₀·Fᵀ. Then the first n rows are x = r·F⁻ᵀ, where the atoms would be in the cell of the start, and the last three are
n·F. Their forces are f·F, and W·F⁻ᵀ / n with the symmetric part W of the virial in eV.

Constraints are those of ASE, asked by ASE's own code: forces and virial are adjusted before they become rows; when a
cell moves, it goes where its symmetry lets it, all atoms follow it, and each constraint then takes back what a step did
to its atoms beyond that.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from ase import Atoms
from numpy.typing import NDArray

from ..structures.structure import Structure
from .constraints import hold_cell, hold_virial, keeps_symmetry
from .stepper import Step

Array = NDArray[np.float64]


@dataclass(frozen=True)
class System:
    """A structure that is to move.

    Attributes:
        structure: at its start. cell_moves: whether its cell moves as well.
        constrained: the same as ``ase.Atoms`` with supported constraints, for this use alone, or None.
    """

    structure: Structure
    cell_moves: bool
    constrained: Atoms | None

    @property
    def rows(self) -> int:
        """How many rows of three numbers describe it."""
        return len(self.structure) + 3 * self.cell_moves


class DegreesOfFreedom:
    """Where the atoms and cells of a set of systems are, and how they move.

    Attributes:
        systems: the set. positions: (n, 3) Å, of all atoms, one system after another. cells: (S, 3, 3) Å, rows are
        lattice vectors.
    """

    def __init__(self) -> None:
        self.systems: list[System] = []
        self.positions = np.zeros((0, 3))
        self.cells = self._start = self._deform = np.zeros((0, 3, 3))
        self._sizes = np.zeros(0, dtype=np.int64)

    def change(self, stay: NDArray[np.bool_], new: Sequence[System]) -> None:
        """Changes the set: who stays (S,) keeps its place in line, and new systems follow."""
        stayed = [s for s, stays in zip(self.systems, stay.tolist(), strict=True) if stays]
        begin = [s.structure.cell[None] for s in new]
        positions = self.positions[np.repeat(stay, self._sizes)]
        self.positions = np.concatenate([positions, *(s.structure.positions for s in new)])
        self.cells = np.concatenate([self.cells[stay], *begin])
        self._start = np.concatenate([self._start[stay], *begin])
        self._deform = np.concatenate([self._deform[stay], np.tile(np.eye(3), (len(new), 1, 1))])
        self.systems = [*stayed, *new]
        self._index()

    def _index(self) -> None:
        """Where things are in rows and in positions."""
        moves = np.array([s.cell_moves for s in self.systems], dtype=bool)
        self._sizes = np.array([len(s.structure) for s in self.systems], dtype=np.int64)
        first = np.cumsum(self._sizes) - self._sizes
        shift = 3 * (np.cumsum(moves) - moves)
        self._atoms = [slice(a, a + n) for a, n in zip(first.tolist(), self._sizes.tolist(), strict=True)]
        self._atom_rows = np.arange(self._sizes.sum()) + np.repeat(shift, self._sizes)
        self._moves = np.flatnonzero(moves)
        self._cell_rows = ((first + shift + self._sizes)[self._moves, None] + np.arange(3)).ravel()
        # Atoms of systems whose cells move, and which of these systems each of them belongs to.
        self._moving_atoms = np.flatnonzero(np.repeat(moves, self._sizes))
        self._home = np.repeat(np.arange(len(self._moves)), self._sizes[self._moves])
        self._count = self._sizes[self._moves].astype(np.float64)[:, None, None]
        self._constrained = [(k, s.constrained) for k, s in enumerate(self.systems) if s.constrained is not None]
        among = {k: row for row, k in enumerate(self._moves.tolist())}
        # Rows are those among the cells that move.
        self._constrained_cells = [(among[k], a) for k, a in self._constrained if k in among and keeps_symmetry(a)]

    def atoms_of(self, row: int) -> slice:
        """Which of the positions are a system's."""
        return self._atoms[row]

    def where(self, row: int) -> tuple[Array, Array]:
        """Copies of the positions (n, 3) and the cell (3, 3) of a system."""
        return self.positions[self._atoms[row]].copy(), self.cells[row].copy()

    def forces(self, step: Step) -> Array:
        """(rows, 3) eV/Å: what pulls at the rows, after the constraints."""
        forces = np.array(step.forces, dtype=np.float64)
        for k, atoms in self._constrained:
            for constraint in atoms.constraints:
                constraint.adjust_forces(atoms, forces[self._atoms[k]])
        if not len(self._moves):
            return forces
        deform, of_moving = self._deform[self._moves], step.virial[self._moves]
        virial = 0.5 * (of_moving + of_moving.transpose(0, 2, 1))
        for row, atoms in self._constrained_cells:
            virial[row] = hold_virial(atoms, virial[row])
        rows = np.empty((len(self._atom_rows) + len(self._cell_rows), 3))
        forces[self._moving_atoms] = _times(forces[self._moving_atoms], deform[self._home])
        rows[self._atom_rows] = forces
        with np.errstate(invalid="ignore", over="ignore"):
            rows[self._cell_rows] = (_each_times(virial, _inverse_transposed(deform)) / self._count).reshape(-1, 3)
        return rows

    def move(self, rows: Array) -> None:
        """Moves everything by so much, (rows, 3) Å, as far as constraints let it."""
        shift = rows[self._atom_rows]
        # Where atoms are if they only follow their cells, and where they go.
        carried, moved = self.positions, self.positions + shift
        if len(self._moves):
            moving, home, before = self._moving_atoms, self._home, self._deform[self._moves]
            with np.errstate(invalid="ignore", over="ignore", divide="ignore"):
                x = _times(self.positions[moving], _inverse_transposed(before)[home])
                deform = (self._count * before + rows[self._cell_rows].reshape(-1, 3, 3)) / self._count
                turned = deform.transpose(0, 2, 1)
                cells = _each_times(self._start[self._moves], turned)
                moved[moving] = _times(x + shift[moving], turned[home])
                for row, atoms in self._constrained_cells:
                    cells[row] = hold_cell(atoms, cells[row])
                    deform[row] = cells[row].T @ _inverse_transposed(self._start[self._moves[row], None])[0]
                self._deform[self._moves], self.cells[self._moves] = deform, cells
                carried = carried.copy()
                carried[moving] = _times(x, turned[home])
        for k, atoms in self._constrained:
            here = self._atoms[k]
            moved[here] = _held_back(atoms, carried[here], self.cells[k], moved[here])
        self.positions = moved


def _held_back(atoms: Atoms, carried: Array, cell: Array, moved: Array) -> Array:
    """Where the constraints of a structure let its atoms go, (n, 3); the structure is there afterwards."""
    atoms.set_cell(cell, apply_constraint=False)
    atoms.set_positions(carried, apply_constraint=False)
    try:
        atoms.set_positions(moved)
    except np.linalg.LinAlgError:
        # A cell without a volume, which cannot be evaluated: the next evaluation says so by the structure's name.
        return moved
    return np.asarray(atoms.positions)


def _times(rows: Array, matrices: Array) -> Array:
    """Each row (m, 3) times its matrix (m, 3, 3); the rounding of a row depends on nothing but itself."""
    return rows[:, 0:1] * matrices[:, 0] + rows[:, 1:2] * matrices[:, 1] + rows[:, 2:3] * matrices[:, 2]


def _each_times(a: Array, b: Array) -> Array:
    """(S, 3, 3), the products a·b of matrices."""
    return _times(a.reshape(-1, 3), np.repeat(b, 3, axis=0)).reshape(-1, 3, 3)


def _inverse_transposed(matrices: Array) -> Array:
    """(S, 3, 3), by cofactors: one singular matrix among them is no reason to fail for all."""
    a, b = matrices[:, [1, 2, 0]], matrices[:, [2, 0, 1]]
    cofactors = a[:, :, [1, 2, 0]] * b[:, :, [2, 0, 1]] - a[:, :, [2, 0, 1]] * b[:, :, [1, 2, 0]]
    first = matrices[:, 0] * cofactors[:, 0]
    with np.errstate(invalid="ignore", over="ignore", divide="ignore"):
        return np.asarray(cofactors / (first[:, 0] + first[:, 1] + first[:, 2])[:, None, None])
