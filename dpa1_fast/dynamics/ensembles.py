"""Integrators of molecular dynamics for many systems at once, and what each of them conserves.

A step is ``before`` (which moves atoms), one evaluation, ``after``. The steps are those of ``ase.md`` (VelocityVerlet,
LangevinBAOAB, Bussi, and in ``nose_hoover.py`` NoseHooverChainNVT and IsotropicMTKNPT), and the tests hold them against
these. Each system has random numbers of its own, which depend on the seed and on its place in the input.

Velocity Verlet: v += F/m·dt/2, x += v·dt, evaluation, v += F/m·dt/2.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .motion import Array, Motion


class Ensemble:
    """Velocity Verlet at constant energy (NVE), and what all integrators share.

    Args:
        timestep: in ASE's unit of time.
    """

    keeps_momentum = True
    """Whether the total momentum of a system stays what it was: then it is no degree of freedom."""
    arrays: tuple[str, ...] = ()
    """Attributes (S, …) that belong to the state."""

    def __init__(self, timestep: float) -> None:
        self.dt = timestep

    def begin(self, motion: Motion) -> None:
        """Called once, with the systems as they start."""

    def before(self, motion: Motion) -> None:
        """The part of a step before its evaluation."""
        motion.kick(0.5 * self.dt)
        motion.drift(self.dt)

    def after(self, motion: Motion) -> None:
        """The part of a step after its evaluation."""
        motion.kick(0.5 * self.dt)

    def change(self, stay: NDArray[np.bool_]) -> None:
        """Leaves only those systems that stay, (S,)."""
        for name in self.arrays:
            setattr(self, name, getattr(self, name)[stay])

    def outside(self, motion: Motion) -> Array:
        """(S,) eV: what is to be added to potential and kinetic energy for their sum to be conserved."""
        return np.zeros(len(motion.sizes))

    def state(self) -> dict[str, Any]:
        """Arrays, and under ``random`` text: with these ``restore`` goes on to the same bits."""
        return {name: getattr(self, name) for name in self.arrays}

    def restore(self, state: dict[str, Any]) -> None:
        """Goes on from what ``state`` gave.

        Raises:
            KeyError, ValueError: it is of something else.
        """
        for name in self.arrays:
            setattr(self, name, alike(state[name], getattr(self, name), name))


def alike(value: Any, before: Array, name: str) -> Array:
    """An array of a state, which has the shape that it had before.

    Raises:
        ValueError: so it has not.
    """
    out = np.array(value, dtype=np.float64)
    if out.shape != before.shape:
        raise ValueError(f"{name} has the shape {out.shape}, not {before.shape}")
    return out


class Thermostat(Ensemble):
    """What integrators with random numbers share.

    Args:
        timestep: in ASE's unit of time. kT: eV. seeds: one for each system.

    Attributes:
        given: (S,) eV, the energy that the thermostat has given to each system.
    """

    arrays = ("given",)

    def __init__(self, timestep: float, kT: float, seeds: Sequence[Sequence[int]]) -> None:
        super().__init__(timestep)
        self.kT = kT
        self.random = [np.random.default_rng(list(seed)) for seed in seeds]
        self.given = np.zeros(len(seeds))

    def change(self, stay: NDArray[np.bool_]) -> None:
        """See ``Ensemble``."""
        super().change(stay)
        self.random = [r for r, stays in zip(self.random, stay.tolist(), strict=True) if stays]

    def outside(self, motion: Motion) -> Array:
        """See ``Ensemble``."""
        return -self.given

    def state(self) -> dict[str, Any]:
        """See ``Ensemble``."""
        return {**super().state(), "random": json.dumps([r.bit_generator.state for r in self.random])}

    def restore(self, state: dict[str, Any]) -> None:
        """See ``Ensemble``."""
        super().restore(state)
        for generator, told in zip(self.random, json.loads(str(state["random"])), strict=True):
            generator.bit_generator.state = told


class Langevin(Thermostat):
    """NVT by BAOAB (Leimkuhler and Matthews, J. Chem. Phys. 138, 174102, 2013).

    Velocity half step, drift half step, v ← c v + √(1 − c²) √(kT/m) R with c = exp(−γ dt), drift half step, evaluation,
    velocity half step.

    Args:
        friction: γ, per ASE's unit of time.
    """

    keeps_momentum = False

    def __init__(self, timestep: float, kT: float, friction: float, seeds: Sequence[Sequence[int]]) -> None:
        super().__init__(timestep, kT, seeds)
        self.damping = float(np.exp(-friction * timestep))
        self.noise = float(np.sqrt(kT * (1.0 - np.exp(-2.0 * friction * timestep))))

    def before(self, motion: Motion) -> None:
        """See ``Ensemble``."""
        motion.kick(0.5 * self.dt)
        motion.drift(0.5 * self.dt)
        had = motion.twice_kinetic()
        drawn = [r.standard_normal((n, 3)) for r, n in zip(self.random, motion.sizes.tolist(), strict=True)]
        noise = self.noise * np.concatenate(drawn) / np.sqrt(motion.masses)
        motion.velocities = self.damping * motion.velocities + (noise if motion.free is None else noise * motion.free)
        self.given = self.given + 0.5 * (motion.twice_kinetic() - had)
        motion.drift(0.5 * self.dt)


class Bussi(Thermostat):
    """NVT by stochastic velocity rescaling (Bussi, Donadio and Parrinello, J. Chem. Phys. 126, 014101, 2007).

    Before each step of velocity Verlet velocities are scaled by α, equation A7 of the paper.

    Args:
        tau: the time constant, in ASE's unit of time.
    """

    def __init__(self, timestep: float, kT: float, tau: float, seeds: Sequence[Sequence[int]]) -> None:
        super().__init__(timestep, kT, seeds)
        self.decay = float(np.exp(-timestep / tau))

    def before(self, motion: Motion) -> None:
        """See ``Ensemble``."""
        twice, dof = motion.twice_kinetic(), motion.dof.tolist()
        drawn = [
            (r.standard_normal(), 2.0 * r.standard_gamma(0.5 * max(n - 1.0, 0.0)))
            for r, n in zip(self.random, dof, strict=True)
        ]
        normal, rest = np.array(drawn).T
        # A system that does not move has no velocities to scale.
        moves = twice > 0.0
        c, share = self.decay, (1.0 - self.decay) * self.kT / np.where(moves, twice, 1.0)
        square = c + share * (rest + normal**2) + 2.0 * normal * np.sqrt(c * share)
        square = np.where(moves, square, 1.0)
        motion.velocities = motion.velocities * motion.per_atom(np.sqrt(square))
        self.given = self.given + 0.5 * (square - 1.0) * twice
        super().before(motion)
