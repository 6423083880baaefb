"""Systems that tests of molecular dynamics move."""

from __future__ import annotations

import numpy as np
from ase import Atoms, units
from ase.build import bulk
from ase.md.velocitydistribution import thermalize_momenta

import dpa1_fast

ENGINE = dpa1_fast.load("almgcu-demo", threads=1)


def alloy(seed: int = 0, repeat: int = 1, kelvin: float = 500.0) -> Atoms:
    """Al with a Cu in it, hot."""
    atoms = bulk("Al", cubic=True).repeat((repeat, 1, 1))
    atoms.symbols[seed % len(atoms)] = "Cu"
    atoms.rattle(0.05, seed=seed)
    if kelvin:
        thermalize_momenta(atoms, kelvin, rng=np.random.default_rng(seed))
    return atoms


def cluster() -> Atoms:
    return Atoms("AlMgCuAl", [[0, 0, 0], [2.8, 0.2, 0], [0.3, 2.7, 0.1], [0.2, 0.1, 2.8]])


def crash() -> Atoms:
    """Two atoms that fly at each other, too heavy to be pushed away: they meet in step 4."""
    atoms = Atoms("Al2", [[0, 0, 0], [2.0, 0, 0]])
    atoms.set_masses([1e9, 1e9])
    atoms.set_velocities([[0.0, 0, 0], [-0.5 / units.fs, 0, 0]])
    return atoms
