"""Neighbour lists against brute force, and what happens to pairs that the model does not see."""

from __future__ import annotations

from dataclasses import replace
from itertools import product
from typing import Any

import numpy as np
import pytest
import torch
from conftest import BASE, crystal, make_model, molecule
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from dpa1_fast import Engine
from dpa1_fast.errors import DPA1Warning, StructureError
from dpa1_fast.kernels.cpu import library
from dpa1_fast.structures import neighbors, sparse_search
from dpa1_fast.structures.batch import collate, neighborhood
from dpa1_fast.structures.neighbors import neighbor_edges
from dpa1_fast.structures.structure import Structure, make_structure
from dpa1_fast.structures.verlet import Verlet

RCUT = 3.5


def brute_force(s: Structure, rcut: float) -> list[tuple[float, ...]]:
    """Every pair by looking at every image that could matter."""
    real = np.flatnonzero(s.types >= 0)
    cell = np.where(s.pbc[:, None], s.cell, 0.0)
    reach = 2 * np.abs(s.positions).max(initial=0) + rcut
    images = [0, 0, 0]
    for axis in np.flatnonzero(s.pbc):
        others = cell[[a for a in range(3) if a != axis and s.pbc[a]]]
        v = cell[axis]
        for o in np.linalg.qr(others.T)[0].T if len(others) else []:
            v = v - (v @ o) * o
        images[axis] = int(np.ceil(2 * reach / np.linalg.norm(v)))
    found = []
    for shift in product(*(range(-k, k + 1) for k in images)):
        d = s.positions[real][None] - s.positions[real][:, None] + np.array(shift) @ cell
        for i, j in zip(*np.nonzero(np.linalg.norm(d, axis=-1) < rcut), strict=True):
            if any(shift) or i != j:
                found.append((real[i], real[j], *np.round(d[i, j], 7)))
    return sorted(found)


def structure(positions: object, cell: object, pbc: object, types: object = None) -> Structure:
    xyz = np.asarray(positions, dtype=float)
    return make_structure(BASE, "s", xyz, np.zeros(len(xyz), int) if types is None else types, cell, pbc)


@settings(max_examples=40, deadline=None, derandomize=True)
@given(
    seed=st.integers(0, 10**6),
    n=st.integers(1, 6),
    pbc=st.tuples(st.booleans(), st.booleans(), st.booleans()),
    hand=st.sampled_from([1.0, -1.0]),
)
def test_same_pairs_as_brute_force(seed: int, n: int, pbc: tuple[bool, bool, bool], hand: float) -> None:
    """Triclinic, left-handed, smaller than the cut-off, any axes periodic, atoms outside the box, virtual atoms."""
    rng = np.random.default_rng(seed)
    cell = hand * (np.diag(rng.uniform(1.8, 5.0, 3)) + rng.normal(scale=0.6, size=(3, 3)))
    types = rng.choice([0, 1, -1], n)
    try:
        s = structure(rng.normal(scale=4.0, size=(n, 3)), cell, pbc, types)
        edges = neighbor_edges(s, RCUT)
    except StructureError:
        assume(False)
    found = sorted((i, j, *np.round(v, 7)) for i, j, v in zip(edges.center, edges.neighbor, edges.vector, strict=True))
    expected = brute_force(s, RCUT)
    assert len(found) == len(expected)
    assert len(set(found)) == len(found), "a pair stands twice"
    if expected:
        assert np.allclose(np.array(found), np.array(expected), atol=1e-6)
    assert (np.diff(edges.center) >= 0).all(), "not sorted by centre"


def test_slab_with_a_zero_vector_along_the_open_axis() -> None:
    slab = structure([[0, 0, 0], [0, 0, 9.0]], [[3.0, 0, 0], [0, 3.0, 0], [0, 0, 0]], [True, True, False])
    edges = neighbor_edges(slab, RCUT)
    assert len(edges.center) == 8
    assert slab.volume is None


def test_wire_and_isolated_atoms() -> None:
    wire = structure([[0, 0, 0]], [[0, 0, 0], [0, 3.0, 0], [0, 0, 0]], [False, True, False])
    assert len(neighbor_edges(wire, RCUT).center) == 2
    far = structure([[0, 0, 0], [1e4, 0, 0]], None, False)
    assert len(neighbor_edges(far, RCUT).center) == 0
    only_virtual = structure([[0, 0, 0]], None, False, [-1])
    assert len(neighbor_edges(only_virtual, RCUT).center) == 0


def test_a_pair_exactly_at_the_cutoff_is_no_pair() -> None:
    assert len(neighbor_edges(structure([[0, 0, 0], [RCUT, 0, 0]], None, False), RCUT).center) == 0


def test_more_than_sel_keeps_the_nearest_and_says_so_once() -> None:
    model = make_model(sel=(5,))
    engine, atoms = Engine(model), molecule(10, box=3.0)
    s = make_structure(model.config, "s", atoms.positions, np.zeros(10, int), None, False)
    near = neighborhood(model.config, s)
    distance = np.linalg.norm(s.positions[None] - s.positions[:, None], axis=-1)
    for i in range(10):
        kept = np.sort(near.edges.neighbor[near.edges.center == i])
        assert np.array_equal(kept, np.sort(np.argsort(distance[i])[1:6]))
    with pytest.warns(DPA1Warning, match=r"10 atoms have more than sel = 5 .*up to 9"):
        engine.evaluate([atoms])
    engine.evaluate([atoms])  # said once: a second warning would be an error here


def test_exclusions_leave_pairs_out_and_count_slots_apart() -> None:
    config = replace(BASE, exclude_types=((0, 1),), pair_exclude_types=((1, 2),))
    s = make_structure(config, "s", [[0, 0, 0], [1, 0, 0], [0, 1, 0]], [0, 1, 2], None, False)
    found = neighborhood(config, s)
    pairs = set(zip(found.edges.center.tolist(), found.edges.neighbor.tolist(), strict=True))
    assert pairs == {(0, 2), (2, 0)}
    # exclude_types keeps the slot, pair_exclude_types frees it.
    assert found.n_filled.tolist() == [2, 1, 1]


# --- how close atoms come -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("compiled", [True, False])
@pytest.mark.parametrize(
    ("options", "handed_over"),
    [
        ({}, True),
        ({"sel": (4,)}, False),
        ({"exclude_types": ((0, 1),)}, False),
        ({"pair_exclude_types": ((2, 2),)}, False),
    ],
    ids=["all pairs", "nearest", "excluded", "pair excluded"],
)
def test_the_search_says_how_close_atoms_come_with_the_bits_of_the_edges(
    compiled: bool, options: dict[str, Any], handed_over: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Handed over where the model sees every pair, else looked for in those that it sees."""
    if not compiled:
        monkeypatch.setattr(library, "available", lambda: False)
    config, rng = replace(BASE, **({"sel": (90,)} | options)), np.random.default_rng(3)
    every = [
        make_structure(config, str(k), rng.uniform(0, 5.0, (n, 3)), rng.integers(0, 3, n), np.eye(3) * 5.2, n % 2 == 0)
        for k, n in enumerate([1, 2, 5, 12, 9, 30])
    ]
    every.append(make_structure(config, "virtual", [[0, 0, 0]], [-1], None, False))
    batch = collate(config, [neighborhood(config, s) for s in every])
    assert (batch._closest is not None) == handed_over
    again = replace(batch)
    assert again._closest is None, "what holds of other edges"
    assert torch.equal(batch.closest(), again.closest())
    assert torch.isinf(batch.closest()[[0, -1]]).all()

    verlet = Verlet(config)
    verlet.select(every)
    moving, errors = verlet.batch(np.concatenate([s.positions for s in every]), np.stack([s.cell for s in every]))
    assert not errors
    assert torch.allclose(moving.closest(), batch.closest(), rtol=1e-14, atol=0.0)


# --- far apart, long and thin -------------------------------------------------------------------------------------


def pairs_of(s: Structure) -> list[tuple[float, ...]]:
    e = neighbor_edges(s, RCUT)
    return sorted((i, j, *np.round(v, 5)) for i, j, v in zip(e.center, e.neighbor, e.vector, strict=True))


FREE = ([False] * 3, [True, False, False], [True, True, False], [False, True, False])


@pytest.mark.parametrize("away", [40.0, 2000.0, 1e6, 1e8])
@pytest.mark.parametrize("pbc", FREE)
def test_an_atom_far_away_changes_nothing_for_the_others(pbc: list[bool], away: float) -> None:
    """One more atom out along a free axis: the others keep their pairs, and it has those with its own images."""
    near = molecule(7, seed=4).positions
    box = np.diag([4.1, 4.3, 4.2])
    direction = np.where(pbc, 0.0, away)
    alone = pairs_of(structure([[0.0, 0.0, 0.0]], box, pbc))
    expected = pairs_of(structure(near, box, pbc)) + [(i + 7, j + 7, *v) for i, j, *v in alone]
    found = pairs_of(structure([*near, direction], box, pbc))
    assert len(found) == len(expected)
    assert np.allclose(sorted(found), sorted(expected), atol=1e-5)


@settings(max_examples=60, deadline=None, derandomize=True)
@given(
    seed=st.integers(0, 10**6),
    n=st.integers(1, 9),
    pbc=st.tuples(st.booleans(), st.booleans(), st.booleans()),
    long=st.sampled_from([None, 0, 1, 2]),
)
def test_the_tree_finds_the_pairs_of_the_grid(
    seed: int, n: int, pbc: tuple[bool, bool, bool], long: int | None
) -> None:
    """Where both can be asked, and in a cell that is 1,000 Å long, whose atoms are all in one corner, alike."""
    rng = np.random.default_rng(seed)
    cell = np.diag(rng.uniform(2.5, 5.0, 3)) + rng.normal(scale=0.6, size=(3, 3))
    if long is not None:
        cell[long] *= 1000.0 / np.linalg.norm(cell[long])
    points = rng.uniform(0.0, 1.0, (n, 3)) * np.minimum(1.0, 5.0 / np.linalg.norm(cell, axis=1)) @ cell
    try:
        box = neighbors._search_cell(structure(points, cell, pbc))
        points -= np.where(pbc, np.floor(points @ np.linalg.inv(box)), 0.0) @ box
        s = structure(points, cell, pbc)
        i, j, shift, vector = sparse_search.pairs(points, box, s.pbc, RCUT)
        expected = brute_force(s, RCUT)
        edges = neighbor_edges(s, RCUT)
    except StructureError:
        assume(False)
    assert np.allclose(vector, points[j] - points[i] + shift @ box, atol=1e-9)
    found = sorted((a, b, *np.round(v, 7)) for a, b, v in zip(i, j, vector, strict=True))
    assert len(found) == len(expected) == len(edges.center)
    assert not expected or np.allclose(np.array(found), np.array(expected), atol=1e-6)


@pytest.mark.parametrize("cell", [[3.0, 3.0, 1e6], [3.0, 1e5, 3.1], [2.9, 3.0, 1e8]])
def test_a_cell_that_is_long_and_thin(cell: list[float]) -> None:
    edges = neighbor_edges(structure([[0, 0, 0]], np.diag(cell), True), RCUT)
    short = [x for x in cell if x < RCUT]
    assert sorted(np.round(np.linalg.norm(edges.vector, axis=1), 6)) == sorted(2 * short)


@pytest.mark.parametrize("cells", [5, 10**4, 10**7])
def test_atoms_many_cells_outside_have_the_pairs_of_those_inside(cells: int) -> None:
    inside = crystal()
    outside = inside.positions.copy()
    outside[0] += cells * inside.cell[0]
    outside[1] -= cells * inside.cell[2]
    expected = pairs_of(structure(inside.positions, inside.cell[:], True))
    found = pairs_of(structure(outside, inside.cell[:], True))
    assert len(found) == len(expected)
    assert np.allclose(np.array(found), np.array(expected), atol=1e-4 if cells > 10**6 else 1e-5)


def test_coordinates_that_float64_cannot_hold_are_refused() -> None:
    for positions, cell in (([[0, 0, 4e10]], np.eye(3) * 4), ([[0, 0, 0]], np.diag([4, 4, 1e12]))):
        with pytest.raises(StructureError, match="beyond 1e\\+09 Å, where float64 holds no places"):
            structure(positions, cell, True)


@pytest.mark.parametrize("number", [-106, -1, 119, 500])
def test_atomic_numbers_that_no_element_has(number: int) -> None:
    atoms = molecule(3)
    atoms.numbers[1] = number
    engine = Engine(make_model(), device="cpu")
    with pytest.raises(StructureError, match=f"no element with atomic number {number}"):
        engine.evaluate([atoms])


def test_a_free_axis_of_next_to_no_length_gives_no_stress() -> None:
    atoms = molecule(3, cell=[5.0, 5.0, 1e-310], pbc=[True, True, False])
    (result,) = Engine(make_model(), device="cpu").evaluate([atoms])
    assert result.stress is None


def test_neighbors_of_hundreds_of_thousands_of_atoms_are_in_order() -> None:
    # More atoms than 64³: the numbers of neighbours are put in order by a tree of bits, whose third level is used then.
    rng = np.random.default_rng(5)
    s = structure(rng.uniform(0.0, 180.0, (64**3 + 40_000, 3)), None, False)
    rcut = 2.0
    edges = neighbor_edges(s, rcut)
    i, j, _, vector = sparse_search.pairs(s.positions, np.eye(3), s.pbc, rcut)
    order = np.lexsort((j, i))
    assert np.array_equal(edges.center, i[order])
    assert np.array_equal(edges.neighbor, j[order])
    assert np.abs(edges.vector - vector[order]).max() < 1e-12
    assert len(i) > 3 * 10**5
