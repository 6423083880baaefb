"""Neighbour lists made by torch operations: pair for pair and bit for bit those that the host makes."""

from __future__ import annotations

import copy
import pickle
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from ase import Atoms
from conftest import BASE, crystal, make_model, molecule
from hypothesis import given, settings
from hypothesis import strategies as st
from list_cases import BIG, assert_same, on_device, several
from tolerances import BATCHING
from torch.utils._python_dispatch import TorchDispatchMode

from dpa1_fast import Engine
from dpa1_fast.drivers.ase import DPA1Calculator
from dpa1_fast.dynamics.relax import relax
from dpa1_fast.dynamics.stepper import Moving
from dpa1_fast.errors import BackendError, DPA1Warning, StructureError
from dpa1_fast.structures.on_device import grid, pairs, search
from dpa1_fast.structures.on_device.moving import MovingOnDevice
from dpa1_fast.structures.on_device.rows import Rows
from dpa1_fast.structures.on_device.search import DeviceSearch
from dpa1_fast.structures.structure import from_ase, make_structure
from dpa1_fast.structures.verlet import Verlet

WAITING = ("aten.nonzero.default", "aten._local_scalar_dense", "aten.masked_select", "aten.bincount", "aten._unique")
"""Operations whose result has a size or is a number that the host must wait for."""


class Waits(TorchDispatchMode):
    """Counts how often the host would wait for a device, but for what is read on purpose."""

    count = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs, name = kwargs or {}, str(func)
        masked = name.startswith("aten.index") and any(x.dtype == torch.bool for x in _tensors(args[1:]))
        guessed = name.startswith("aten.repeat_interleave") and kwargs.get("output_size") is None
        self.count += name.startswith(WAITING) or masked or guessed
        return func(*args, **kwargs)


def _tensors(args: Any) -> list[torch.Tensor]:
    flat = [x for a in args for x in (a if isinstance(a, (list, tuple)) else [a])]
    return [x for x in flat if isinstance(x, torch.Tensor)]


# --- random structures --------------------------------------------------------------------------------------------


@settings(max_examples=60, deadline=None, derandomize=True)
@given(
    seed=st.integers(0, 10**9),
    structures=st.integers(1, 6),
    candidates=st.sampled_from([1, 100, 5_000, 1 << 20]),
    kind=st.sampled_from(["all", "sel", "excluded", "both"]),
)
def test_same_bits_as_the_host(seed: int, structures: int, candidates: int, kind: str) -> None:
    """Whatever cells, densities, periodicity and sizes, in batches, however memory is bounded."""
    rng = np.random.default_rng(seed)
    config = replace(BIG, sel=(7,)) if kind in ("sel", "both") else BIG
    if kind in ("excluded", "both"):
        config = replace(config, exclude_types=((0, 1),), pair_exclude_types=((1, 2), (0, 0)), atom_exclude_types=(2,))
    assert_same(config, several(rng, config, structures), candidates=candidates)


# --- engines ------------------------------------------------------------------------------------------------------


def structures_of_all_kinds() -> list[Any]:
    """Molecules, crystals, a lone atom, and three that cannot be evaluated."""
    good = [crystal(k, 2 + k % 4) if k % 2 else molecule(2 + k % 7, k) for k in range(20)]
    bad = [Atoms("HO", [[0, 0, 0], [0, 0, 1e-5]]), Atoms("He"), Atoms("H", cell=[1, 0, 1], pbc=True)]
    return [*good[:5], bad[0], *good[5:9], *bad[1:], Atoms("C"), *good[9:]]


def assert_results(found: Sequence[Any], expected: Sequence[Any]) -> None:
    for a, b in zip(found, expected, strict=True):
        if isinstance(b, StructureError):
            assert str(a) == str(b)
            continue
        for name in ("energy", "forces", "virial", "energies", "stress", "atomic_virials"):
            x, y = getattr(a, name), getattr(b, name)
            assert (x is None) == (y is None), name
            if y is not None:
                assert np.abs(np.asarray(x) - y).max() <= BATCHING, name


@pytest.mark.parametrize("atomic_virials", [False, True])
@pytest.mark.parametrize("backend", ["cpu", "reference"])
@pytest.mark.parametrize("budget", [None, 30_000])
def test_engines_give_the_same_either_way(backend: str, atomic_virials: bool, budget: int | None) -> None:
    """Results, errors and their places, in one pack, in many, and in halves of what does not fit."""
    model = make_model()
    host, device = (Engine(model, device="cpu", backend=backend, neighbors=x) for x in ("host", "device"))
    device.scheduler.budget = budget or device.scheduler.budget
    structures = structures_of_all_kinds()
    found, expected = (e.evaluate(structures, atomic_virials=atomic_virials, on_error="return") for e in (device, host))
    assert sum(isinstance(x, StructureError) for x in expected) == 3
    assert_results(found, expected)
    with pytest.raises(StructureError, match="structure 5: atoms 0 and 1 overlap"):
        device.evaluate(structures)


def test_frame_and_atomic_parameters_go_along() -> None:
    model = make_model(fitting=replace(BASE.fitting, numb_fparam=2, numb_aparam=1))
    host, device = (Engine(model, device="cpu", backend="reference", neighbors=x) for x in ("host", "device"))
    structures = [molecule(4, 1), crystal(2, 3)]
    given = {"fparam": [[0.1, 0.2], [0.3, -0.4]], "aparam": [np.arange(4.0), np.arange(3.0)]}
    assert_results(device.evaluate(structures, **given), host.evaluate(structures, **given))


def test_more_neighbours_than_sel_are_told_of() -> None:
    engine = Engine(make_model(sel=(5,)), device="cpu", neighbors="device")
    with pytest.warns(DPA1Warning, match=r"10 atoms have more than sel = 5 .*up to 9"):
        engine.evaluate([molecule(10, box=3.0)])


def test_where_lists_are_made() -> None:
    model = make_model()
    assert Engine(model, device="cpu").search is None, "on a CPU the host's lists are faster"
    assert Engine(model, device="cpu", neighbors="host").search is None
    engine = Engine(model, device="cpu", neighbors="device")
    for e in (engine, copy.copy(engine), pickle.loads(pickle.dumps(engine))):  # noqa: S301
        assert e.search is not None
    with pytest.raises(BackendError, match="neighbors='gpu' is not available; available: auto, device, host"):
        Engine(model, device="cpu", neighbors="gpu")


# --- transfers and memory -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(("options", "transfers"), [({}, 1), ({"sel": (4,)}, 1), ({"exclude_types": ((0, 1),)}, 2)])
@pytest.mark.parametrize("candidates", [50, None])
def test_the_host_waits_once_for_a_batch(
    options: dict[str, Any], transfers: int, candidates: int | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And once more where the model leaves pairs of types out; not once a structure, chunk or atom."""
    config, read, calls = replace(BASE, **options), DeviceSearch._read, []
    monkeypatch.setattr(DeviceSearch, "_read", lambda *args: calls.append(1) or read(*args))
    made = [from_ase(config, a, str(k)) for k, a in enumerate([molecule(9, k, 6.0) for k in range(5)])]
    with Waits() as waits:
        found = on_device(config, made, candidates=candidates)
    assert found.transfers == waits.count + len(calls) == transfers


def test_out_of_memory_in_a_search_means_the_host(monkeypatch: pytest.MonkeyPatch) -> None:
    model, structures = make_model(), structures_of_all_kinds()
    device, host = (Engine(model, device="cpu", neighbors=x) for x in ("device", "host"))

    def cramped(*_: Any) -> Any:
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB")

    monkeypatch.setattr(pairs.PairSearch, "near", cramped)
    found, expected = (e.evaluate(structures, on_error="return") for e in (device, host))
    assert_results(found, expected)


def test_what_no_grid_suits_is_searched_on_the_host_and_stands_in_its_place() -> None:
    """Far apart, long, thin, many cells away, and whatever else is beside them in the batch."""
    config, types = BIG, [0, 1]
    cubes = {"far": ([[0, 0, 0], [3e4, 0, 0]], 1.0, False), "away": ([[0, 0, 0], [901.0, 1, 1]], 3.0, True)}
    odd = [make_structure(config, k, x, types, np.eye(3) * a, p) for k, (x, a, p) in cubes.items()]
    odd.append(make_structure(config, "thin", [[0, 0, 0], [0.15, 0.15, 0.2]], types, np.diag([0.3, 0.3, 4.0]), True))
    good = [from_ase(config, a, "good") for a in (crystal(), molecule())]
    for structures in (odd, [good[0], odd[0], good[1], *odd[1:]]):
        left = grid.make(Rows.of(structures), np.ones(len(structures), bool), config.rcut).left
        assert [s.name for s, x in zip(structures, left, strict=True) if x] == ["far", "away", "thin"]
        assert_same(config, structures)


def test_pairs_near_the_cutoff_are_decided_as_on_the_host() -> None:
    """Lattices with the cut-off's own length, where the last bit of a vector decides."""
    rng = np.random.default_rng(3)
    for k in range(40):
        a = BIG.rcut / rng.integers(1, 4) * np.nextafter(1.0, [0.0, 1.0, 2.0])[k % 3]
        turn = np.linalg.qr(rng.normal(size=(3, 3)))[0]
        at = rng.uniform(-9.0, 9.0, 3)
        assert_same(BIG, [make_structure(BIG, "lattice", [at], [0], a * turn, True)])


# --- one step after another ---------------------------------------------------------------------------------------


def pair_of_engines(**options: Any) -> tuple[Engine, Engine]:
    model = make_model(**options)
    return Engine(model, device="cpu", neighbors="host"), Engine(model, device="cpu", neighbors="device")


def test_a_moving_set_is_evaluated_alike_and_its_errors_are_of_one_structure() -> None:
    """Atoms move, cells change, structures come and go; NaN, overlaps and cells that are none stay where they are."""
    engines = pair_of_engines()
    config, rng = BASE, np.random.default_rng(5)
    made = [from_ase(config, crystal(k, 4) if k % 2 else molecule(5, k), f"s{k}") for k in range(6)]
    both = [Moving(e) for e in engines]
    for members in ([*made[:5]], [4, 0, made[5], 1, 2]):
        for moving in both:
            moving.select(members)
        structures = both[0].verlet.structures
        offsets = both[0].verlet.offsets
        positions = np.concatenate([s.positions for s in structures])
        cells = np.stack([s.cell for s in structures])
        for spoil in ("", "nan", "overlap", "cell", "far", ""):
            positions = positions + rng.normal(scale=0.02, size=positions.shape)
            cells = cells * (1.0 + 0.004 * rng.normal(size=(len(cells), 1, 1)))
            x, c = positions.copy(), cells.copy()
            if spoil in ("nan", "far"):
                x[offsets[2]] = {"nan": np.nan, "far": 1e12}[spoil]
            if spoil == "overlap":
                x[offsets[2]] = x[offsets[2] + 1]
            if spoil == "cell":
                periodic = next(k for k, s in enumerate(structures) if s.pbc.any())
                c[periodic, 0] = c[periodic, 1]
            expected, found = (moving.step(x, c) for moving in both)
            assert len(expected.errors) == (spoil != "")
            assert {k: str(e) for k, e in found.errors.items()} == {k: str(e) for k, e in expected.errors.items()}
            for name in ("energy", "energies", "forces", "virial"):
                assert np.abs(getattr(found, name) - getattr(expected, name)).max() <= BATCHING, name


def test_calculators_and_relaxation_take_the_engines_lists() -> None:
    host, device = pair_of_engines()
    calculators = [DPA1Calculator(e) for e in (host, device)]
    for k in range(3):
        atoms = crystal(1, 5)
        atoms.rattle(0.05 * k, seed=k)
        a, b = (x.get_property("forces", atoms) for x in calculators)
        assert np.abs(a - b).max() <= BATCHING
    assert isinstance(calculators[1]._moving.verlet, MovingOnDevice)
    assert isinstance(calculators[0]._moving.verlet, Verlet)
    structures = [molecule(4, 1), crystal(2, 3), Atoms("HO", [[0, 0, 0], [0, 0, 1e-5]])]
    for a, b in zip(*(relax(e, structures, steps=4) for e in (host, device)), strict=True):
        if isinstance(a, StructureError):
            assert str(a) == str(b)
        else:
            assert not isinstance(b, StructureError)
            assert np.abs(a.atoms.positions - b.atoms.positions).max() < 1e-9


def test_few_atoms_are_left_to_the_host_unless_it_is_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    """What "auto" does on a GPU; a set that grows or shrinks past the limit goes on with the other lists."""
    host, device = pair_of_engines()
    assert device.search is not None
    assert device.search.worth(1)
    assert device.search.worth(1, moving=True)
    device.search.always = False
    monkeypatch.setattr(search, "FEWEST", 12)
    monkeypatch.setattr(search, "FEWEST_MOVING", 15)
    calls, batch = [], DeviceSearch.batch
    monkeypatch.setattr(DeviceSearch, "batch", lambda *args: calls.append(len(args[1].types)) or batch(*args))
    for atoms, sizes in ((molecule(11), []), (molecule(12), [12])):
        assert_results(device.evaluate([atoms]), host.evaluate([atoms]))
        assert calls == sizes
    made = [from_ase(BASE, molecule(5, k), f"s{k}") for k in range(4)]
    moving, judge = Moving(device), Moving(host)
    for members, kind in (([*made[:2]], Verlet), ([0, 1, made[2]], MovingOnDevice), ([1, 2], Verlet)):
        for m in (moving, judge):
            m.select(members)
        assert isinstance(moving.verlet, kind)
        x = np.concatenate([s.positions for s in judge.verlet.structures]) + 0.01
        cells = np.stack([s.cell for s in judge.verlet.structures])
        assert [s.name for s in moving.verlet.structures] == [s.name for s in judge.verlet.structures]
        assert np.abs(moving.step(x, cells).forces - judge.step(x, cells).forces).max() <= BATCHING
