"""A batch is its structures one by one, in the caller's order, whatever the packing."""

from __future__ import annotations

import copy
import dataclasses
import threading

import numpy as np
import pytest
from ase import Atoms
from conftest import crystal, make_model, molecule
from tolerances import BATCHING

import dpa1_fast.tiled
from dpa1_fast import DPA1, Engine


def mixed() -> list[Atoms]:
    slab = molecule(6, 8, cell=[4.0, 4.2, 0.0], pbc=[True, True, False])
    return [
        molecule(9),
        crystal(),
        Atoms("C"),
        molecule(3, 5),
        slab,
        Atoms("HO", [[0, 0, 0], [9, 0, 0]]),
        crystal(6, 4),
    ]


def test_batched_equals_one_by_one(model: DPA1) -> None:
    engine, structures = Engine(model), mixed()
    together = engine.evaluate(structures)
    for atoms, result in zip(structures, together, strict=True):
        alone = engine.evaluate([atoms])[0]
        assert abs(alone.energy - result.energy) < BATCHING
        assert np.abs(alone.forces - result.forces).max() < BATCHING
        assert np.abs(alone.virial - result.virial).max() < BATCHING
        assert np.abs(alone.energies - result.energies).max() < BATCHING


def test_any_order_and_any_tile_size(monkeypatch: pytest.MonkeyPatch) -> None:
    engine, structures = Engine(make_model(), backend="reference"), mixed()
    expected = engine.evaluate(structures)
    order = np.random.default_rng(0).permutation(len(structures))
    for elements in (1, 3000, 10**7):
        monkeypatch.setattr(dpa1_fast.tiled, "TILE_ELEMENTS", elements)
        found = engine.evaluate([structures[k] for k in order])
        for k, result in zip(order, found, strict=True):
            assert abs(result.energy - expected[k].energy) < BATCHING
            assert np.abs(result.forces - expected[k].forces).max() < BATCHING


def test_repeated_runs_agree_to_the_last_bit() -> None:
    engine = Engine(make_model(), precision="float32")
    first, second = engine.evaluate(mixed()), engine.evaluate(mixed())
    for a, b in zip(first, second, strict=True):
        assert a.energy == b.energy
        assert np.array_equal(a.forces, b.forces)


def test_an_atom_alone_has_an_energy_and_no_force(model: DPA1) -> None:
    result = Engine(model).evaluate([Atoms("C")])[0]
    assert np.isfinite(result.energy)
    assert np.array_equal(result.forces, np.zeros((1, 3)))
    assert result.stress is None


def test_atoms_far_apart_do_not_know_of_each_other(model: DPA1) -> None:
    engine = Engine(model)
    alone = sum(r.energy for r in engine.evaluate([Atoms("H"), Atoms("O")]))
    apart = engine.evaluate([Atoms("HO", [[0, 0, 0], [50, 0, 0]])])[0]
    assert abs(apart.energy - alone) < 1e-12


def test_virtual_atoms_have_no_energy_and_are_no_neighbours(model: DPA1) -> None:
    engine, atoms = Engine(model), molecule(6)
    ghost = atoms + Atoms("X", [atoms.positions[0] + 0.3])
    a, b = engine.evaluate([atoms, ghost])
    assert abs(a.energy - b.energy) < 1e-12
    assert np.abs(a.forces - b.forces[:-1]).max() < 1e-12
    assert b.energies[-1] == 0
    assert not b.forces[-1].any()


def test_no_structures_give_no_results() -> None:
    assert Engine(make_model()).evaluate([]) == []


def test_the_module_and_the_engine_agree(model: DPA1) -> None:
    """Train with the module, evaluate with the engine: no file between, no difference."""
    from dpa1_fast.structures.batch import collate, neighborhood
    from dpa1_fast.structures.structure import from_ase

    structures = mixed()
    parts = [neighborhood(model.config, from_ase(model.config, a, "s")) for a in structures]
    prediction = model(collate(model.config, parts))
    results = Engine(model).evaluate(structures)
    assert np.abs(prediction.energy.detach().numpy() - [r.energy for r in results]).max() < 1e-12
    assert np.abs(prediction.forces.detach().numpy() - np.concatenate([r.forces for r in results])).max() < 1e-12


def test_an_event_is_of_the_batch_that_was_copied_alone(model: DPA1) -> None:
    batch = Engine(model).batch(mixed())
    object.__setattr__(batch, "ready", threading.Lock())  # as little to be copied as an event
    assert batch.to("cpu") is batch
    assert dataclasses.replace(batch, active=~batch.active).ready is None  # what is new in it is not there yet
    for copied in (copy.copy(batch), copy.deepcopy(batch)):
        assert copied.ready is None
        assert copied.vector.equal(batch.vector)
