"""FIRE for many systems at once, by the steps of ``ase.optimize.FIRE`` with its defaults (PRL 97, 170201, 2006).

A system is some rows of three numbers: one row an atom, and three more where its cell moves
(``degrees_of_freedom.py``). Each system has its own velocities, time step and counters, and what it does depends on its
own rows alone, to the last bit: sums run over the rows of one system in an order that only their number decides, and
all else is done element by element.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]
Index = NDArray[np.int64]

DT, DT_MAX = 0.1, 1.0
"""The time step at the start, and the longest."""

MAX_STEP = 0.2
"""Å. A system's rows move at most so far in one step, all together."""

N_MIN, F_INC, F_DEC = 5, 1.1, 0.5
"""After so many steps downhill the time step grows by a factor; uphill it shrinks by another."""

ALPHA, F_ALPHA = 0.1, 0.99
"""How much of a velocity is turned towards the force at first, and the factor by which that shrinks downhill."""


class Fire:
    """The optimizer's memory of a set of systems.

    Attributes:
        sizes: (S,) rows of each system. first: (S,) where its rows begin. taken: (S,) steps that it has done.
    """

    def __init__(self) -> None:
        self.sizes = self.first = self.taken = self._downhill = np.zeros(0, dtype=np.int64)
        self._dt, self._alpha, self._velocity = np.zeros(0), np.zeros(0), np.zeros((0, 3))

    def change(self, stay: NDArray[np.bool_], new: Sequence[int]) -> None:
        """Changes the set: who stays (S,) keeps its place in line, and new systems of so many rows follow."""
        n = len(new)
        self._velocity = np.concatenate([self._velocity[np.repeat(stay, self.sizes)], np.zeros((sum(new), 3))])
        self._dt = np.concatenate([self._dt[stay], np.full(n, DT)])
        self._alpha = np.concatenate([self._alpha[stay], np.full(n, ALPHA)])
        none = np.zeros(n, dtype=np.int64)
        self.taken = np.concatenate([self.taken[stay], none])
        self._downhill = np.concatenate([self._downhill[stay], none])
        self.sizes = np.concatenate([self.sizes[stay], np.array(new, dtype=np.int64)])
        self.first = np.cumsum(self.sizes) - self.sizes

    def step(self, force: Array) -> Array:
        """One step of every system.

        Args:
            force: (rows, 3) eV/Å, minus the gradient of the energy.

        Returns:
            (rows, 3) Å, how far the rows move.
        """
        # Where a force is not a number its own system moves nowhere sensible, and no other one notices.
        with np.errstate(invalid="ignore", over="ignore", divide="ignore"):
            self._turn(force)
            dt = self._per_row(self._dt)
            self._velocity += dt * force
            move = dt * self._velocity
            length = np.sqrt(self._dot(move, move))
            too_long = length > MAX_STEP
            if too_long.any():
                move *= self._per_row(np.where(too_long, MAX_STEP / length, 1.0))
        self.taken += 1
        return move

    def _turn(self, force: Array) -> None:
        """Turns velocities towards the force where they lead downhill, and stops them where they do not."""
        downhill = self._dot(force, self._velocity) > 0.0
        # At its first step a system has no velocity, which is no reason to shrink its time step.
        uphill = ~downhill & (self.taken > 0)
        speed = np.sqrt(self._dot(self._velocity, self._velocity))
        along = self._alpha * speed / np.sqrt(self._dot(force, force))
        turned = self._per_row(1.0 - self._alpha) * self._velocity + self._per_row(along) * force
        self._velocity = np.where(self._per_row(downhill), turned, 0.0)

        grows = downhill & (self._downhill > N_MIN)
        self._dt = np.where(grows, np.minimum(self._dt * F_INC, DT_MAX), np.where(uphill, self._dt * F_DEC, self._dt))
        self._alpha = np.where(grows, self._alpha * F_ALPHA, np.where(uphill, ALPHA, self._alpha))
        self._downhill = np.where(downhill, self._downhill + 1, 0)

    def longest(self, force: Array) -> Array:
        """(S,) the longest row of each system: what ASE compares with fmax."""
        with np.errstate(invalid="ignore", over="ignore"):
            return np.asarray(np.sqrt(np.maximum.reduceat(_row_dot(force, force), self.first)))

    def _dot(self, a: Array, b: Array) -> Array:
        return np.asarray(np.add.reduceat(_row_dot(a, b), self.first))

    def _per_row(self, x: NDArray[Any]) -> NDArray[Any]:
        return np.repeat(x, self.sizes)[:, None]


def _row_dot(a: Array, b: Array) -> Array:
    # Written out, because library sums may round an element by where it lies in memory.
    product = a * b
    return np.asarray(product[:, 0] + product[:, 1] + product[:, 2])
