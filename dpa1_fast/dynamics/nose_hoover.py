"""Nosé–Hoover chains, and NVT by one, for many systems at once; for NPT see ``npt.py``.

Martyna, Klein and Tuckerman, J. Chem. Phys. 97, 2635 (1992). A chain's half step is split as in Martyna, Tuckerman,
Tobias and Klein, Mol. Phys. 87, 1117 (1996), three times by Yoshida's weights of fourth order.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from .ensembles import Ensemble, alike
from .motion import Array, Motion

YOSHIDA = 1.0 / (2.0 - 2.0 ** (1.0 / 3.0))
WEIGHTS = (YOSHIDA, 1.0 - 2.0 * YOSHIDA, YOSHIDA)
LENGTH = 3
"""Links of a chain."""


class Chain:
    """A thermostat on some degrees of freedom of each system.

    Args:
        dof: (S,). kT: eV. tau: the time constant. length: links.

    Attributes:
        masses: (S, M) of the links. places, momenta: (S, M).
    """

    def __init__(self, dof: Array, kT: float, tau: float, length: int = LENGTH) -> None:
        self.dof, self.kT = np.asarray(dof, dtype=np.float64), kT
        self.masses = np.full((len(self.dof), length), kT * tau**2)
        # A system without degrees of freedom has nothing to couple to; any mass will do.
        self.masses[:, 0] *= np.maximum(self.dof, 1.0)
        self.places, self.momenta = np.zeros_like(self.masses), np.zeros_like(self.masses)

    def change(self, stay: NDArray[np.bool_]) -> None:
        """Leaves only those systems that stay."""
        self.dof, self.masses = self.dof[stay], self.masses[stay]
        self.places, self.momenta = self.places[stay], self.momenta[stay]

    def half_step(self, twice_kinetic: Array, time: float) -> Array:
        """Moves the chain for a time.

        Args:
            twice_kinetic: (S,) eV, of the degrees of freedom that it is coupled to.

        Returns:
            (S,) by which their momenta are to be multiplied.
        """
        scale, last = np.ones(len(self.dof)), self.masses.shape[1] - 1
        links = [*range(last, -1, -1)]
        p, q = self.momenta, self.masses
        for weight in WEIGHTS:
            delta = weight * time
            for j in links:
                self._kick(j, twice_kinetic * scale * scale, delta)
            self.places = self.places + delta * p / q
            scale = scale * np.exp(-delta * p[:, 0] / q[:, 0])
            for j in reversed(links):
                self._kick(j, twice_kinetic * scale * scale, delta)
        return scale

    def _kick(self, j: int, twice: Array, delta: float) -> None:
        """Half of ``delta`` for the momentum of link j, between two quarters of the next link's drag."""
        p, q = self.momenta, self.masses
        force = twice - self.dof * self.kT if j == 0 else p[:, j - 1] ** 2 / q[:, j - 1] - self.kT
        if j == q.shape[1] - 1:
            p[:, j] += 0.5 * delta * force
            return
        drag = np.exp(-0.25 * delta * p[:, j + 1] / q[:, j + 1])
        p[:, j] = (p[:, j] * drag + 0.5 * delta * force) * drag

    def energy(self) -> Array:
        """(S,) eV: the chain's part of what is conserved."""
        p, places = self.momenta, self.places
        held = self.dof * places[:, 0] + places[:, 1:].sum(axis=1)
        return np.asarray(0.5 * (p * p / self.masses).sum(axis=1) + self.kT * held)


class NoseHoover(Ensemble):
    """NVT by a Nosé–Hoover chain on all velocities of a system.

    Args:
        kT: eV. tau: the time constant, in ASE's unit of time.
    """

    chains: tuple[str, ...] = ("thermostat",)

    def __init__(self, timestep: float, kT: float, tau: float) -> None:
        super().__init__(timestep)
        self.kT, self.tau = kT, tau

    def begin(self, motion: Motion) -> None:
        """See ``Ensemble``."""
        self.thermostat = Chain(motion.dof, self.kT, self.tau)

    def before(self, motion: Motion) -> None:
        """See ``Ensemble``."""
        self._thermalize(motion)
        super().before(motion)

    def after(self, motion: Motion) -> None:
        """See ``Ensemble``."""
        super().after(motion)
        self._thermalize(motion)

    def _thermalize(self, motion: Motion) -> None:
        scale = self.thermostat.half_step(motion.twice_kinetic(), 0.5 * self.dt)
        motion.velocities = motion.velocities * motion.per_atom(scale)

    def change(self, stay: NDArray[np.bool_]) -> None:
        """See ``Ensemble``."""
        super().change(stay)
        for name in self.chains:
            getattr(self, name).change(stay)

    def outside(self, motion: Motion) -> Array:
        """See ``Ensemble``."""
        return self.thermostat.energy()

    def state(self) -> dict[str, Any]:
        """See ``Ensemble``."""
        own = {f"{c}_{x}": getattr(getattr(self, c), x) for c in self.chains for x in ("places", "momenta")}
        return super().state() | own

    def restore(self, state: dict[str, Any]) -> None:
        """See ``Ensemble``."""
        super().restore(state)
        for name in self.chains:
            chain = getattr(self, name)
            for x in ("places", "momenta"):
                setattr(chain, x, alike(state[f"{name}_{x}"], getattr(chain, x), f"{name}_{x}"))
