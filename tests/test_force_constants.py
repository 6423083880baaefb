"""Force constants: those of displaced supercells evaluated whole, from a few centres of a few displacements."""

from __future__ import annotations

import itertools
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from ase import Atoms
from ase.build import bulk, make_supercell

import dpa1_fast
from dpa1_fast.errors import StructureError
from dpa1_fast.properties.force_constants import Supercell, directions, force_constants, force_constants_of_each
from dpa1_fast.structures.structure import Structure, from_ase

ENGINE = dpa1_fast.load("almgcu-demo", threads=1)
U = 0.002  # Å, so small that what is of third order in it is below SAME
SAME = 2e-5  # of the largest constant
CUBE = np.array([
    np.eye(3)[list(p)] * signs
    for p in itertools.permutations(range(3)) for signs in itertools.product((1, -1), repeat=3)
], dtype=float)  # fmt: skip


def alloy() -> Atoms:
    """Al3Cu, whose three Al are equivalent."""
    atoms = bulk("Al", cubic=True)
    atoms.symbols[0] = "Cu"
    return atoms


def low() -> Atoms:
    atoms = bulk("Mg") * (1, 1, 2)
    atoms.symbols[1] = "Al"
    atoms.rattle(0.05, seed=3)
    return atoms


def structure(atoms: Atoms) -> Structure:
    return from_ase(ENGINE.config, atoms, "crystal")


def whole(atoms: Atoms, first: list[int]) -> np.ndarray:
    """(p, N, 3, 3) from whole displaced supercells."""
    out = np.zeros((len(first), len(atoms), 3, 3))
    for (p, a), axis in itertools.product(enumerate(first), range(3)):
        moved = [atoms.copy(), atoms.copy()]
        moved[0].positions[a, axis] += U
        moved[1].positions[a, axis] -= U
        plus, minus = ENGINE.evaluate(moved)
        out[p, :, axis] = (minus.forces - plus.forces) / (2 * U)
    return out


def test_without_symmetry_they_are_those_of_whole_supercells() -> None:
    atoms = low() * (2, 2, 2)
    first = [0, 1, 2, 3]
    found, count = force_constants(ENGINE, Supercell(structure(atoms), first), U)
    assert count == 6 * 4
    # They were displaced along lattice vectors, and these along axes.
    assert np.abs(found - whole(atoms, first)).max() < SAME * np.abs(found).max()
    assert np.abs(found.sum(axis=1)).max() < 1e-10  # all atoms moved alike feel nothing


def test_symmetry_gives_the_rest() -> None:
    atoms = alloy() * (2, 2, 2)
    first = [0, 1, 2, 3]
    found, count = force_constants(ENGINE, Supercell(structure(atoms), first, CUBE), U)
    assert count == 2  # of Cu and of one Al
    expected, every = force_constants(ENGINE, Supercell(structure(atoms), first), U)
    assert every == 24
    assert np.abs(found - expected).max() < SAME * np.abs(found).max()
    assert np.abs(expected - whole(atoms, first)).max() < 1e-10  # a cube's lattice vectors are its axes


def test_only_those_that_see_the_atom_are_evaluated(monkeypatch: pytest.MonkeyPatch) -> None:
    atoms = make_supercell(bulk("Cu"), 6 * np.eye(3))
    evaluated: list[int] = []
    evaluate = ENGINE.evaluate_batch

    def count(batch: Any, **options: Any) -> Any:
        evaluated.append(int(batch.active.sum()))
        return evaluate(batch, **options)

    monkeypatch.setattr(ENGINE, "evaluate_batch", count)
    found, displacements = force_constants(ENGINE, Supercell(structure(atoms), [0], CUBE), U)
    assert displacements == 1
    assert len(evaluated) == 1
    assert evaluated[0] < 30 < len(atoms)
    away = atoms.get_distances(0, np.arange(len(atoms)), mic=True)
    assert np.abs(found[0, away > 2 * ENGINE.config.rcut + U]).max(initial=0.0) == 0.0
    alone, _ = force_constants(ENGINE, Supercell(structure(atoms), [0]), U)
    assert np.abs(found - alone).max() < SAME * np.abs(found).max()


def test_a_supercell_of_lower_symmetry_takes_no_rotation_that_it_has_not() -> None:
    atoms = alloy() * (2, 2, 1)
    cell = Supercell(structure(atoms), [0, 1, 2, 3], CUBE)
    assert len(cell.rotations) == 16
    found, _ = force_constants(ENGINE, cell, U)
    assert np.abs(found - whole(atoms, [0, 1, 2, 3])).max() < SAME * np.abs(found).max()


@pytest.mark.parametrize("most", [1, 150, 10**6], ids=["one by one", "some", "all at once"])
def test_several_crystals_in_a_batch_are_what_each_is_alone(most: int, monkeypatch: pytest.MonkeyPatch) -> None:
    wrong = alloy() * (2, 1, 1)
    wrong.positions[1] = wrong.positions[0] + 1e-5
    crystals = [(low() * (2, 1, 1), [0, 1, 2, 3]), (wrong, [0]), (make_supercell(bulk("Cu"), 3 * np.eye(3)), [0]),
                (alloy() * (2, 2, 1), [0, 1, 2, 3])]  # fmt: skip
    cells = [Supercell(structure(a), first, CUBE if a is not crystals[0][0] else None) for a, first in crystals]
    batches: list[int] = []
    evaluate = ENGINE.evaluate_batch

    def count(batch: Any, **options: Any) -> Any:
        batches.append(len(batch.types))
        return evaluate(batch, **options)

    monkeypatch.setattr(ENGINE, "evaluate_batch", count)
    monkeypatch.setattr("dpa1_fast.properties.force_constants.ATOMS", most)
    together = force_constants_of_each(ENGINE, cells, U)
    if most == 10**6:
        assert len(batches) == 1
    assert isinstance(together[1], StructureError)
    for k in (0, 2, 3):
        constants, displacements = together[k]  # type: ignore[misc]
        alone, expected = force_constants(ENGINE, cells[k], U)
        assert displacements == expected
        assert constants.tobytes() == alone.tobytes()


def test_directions_are_few_and_span_space() -> None:
    lattice = bulk("Al").cell.array
    assert len(directions(lattice, CUBE)) == 1
    assert len(directions(lattice, np.eye(3)[None])) == 6
    thin = np.array([[3.0, 0, 0], [29.9, 0.01, 0], [29.9, 0, 0.01]])  # all its vectors are nearly one
    assert np.linalg.matrix_rank(directions(thin, np.eye(3)[None]), tol=0.1) == 3
    inversion = np.array([np.eye(3), -np.eye(3)])
    assert len(directions(lattice, inversion)) == 3
    for rotations in (CUBE, np.eye(3)[None], inversion, CUBE[np.linalg.det(CUBE) > 0]):
        every = np.concatenate([rotations @ d for d in directions(lattice, rotations)])
        assert np.linalg.matrix_rank(every) == 3
        assert np.abs(every.sum(axis=0)).max() < 1e-12  # forces without a displacement drop out


def test_what_overlaps_or_overflows_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    atoms = alloy()
    atoms.positions[1] = atoms.positions[0] + 1e-5
    with pytest.raises(StructureError, match="on top of each other|overlap"):
        force_constants(ENGINE, Supercell(structure(atoms), [0]), U)
    evaluate = ENGINE.evaluate_batch

    def overflow(batch: Any) -> Any:
        outputs = evaluate(batch)
        return outputs._replace(gradient=outputs.gradient * np.inf)

    monkeypatch.setattr(ENGINE, "evaluate_batch", overflow)
    with pytest.raises(StructureError, match="overflow"):
        force_constants(ENGINE, Supercell(replace(structure(alloy()), name="alloy"), [0]), U)
