"""NPT by the equations of Martyna, Tobias and Klein, J. Chem. Phys. 101, 4177 (1994), for many systems at once.

Cell h (rows are lattice vectors) and atoms follow a symmetric momentum p (3, 3) of mass W = (N_f + 3) kT τ² / 3:

    dh/dt = h p/W,   dx/dt = v + x p/W,   dv/dt = F/m − v (p + tr(p)/N_f)/W,
    dp/dt = the part that the cell may follow of: virial + Σ m v⊗v − (P₀ V − Σ m v²/N_f) 1,

with a chain of thermostats on the atoms and one on p. What the cell may follow is spanned by a few symmetric matrices,
its *modes*, orthogonal to each other: the identity where it keeps its shape; one projector for each lattice vector
whose length moves by itself; the projectors along c and onto the plane across it; or six for any shape.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.special import exprel

from ..errors import StructureError
from .motion import Array, Motion
from .nose_hoover import Chain, NoseHoover

AXES = "abc"
SHAPES = ("iso", "semi", "aniso", "tri")
"""What cells may do: keep their shape; c and the plane across it by themselves; each length by itself; anything. Or
some of the letters abc: only the lengths of these vectors."""


def is_shape(shape: str) -> bool:
    """Whether it is one of ``SHAPES``, or letters of lattice vectors."""
    return shape in SHAPES or (0 < len(shape) == len(set(shape)) and set(shape) <= set(AXES))


def modes(shape: str, cell: Array) -> Array:
    """(M, 3, 3) what a cell (3, 3) may follow, each of Frobenius norm 1.

    Raises:
        ValueError: a lattice vector is to move by itself that is not at right angles to the others.
    """
    if shape == "iso":
        return np.asarray(np.eye(3)[None] / np.sqrt(3.0))
    if shape == "tri":
        pairs = [(i, j) for i in range(3) for j in range(i, 3)]
        out = np.zeros((6, 3, 3))
        for k, (i, j) in enumerate(pairs):
            out[k, i, j] = out[k, j, i] = 1.0 if i == j else np.sqrt(0.5)
        return out
    axes = {"aniso": AXES, "semi": "c"}.get(shape, shape)
    unit = cell / np.linalg.norm(cell, axis=1)[:, None]
    for k in (AXES.index(x) for x in axes):
        for other in range(3):
            if other != k and abs(unit[k] @ unit[other]) > 1e-6:
                raise ValueError(f"the lattice vector {AXES[k]} is not at right angles to {AXES[other]}")
    along = np.array([np.outer(unit[k], unit[k]) for k in (AXES.index(x) for x in axes)])
    return np.concatenate([(np.eye(3) - along) * np.sqrt(0.5), along]) if shape == "semi" else along


class Npt(NoseHoover):
    """NPT: atoms and barostat have a chain each.

    Args:
        kT: eV. tau, tau_pressure: time constants of atoms and barostat, in ASE's unit of time.
        pressure: eV/Å³. shape: of ``SHAPES``, or letters of lattice vectors.

    Attributes:
        momentum: (S, 3, 3) p. modes: (S, M, 3, 3) what each cell may follow.
    """

    arrays = ("momentum", "modes")
    chains = ("thermostat", "of_barostat")

    def __init__(
        self, timestep: float, kT: float, tau: float, pressure: float, tau_pressure: float, shape: str = "iso"
    ) -> None:
        super().__init__(timestep, kT, tau)
        self.pressure, self.tau_pressure, self.shape = pressure, tau_pressure, shape

    def begin(self, motion: Motion) -> None:
        """See ``Ensemble``.

        Raises:
            StructureError: a system is not periodic along all axes, has constraints, or has other angles than the shape
                allows.
        """
        super().begin(motion)
        self.modes = np.stack([self._modes(motion, k) for k in range(len(motion.sizes))])
        systems, count = self.modes.shape[:2]
        self.momentum = np.zeros((systems, 3, 3))
        self.of_barostat = Chain(np.full(systems, float(count)), self.kT, self.tau_pressure)

    def _modes(self, motion: Motion, k: int) -> Array:
        """Of a system that can be simulated at constant pressure."""
        structure = motion.structures[k]
        if not structure.pbc.all():
            raise StructureError(structure.name, "NPT needs a structure that is periodic along all three axes")
        if motion.free is not None and not motion.free[motion.offsets[k] : motion.offsets[k + 1]].all():
            raise StructureError(structure.name, "NPT takes no constraints; remove them, or keep the cell")
        try:
            return modes(self.shape, motion.cells[k])
        except ValueError as error:
            told = f"--npt {self.shape} changes lengths and keeps angles, but {error}: take --npt tri, or iso"
            raise StructureError(structure.name, told) from None

    def before(self, motion: Motion) -> None:
        """See ``Ensemble``."""
        self._thermalize_barostat(motion)
        self._thermalize(motion)
        self._kick_cell(motion)
        self._kick(motion)
        rate, axes = self._principal(motion)
        grow, way = _of_axes(np.exp(self.dt * rate), axes), _of_axes(self.dt * exprel(self.dt * rate), axes)
        motion.positions = _times(motion, motion.positions, grow) + _times(motion, motion.velocities, way)
        motion.cells = (motion.cells[:, :, :, None] * grow[:, None]).sum(axis=2)

    def after(self, motion: Motion) -> None:
        """See ``Ensemble``."""
        self._kick(motion)
        self._kick_cell(motion)
        self._thermalize(motion)
        self._thermalize_barostat(motion)

    def _mass(self, motion: Motion) -> Array:
        return np.asarray((motion.dof + 3.0) * self.kT * self.tau_pressure**2 / 3.0)

    def _principal(self, motion: Motion) -> tuple[Array, Array]:
        """p/W by its values (S, 3) and axes (S, 3, 3), which are columns; no numbers where p has none."""
        finite = np.asarray(np.isfinite(self.momentum).all(axis=(1, 2)))
        p = np.where(finite[:, None, None], self.momentum, 0.0)
        values, axes = np.linalg.eigh(p)
        return np.where(finite[:, None], values, np.nan) / self._mass(motion)[:, None], axes

    def _twice_kinetic(self, motion: Motion) -> Array:
        """(S,) eV, of the cell."""
        return np.asarray((self.momentum * self.momentum).reshape(-1, 9).sum(axis=1) / self._mass(motion))

    def _thermalize_barostat(self, motion: Motion) -> None:
        scale = self.of_barostat.half_step(self._twice_kinetic(motion), 0.5 * self.dt)
        self.momentum = self.momentum * scale[:, None, None]

    def _kick_cell(self, motion: Motion) -> None:
        twice = motion.twice_kinetic_tensor()
        volume = np.abs(np.linalg.det(motion.cells))
        isotropic = np.trace(twice, axis1=1, axis2=2) / np.maximum(motion.dof, 1.0) - volume * self.pressure
        force = motion.step.virial + twice + isotropic[:, None, None] * np.eye(3)
        along = (self.modes * force[:, None]).sum(axis=(2, 3))
        self.momentum = self.momentum + 0.5 * self.dt * (along[:, :, None, None] * self.modes).sum(axis=1)

    def _kick(self, motion: Motion) -> None:
        rate, axes = self._principal(motion)
        drag = 0.5 * self.dt * (rate + rate.sum(axis=1)[:, None] / np.maximum(motion.dof, 1.0)[:, None])
        slow, way = _of_axes(np.exp(-drag), axes), _of_axes(0.5 * self.dt * exprel(-drag), axes)
        pulled = _times(motion, motion.forces / motion.masses, way)
        motion.velocities = _times(motion, motion.velocities, slow) + pulled

    def outside(self, motion: Motion) -> Array:
        """See ``Ensemble``."""
        volume = np.abs(np.linalg.det(motion.cells))
        kinetic = 0.5 * self._twice_kinetic(motion)
        return np.asarray(super().outside(motion) + self.of_barostat.energy() + kinetic + self.pressure * volume)


def _of_axes(values: Array, axes: Array) -> Array:
    """(S, 3, 3): the symmetric matrices of these values (S, 3) along these axes (S, 3, 3)."""
    return np.asarray((axes[:, :, None, :] * axes[:, None, :, :] * values[:, None, None, :]).sum(axis=3))


def _times(motion: Motion, rows: NDArray[Any], matrices: Array) -> Array:
    """(n, 3): the rows of each system's atoms, times its matrix; element by element, see ``motion.py``."""
    m = np.repeat(matrices, motion.sizes, axis=0)
    return np.asarray(rows[:, 0:1] * m[:, 0] + rows[:, 1:2] * m[:, 1] + rows[:, 2:3] * m[:, 2])
