"""What a model is timed on: a crystal of its own elements, or the user's structure, in many sizes."""

from __future__ import annotations

import math
from collections.abc import Iterator

import numpy as np
from ase import Atoms
from ase.build import bulk

from ..config import DPA1Config
from ..engine import Engine
from ..errors import DPA1Error

ELEMENTS = 3
FILLED, DENSITY = 0.75, 0.1
"""A made crystal fills so much of ``sel``, but has no more atoms in a cubic Å than water and metals do."""
RATTLE = 0.08
"""Å: no two atoms are alike."""


def made(config: DPA1Config) -> Atoms:
    """A face-centred cell of four atoms of the model's first elements, at a density that gives usual neighbours.

    Raises:
        DPA1Error: the model's types are no elements.
    """
    elements = [e for e, _ in config.types_by_name if e not in ("X",)][:ELEMENTS]
    sphere = 4 / 3 * math.pi * config.rcut**3
    volume = max(1 / DENSITY, sphere / (FILLED * config.nsel + 1))
    try:
        cell = bulk(elements[0], "fcc", a=(4 * volume) ** (1 / 3), cubic=True)
        cell.symbols[:] = [elements[k % len(elements)] for k in range(4)]
    except (KeyError, IndexError):
        raise DPA1Error("the model's types are no elements; give structures of yours with --structures FILE") from None
    return cell


def repeated(cell: Atoms, atoms: int) -> Atoms:
    """About so many atoms: the cell repeated along its periodic axes as evenly as possible, then rattled."""
    times = np.ones(3, dtype=int)
    while len(cell) * times.prod() < atoms and cell.pbc.any():
        lengths = np.where(cell.pbc, cell.cell.lengths() * times, np.inf)
        times[int(lengths.argmin())] += 1
    out: Atoms = cell.repeat(tuple(times.tolist()))
    out.rattle(RATTLE, seed=len(out))
    return out


SIZES = (16, 64, 200, 500, 1500, 4000, 12_000, 32_000, 100_000)


def sizes(cell: Atoms, most: int) -> Iterator[Atoms]:
    """Systems of rising size, none twice."""
    last = 0
    for size in SIZES:
        if size > most and last:
            return
        atoms = repeated(cell, size)
        if len(atoms) > last:
            last = len(atoms)
            yield atoms


def many(cell: Atoms, count: int) -> list[Atoms]:
    """So many small structures, each of its own: 8 atoms where the cell has four."""
    small = repeated(cell, 2 * len(cell)) if cell.pbc.any() else cell
    out = [small.copy() for _ in range(count)]
    for k, atoms in enumerate(out):
        atoms.rattle(RATTLE, seed=k)
    return out


def neighbors(engine: Engine, atoms: Atoms) -> float:
    """Mean number of neighbours."""
    return float(engine.batch([atoms]).counts.double().mean())
