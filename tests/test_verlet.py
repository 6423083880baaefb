"""Lists that last hold the pairs of fresh ones, however structures move, and are searched no more often than needed."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from conftest import BASE, make_model
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from dpa1_fast.errors import StructureError
from dpa1_fast.kernels.cpu import library, neighbors
from dpa1_fast.kernels.cpu.buffer_pool import BufferPool
from dpa1_fast.structures.batch import Batch, collate, neighborhood
from dpa1_fast.structures.structure import Structure, make_structure
from dpa1_fast.structures.verlet import Verlet, _by_cells, _Compiled, _Plain, find_candidates

CONFIG = replace(BASE, rcut=3.5, sel=(2000,))


def structure(rng: np.random.Generator, n: int, pbc: Any, hand: float, config: Any = CONFIG) -> Structure | None:
    """Small triclinic cells with several images, atoms outside of them, virtual atoms; None if it is no structure."""
    cell = hand * (np.diag(rng.uniform(1.8, 5.0, 3)) + rng.normal(scale=0.6, size=(3, 3)))
    positions = rng.normal(scale=4.0, size=(n, 3))
    try:
        made = make_structure(config, "s", positions, rng.choice([0, 1, 2, -1], n), cell, pbc)
        neighborhood(config, made)
    except StructureError:
        return None
    return made


def pairs(batch: Batch) -> np.ndarray:
    """All edges, sorted."""
    rows = np.column_stack([batch.center, batch.neighbor, batch.vector.numpy().round(8) + 0.0])
    return rows[np.lexsort(rows.T[::-1])]


def fresh(config: Any, structures: list[Structure], positions: list[np.ndarray], cells: list[np.ndarray]) -> Batch:
    moved = [
        make_structure(config, s.name, p, s.types, c, s.pbc, s.fparam, s.aparam)
        for s, p, c in zip(structures, positions, cells, strict=True)
    ]
    return collate(config, [neighborhood(config, m) for m in moved])


def check(config: Any, verlet: Verlet, positions: list[np.ndarray], cells: list[np.ndarray]) -> None:
    try:
        expected = fresh(config, verlet.structures, positions, cells)
    except StructureError:
        assume(False)
    batch, errors = verlet.batch(np.concatenate(positions), np.stack(cells))
    assert not errors
    for name in ("types", "structure", "offsets", "active", "first_edge", "n_filled"):
        assert np.array_equal(getattr(batch, name), getattr(expected, name)), name
    assert np.allclose(pairs(batch), pairs(expected), atol=1e-7)
    assert batch.over_sel == expected.over_sel


@settings(max_examples=60, deadline=None, derandomize=True)
@given(
    seed=st.integers(0, 10**6),
    sizes=st.lists(st.integers(1, 6), min_size=1, max_size=3),
    pbc=st.tuples(st.booleans(), st.booleans(), st.booleans()),
    hand=st.sampled_from([1.0, -1.0]),
    skin=st.sampled_from([0.0, 0.3, 1.0]),
    strain=st.sampled_from([0.0, 0.01, 0.2]),
    stride=st.sampled_from([0.02, 0.15, 1.5]),
)
def test_no_pair_is_ever_missed_on_the_way(
    seed: int, sizes: list[int], pbc: Any, hand: float, skin: float, strain: float, stride: float
) -> None:
    """Atoms wander through the faces of cells that are sheared and stretched; some are wrapped back now and then."""
    rng = np.random.default_rng(seed)
    members = [s for n in sizes if (s := structure(rng, n, pbc, hand)) is not None]
    assume(members)
    verlet = Verlet(CONFIG, skin)
    verlet.select(members)
    positions, cells = [s.positions.copy() for s in members], [s.cell.copy() for s in members]
    for step in range(6):
        check(CONFIG, verlet, positions, cells)
        for k, s in enumerate(members):
            deform = np.eye(3) + rng.normal(scale=strain / 3, size=(3, 3)) * rng.integers(0, 2)
            # With strain, atoms follow the cell at times and stay behind at others.
            positions[k] = (positions[k] @ deform if rng.integers(0, 2) else positions[k]) + rng.normal(
                scale=stride / 3, size=positions[k].shape
            ) * rng.integers(0, 2)
            cells[k] = cells[k] @ deform
            if step == 3:
                positions[k][0] += s.pbc @ (rng.integers(-2, 3, 3)[:, None] * cells[k])


@pytest.mark.parametrize(
    ("options", "pbc"),
    [
        # Not periodic: an atom's two images are equally far, and sel may cut between them, this way or that.
        ({"sel": (3,), "rcut": 6.0}, False),
        ({"exclude_types": ((0, 1),)}, (True, False, True)),
        ({"pair_exclude_types": ((1, 2),), "atom_exclude_types": (0,)}, True),
    ],
)
def test_what_the_model_leaves_out_is_left_out(options: dict[str, Any], pbc: Any) -> None:
    config = replace(CONFIG, **options)
    rng = np.random.default_rng(3)
    members = [s for n in (6, 5, 4) if (s := structure(rng, n, pbc, 1.0, config)) is not None]
    verlet = Verlet(config)
    verlet.select(members)
    positions = [s.positions.copy() for s in members]
    for _ in range(4):
        check(config, verlet, positions, [s.cell for s in members])
        for p in positions:
            p += rng.normal(scale=0.1, size=p.shape)


def cubes(*edges: float) -> tuple[Verlet, np.ndarray, np.ndarray]:
    """Cubic crystals of eight atoms, in a set."""
    grid = np.array([[x, y, z] for x in (0, 0.5) for y in (0, 0.5) for z in (0, 0.5)])
    verlet = Verlet(CONFIG, skin=0.6)
    verlet.select(
        [make_structure(CONFIG, f"s{k}", grid * a, [0] * 8, np.eye(3) * a, True) for k, a in enumerate(edges)]
    )
    return verlet, np.concatenate([grid * a for a in edges]), np.stack([np.eye(3) * a for a in edges])


def test_only_what_moved_far_is_searched_again() -> None:
    verlet, positions, cells = cubes(4.0, 5.0)
    verlet.batch(positions, cells)
    assert verlet.searches == 2
    positions[3] += [0.29, 0, 0]
    verlet.batch(positions, cells)
    assert verlet.searches == 2, "within half the skin"
    positions[12] += [0.31, 0, 0]
    verlet.batch(positions, cells)
    assert verlet.searches == 3, "beyond half the skin, in one of two structures"


def test_a_strain_that_atoms_follow_costs_no_search_while_it_is_small() -> None:
    verlet, positions, cells = cubes(4.0)
    verlet.batch(positions, cells)
    stretch = np.diag([1.05, 1.0, 0.97])
    verlet.batch(positions @ stretch, cells @ stretch)
    assert verlet.searches == 1
    verlet.batch(positions @ (4 * stretch), cells @ (4 * stretch))
    assert verlet.searches == 2


def test_callers_may_move_atoms_in_place() -> None:
    verlet, positions, cells = cubes(4.0)
    for _ in range(8):
        check(CONFIG, verlet, [positions], list(cells))
        positions += np.random.default_rng(0).normal(scale=0.1, size=positions.shape)
        cells *= 1.01


def test_members_come_and_go_with_their_lists() -> None:
    verlet, positions, cells = cubes(4.0, 5.0, 6.0)
    verlet.batch(positions, cells)
    verlet.select([2, 0, make_structure(CONFIG, "new", [[0, 0, 0], [1.0, 0, 0]], [1, 2], None, False)])
    moved = [positions[16:], positions[:8], np.array([[0, 0, 0], [1.0, 0, 0]])]
    check(CONFIG, verlet, moved, [cells[2], cells[0], np.zeros((3, 3))])
    assert verlet.searches == 4, "the new one alone is searched"


def test_the_result_does_not_depend_on_when_a_list_was_made() -> None:
    """To the last bit: candidates are in an order of their own, and vectors come from the positions of today."""
    verlet, positions, cells = cubes(4.0)
    verlet.batch(positions, cells)
    later = positions + np.random.default_rng(1).uniform(-0.15, 0.15, positions.shape)
    old, _ = verlet.batch(later, cells)
    again, _, _ = cubes(4.0)
    new, _ = again.batch(later, cells)
    assert verlet.searches == 1
    for name in ("center", "neighbor", "vector", "first_edge"):
        assert np.array_equal(getattr(old, name), getattr(new, name)), name


def test_a_structure_that_cannot_be_evaluated_is_named_and_silent_and_others_go_on() -> None:
    verlet, positions, cells = cubes(4.0, 5.0, 6.0)
    alone, *_ = cubes(5.0)
    good = pairs(alone.batch(positions[8:16], cells[1:2])[0])
    broken = positions.copy()
    broken[2, 1] = np.nan
    broken[17] = broken[16] + 1e-5
    batch, errors = verlet.batch(broken, cells)
    assert "position of atom 2 is not finite" in str(errors.pop(0))
    assert "atoms 0 and 1 overlap" in str(errors.pop(2))
    assert not errors
    found = pairs(batch)
    assert np.allclose(found[:, 2:], good[:, 2:])
    assert np.array_equal(found[:, 0] - 8, good[:, 0])
    assert batch.active.tolist() == [False] * 8 + [True] * 8 + [False] * 8
    _, errors = verlet.batch(positions, cells)
    assert not errors, "mended structures are searched again"


def test_a_cell_that_collapses_is_named() -> None:
    verlet, positions, cells = cubes(4.0)
    verlet.batch(positions, cells)
    flat = np.diag([1.0, 1.0, 1e-6])
    _, errors = verlet.batch(positions @ flat, cells @ flat)
    assert "singular cell" in str(errors[0])


def test_a_negative_skin_is_refused() -> None:
    with pytest.raises(ValueError, match="skin"):
        Verlet(make_model().config, skin=-0.1)


@pytest.mark.skipif(not library.available(), reason="the CPU engine was not compiled: no C++ compiler")
@given(seed=st.integers(0, 1 << 30), n=st.integers(1, 8), pbc=st.tuples(*[st.booleans()] * 3))
@settings(max_examples=80, deadline=None)
def test_compiled_and_plain_ways_find_the_same(seed: int, n: int, pbc: tuple[bool, bool, bool]) -> None:
    """The search by all pairs and the one by cells; a step of compiled code and one of numpy."""
    rng = np.random.default_rng(seed)
    one = structure(rng, n, pbc, 1.0)
    assume(one is not None and (one.types >= 0).any())
    assert one is not None
    lattice = np.where(one.pbc[:, None], one.cell, 0.0)
    found = neighbors.search(one.positions, one.types >= 0, lattice, np.linalg.pinv(lattice), 4.0)
    assert found is not None
    for a, b in zip(found, _by_cells(one, 4.0), strict=True):
        assert np.array_equal(a, b)
    candidates, offsets = [find_candidates(one, 4.0)] * 2, np.array([0, n, 2 * n])
    positions = np.concatenate([one.positions, one.positions + rng.normal(scale=0.1, size=(n, 3))])
    ways = (way(candidates, offsets).edges(positions, np.stack([one.cell] * 2), 3.5) for way in (_Compiled, _Plain))
    (edges, first, least), (plain, plain_first, plain_least) = ways
    assert np.array_equal(first, plain_first)
    assert np.array_equal(edges.center, plain.center)
    assert np.array_equal(edges.neighbor, plain.neighbor)
    assert np.allclose(edges.vector, plain.vector, rtol=0, atol=1e-13)
    assert least == pytest.approx(plain_least, abs=1e-12)


def test_atoms_many_cells_apart_are_left_to_the_search_by_cells() -> None:
    far = np.array([[0.0, 0, 0], [1e9, 0, 0]])
    assert neighbors.search(far, np.ones(2, bool), 3.0 * np.eye(3), np.eye(3) / 3.0, 4.0) is None


def test_memory_is_used_again_only_when_nobody_looks_at_it() -> None:
    pool = BufferPool()
    first = pool.take("x", (10, 3))
    view = first[:2]
    second = pool.take("x", (10, 3))
    assert not np.shares_memory(first, second)
    address = second.ctypes.data
    del second
    assert pool.take("x", (5, 3)).ctypes.data == address
    first[...] = 7.0
    del first
    pool.take("x", (10, 3))[...] = 0.0
    assert (view == 7.0).all()
    assert pool.take("x", (1000, 3)).shape == (1000, 3)
