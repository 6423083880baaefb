"""Random structures, mild and hostile: the CPU engine gives the reference's numbers or the same refusal.

pytest tests/fuzz --fuzz-examples 100000      (make fuzz; EXAMPLES=4000 FIRST=25000: a piece of it)
"""

from __future__ import annotations

import numpy as np
import pytest
from ase import Atoms
from conftest import OPTIONS, make_model

from dpa1_fast import Engine, Result
from dpa1_fast.config import DPA1Config
from dpa1_fast.errors import StructureError

pytestmark = pytest.mark.usefixtures("quiet")


def random_structure(rng: np.random.Generator) -> Atoms:
    """Clusters, slabs, wires and crystals, with now and then something that nobody should send."""
    n = int(rng.integers(1, 8))
    cell = np.diag(rng.uniform(2.2, 7.0, 3)) + rng.normal(scale=0.7, size=(3, 3))
    if rng.random() < 0.3:
        cell[rng.integers(3)] *= -1.0
    positions = rng.uniform(-1.0, 2.0, (n, 3)) @ cell
    atoms = Atoms(rng.choice(["H", "C", "O"], n), positions=positions, cell=cell, pbc=rng.random(3) < 0.5)
    for spoil in SPOILERS:
        if rng.random() < 0.06:
            spoil(rng, atoms)
    return atoms


def _far(rng: np.random.Generator, atoms: Atoms) -> None:
    atoms.positions[rng.integers(len(atoms))] += rng.normal(size=3) * 10.0 ** rng.uniform(1, 12)


def _cells_away(rng: np.random.Generator, atoms: Atoms) -> None:
    atoms.positions[rng.integers(len(atoms))] += rng.integers(-(10**6), 10**6) * atoms.cell[rng.integers(3)]


def _long(rng: np.random.Generator, atoms: Atoms) -> None:
    cell = atoms.cell[:].copy()
    cell[rng.integers(3)] *= 10.0 ** rng.uniform(1, 8)
    atoms.set_cell(cell)


def _thin(rng: np.random.Generator, atoms: Atoms) -> None:
    cell = atoms.cell[:].copy()
    cell[rng.integers(3)] *= 10.0 ** rng.uniform(-320, -1)
    atoms.set_cell(cell)


def _overlap(rng: np.random.Generator, atoms: Atoms) -> None:
    atoms.positions[rng.integers(len(atoms))] = atoms.positions[0] + rng.normal(size=3) * 10.0 ** rng.uniform(-9, 0)


def _not_finite(rng: np.random.Generator, atoms: Atoms) -> None:
    atoms.positions[rng.integers(len(atoms)), rng.integers(3)] = rng.choice([np.nan, np.inf, -np.inf, 1e300])


def _no_element(rng: np.random.Generator, atoms: Atoms) -> None:
    atoms.numbers[rng.integers(len(atoms))] = rng.choice([-106, -1, 0, 9, 119, 500])


def at_the_cut_off(config: DPA1Config, judge: Engine, atoms: Atoms, right: Result) -> float:
    """How far the judge's own numbers go when all atoms are moved by one vector, where a pair is within 3e-4 Å of the
    cut-off (docs/parity.md); else 0."""
    lengths = judge.batch([atoms]).vector.norm(dim=1)
    if config.smooth_type_embedding or not config.attn_layer or not bool((config.rcut - lengths < 3e-4).any()):
        return 0.0
    worst = 0.0
    for move in (0.37, 1.1, 2.9, 4.3, 7.3, 11.9):
        moved = atoms.copy()
        moved.positions += move * np.array([1.0, 2.0, 3.0])
        (again,) = judge.evaluate([moved])
        off = (again.energies - right.energies, again.forces - right.forces, again.virial - right.virial)
        worst = max(worst, *(float(np.abs(x).max()) for x in off))
    return worst


TOGETHER = 50
"""Structures that the judge is given at a time: alone, each costs it ten times as much."""

SPOILERS = (_far, _cells_away, _long, _thin, _overlap, _not_finite, _no_element)


@pytest.mark.parametrize("name", ["smooth", "hard", "strip_onesided", "no_attention"])
def test_the_engine_agrees_with_the_reference_or_refuses_alike(name: str, fuzz_examples: int, fuzz_first: int) -> None:
    model = make_model(**OPTIONS[name])
    engine = Engine(model, backend="cpu", device="cpu", threads=1)
    judge = Engine(model, backend="reference", device="cpu")
    compared, last = 0, fuzz_first + max(1, fuzz_examples // 4)
    for start in range(fuzz_first, last, TOGETHER):
        compared += agreed(engine, judge, range(start, min(start + TOGETHER, last)))
    assert compared >= fuzz_examples // 12, "most structures are to be evaluated"


def agreed(engine: Engine, judge: Engine, seeds: range) -> int:
    """How many structures both have evaluated, alike; they come to the engine one by one."""
    structures = [random_structure(np.random.default_rng(seed)) for seed in seeds]
    compared = 0
    for seed, atoms, right in zip(seeds, structures, judge.evaluate(structures, on_error="return"), strict=True):
        (found,) = engine.evaluate([atoms], on_error="return")
        assert isinstance(found, StructureError) == isinstance(right, StructureError), f"seed {seed}: {found}, {right}"
        if isinstance(found, StructureError) or isinstance(right, StructureError):
            continue
        numbers = [found.energies, found.forces, found.virial]
        assert all(np.isfinite(x).all() for x in numbers), f"seed {seed}: not finite but ok"
        assert found.stress is None or np.isfinite(found.stress).all(), f"seed {seed}: stress"
        if found.forces.size and np.abs(right.forces).max() < 1e6:
            scale = max(1.0, float(np.abs(right.forces).max()))
            unsure = at_the_cut_off(engine.config, judge, atoms, right)
            for a, b in zip(numbers, [right.energies, right.forces, right.virial], strict=True):
                assert np.abs(a - b).max() < max(1e-9 * scale, unsure), f"seed {seed}: {np.abs(a - b).max():.2g}"
            compared += 1
    return compared
