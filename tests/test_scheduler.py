"""Packs, halves and memory: whatever happens to them, results stay what they are."""

from __future__ import annotations

import gc
import threading
import time
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import torch
from ase import Atoms
from conftest import OPTIONS, crystal, make_model, molecule
from tolerances import BATCHING

import dpa1_fast.scheduler
from dpa1_fast import DPA1, Engine, Result
from dpa1_fast.cost import Cost, features
from dpa1_fast.errors import DPA1Warning, StructureError
from dpa1_fast.prefetch import prefetch
from dpa1_fast.scheduler import out_of_memory
from dpa1_fast.splitting import halves, merge_outputs
from dpa1_fast.structures.batch import Batch, collate, neighborhood
from dpa1_fast.structures.structure import from_ase


def mixed(count: int = 40) -> list[Atoms]:
    out = [crystal(k, 2 + k % 4) if k % 2 else molecule(2 + k % 7, k) for k in range(count)]
    return [*out, Atoms("C"), Atoms("HO", [[0, 0, 0], [9, 0, 0]])]


def same(a: list[Any], b: list[Any], within: float) -> None:
    assert len(a) == len(b)
    for x, y in zip(a, b, strict=True):
        if isinstance(x, StructureError):
            assert str(x) == str(y)
            continue
        for name in ("energy", "forces", "virial", "energies"):
            assert np.abs(np.asarray(getattr(x, name)) - getattr(y, name)).max() <= within, name


def batch_of(model: DPA1, structures: list[Atoms]) -> Batch:
    return collate(model.config, [neighborhood(model.config, from_ase(model.config, a, "x")) for a in structures])


# --- packing ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("precision", ["float64", "float32"])
@pytest.mark.parametrize("seed", range(3))
def test_any_packing_and_any_order_give_the_same_bits(seed: int, precision: str, model: DPA1) -> None:
    """On the CPU a result is that of its structure alone, wherever it stands and whatever stands beside it."""
    rng = np.random.default_rng(seed)
    structures = mixed()
    order = rng.permutation(len(structures))
    engine = Engine(model, precision=precision, threads=1 + seed % 2)
    alone = [engine.evaluate([a])[0] for a in structures]
    engine.scheduler.budget = int(rng.integers(3_000, 300_000))
    found = engine.evaluate([structures[k] for k in order])
    same(found, [alone[k] for k in order], 0.0)


def test_what_was_evaluated_before_does_not_matter() -> None:
    """Not even when an engine has seen more kinds of surroundings than it keeps."""
    model = make_model(neuron=(8, 16, 32))
    fresh, old = Engine(model), Engine(model)
    import dpa1_fast.kernels.cpu.evaluator as module

    structures = mixed(12)
    expected = fresh.evaluate(structures)
    most, module.MOST_BASES = module.MOST_BASES, 1
    try:
        for atoms in structures:
            old.evaluate([atoms])
        same(old.evaluate(structures), expected, 0.0)
    finally:
        module.MOST_BASES = most


def test_a_stream_keeps_order_and_errors_in_their_places(model: DPA1) -> None:
    engine = Engine(model)
    engine.scheduler.budget = 20_000
    structures: list[Any] = mixed()
    structures[5] = Atoms("Pt")
    structures[11] = StructureError("somewhere", "could not be read")
    structures[17] = Atoms("HO", [[1, 1, 1], [1, 1, 1]])
    found = list(engine.stream(iter(structures)))
    assert [k for k, r in enumerate(found) if isinstance(r, StructureError)] == [5, 11, 17]
    assert found[11] is structures[11]
    for k, atoms in enumerate(structures):
        if k not in (5, 11, 17):
            same([found[k]], engine.evaluate([atoms]), 0.0)


def test_a_stream_holds_little_at_a_time() -> None:
    """However many structures come, few are alive at once."""
    engine = Engine(make_model(attn_layer=0))
    engine.scheduler.budget = 50_000
    alive: set[int] = set()
    most = 0

    class Counted(Atoms):
        def __init__(self, *args: Any, **options: Any) -> None:
            super().__init__(*args, **options)
            alive.add(id(self))

        def __del__(self) -> None:
            alive.discard(id(self))

    def structures() -> Iterator[Atoms]:
        for k in range(400):
            yield Counted(molecule(5, k))

    for _ in engine.stream(structures()):
        most = max(most, len(alive))
    gc.collect()
    assert most < 150
    assert not alive


# --- memory -------------------------------------------------------------------------------------------------------


class Cramped:
    """An evaluator whose memory holds so many edges, or gives out at random where half of a batch would do.

    What lies together in a batch is the clock's doing (``cost.learn``); what cannot be halved would be out of memory.
    """

    def __init__(
        self, run: Any, edges: float = float("inf"), chance: float = 0.0, error: type[Exception] = MemoryError
    ):
        self.run, self.edges, self.chance, self.error = run, edges, chance, error
        self.rng = np.random.default_rng(1)
        self.sizes: list[int] = []
        self.refused = 0

    def __call__(self, batch: Batch) -> Any:
        if len(batch.neighbor) > self.edges or (self.rng.random() < self.chance and halves(batch) is not None):
            self.refused += 1
            raise self.error("CUDA out of memory. Tried to allocate 2.00 GiB")
        self.sizes.append(len(batch.neighbor))
        return self.run(batch)


ERRORS = [MemoryError, RuntimeError, torch.OutOfMemoryError]


@pytest.mark.parametrize("error", ERRORS)
@pytest.mark.parametrize("backend", ["cpu", "reference"])
def test_out_of_memory_at_random_changes_nothing(backend: str, error: type[Exception], model: DPA1) -> None:
    engine, structures = Engine(model, backend=backend), mixed()
    expected = engine.evaluate(structures)
    cramped = engine.scheduler.run = Cramped(engine.scheduler.run, chance=0.3, error=error)
    engine.scheduler.budget = 15_000
    with pytest.warns(DPA1Warning, match="out of memory with .* atoms at a time .*said once") as said:
        found = engine.evaluate(structures)
    assert cramped.refused > 3
    assert len(said) == 1
    same(found, expected, BATCHING)


def test_a_pack_that_does_not_fit_is_halved_and_later_ones_are_smaller(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dpa1_fast.scheduler, "SMALLEST_BUDGET", 0)
    engine, structures = Engine(make_model()), mixed(200)
    expected = engine.evaluate(structures)
    cramped = engine.scheduler.run = Cramped(engine.scheduler.run, edges=500)
    with pytest.warns(DPA1Warning, match="out of memory"):
        found = engine.evaluate(structures)
    same(found, expected, 0.0)
    first = cramped.refused
    engine.evaluate(structures)
    assert cramped.refused == first, "what was learned is remembered"
    assert max(cramped.sizes) <= 500


def test_a_budget_comes_back_when_memory_does(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dpa1_fast.scheduler, "SMALLEST_BUDGET", 0)
    monkeypatch.setattr(dpa1_fast.scheduler, "REGROWN", 2)
    engine, structures = Engine(make_model(attn_layer=0)), mixed()
    before = engine.scheduler.budget
    cramped = engine.scheduler.run = Cramped(engine.scheduler.run, edges=300)
    with pytest.warns(DPA1Warning, match="out of memory"):
        engine.evaluate(structures)
    assert engine.scheduler.budget < before
    cramped.edges = float("inf")
    for _ in range(80):
        engine.evaluate(structures[:2])
    assert engine.scheduler.budget == before


@pytest.mark.parametrize("backend", ["cpu", "reference"])
def test_one_structure_larger_than_the_budget_is_cut_between_its_atoms(backend: str, model: DPA1) -> None:
    engine, large = Engine(model, backend=backend), crystal(3, 5) * (2, 2, 1)
    expected = engine.evaluate([large])
    engine.scheduler.budget = 2_000
    cramped = engine.scheduler.run = Cramped(engine.scheduler.run)
    found = engine.evaluate([large])
    assert len(cramped.sizes) > 5
    same(found, expected, BATCHING)


def test_what_is_no_lack_of_memory_is_raised() -> None:
    engine = Engine(make_model())

    def broken(batch: Batch) -> Any:
        raise RuntimeError("an illegal memory access was encountered")

    engine.scheduler.run = broken
    with pytest.raises(RuntimeError, match="illegal"):
        engine.evaluate(mixed(3))
    assert not out_of_memory(ValueError("out of memory"))


def test_a_single_atom_that_does_not_fit_is_raised() -> None:
    engine = Engine(make_model())
    engine.scheduler.run = Cramped(engine.scheduler.run, edges=-1)
    with pytest.raises(MemoryError), pytest.warns(DPA1Warning, match="out of memory"):
        engine.evaluate([molecule(3)])


@pytest.mark.parametrize("name", OPTIONS)
def test_halves_make_a_whole(name: str) -> None:
    model = make_model(**OPTIONS[name], atom_exclude_types=(1,))
    engine = Engine(model)
    for structures in (mixed(7), [crystal(2, 5)], [molecule(6)]):
        batch = batch_of(model, structures)
        pair = halves(batch)
        assert pair is not None
        parts = [engine.run(x) for x in pair]
        for a, b in zip(merge_outputs(batch, *parts), engine.run(batch), strict=True):
            assert a.shape == b.shape
            assert torch.allclose(a, b, rtol=0, atol=1e-12)
    assert halves(batch_of(model, [Atoms("C")])) is None


# --- cost ---------------------------------------------------------------------------------------------------------


def test_cost_is_learned_from_timings() -> None:
    model = make_model()
    cost, true = Cost(model.config), np.array([3e-6, 2e-7, 5e-9])
    rng = np.random.default_rng(0)
    for _ in range(64):
        work = features(rng.poisson(rng.integers(2, 120), size=rng.integers(5, 500)))
        cost.learn(work, float(true @ work) * rng.normal(1.0, 0.02))
    for n in (5, 40, 110):
        work = features(np.full(100, n))
        assert cost.of(work) == pytest.approx(true @ work, rel=0.1)


def test_cost_knows_that_pairs_of_neighbours_are_what_attention_costs() -> None:
    few, many = features(np.full(100, 10)), features(np.full(10, 100))
    with_attention, without = Cost(make_model().config), Cost(make_model(attn_layer=0).config)
    assert few[1] == many[1]
    assert with_attention.of(many) / with_attention.of(few) > without.of(many) / without.of(few)


def test_one_timing_is_enough_for_a_rate() -> None:
    cost = Cost(make_model().config)
    work = features(np.full(100, 30))
    cost.learn(work, 7.0)
    assert cost.of(work) == pytest.approx(7.0, rel=0.05)


# --- ahead --------------------------------------------------------------------------------------------------------


def test_ahead_gives_the_same_items_and_works_ahead() -> None:
    made: list[int] = []

    def items() -> Iterator[int]:
        for k in range(20):
            made.append(k)
            yield k

    out = prefetch(items(), depth=2)
    assert next(out) == 0
    deadline = time.monotonic() + 5
    while len(made) < 4 and time.monotonic() < deadline:
        time.sleep(0.001)
    assert 4 <= len(made) <= 5
    assert list(out) == list(range(1, 20))


def test_ahead_raises_where_the_item_would_have_been() -> None:
    def items() -> Iterator[int]:
        yield 1
        raise KeyError("here")

    out = prefetch(items())
    assert next(out) == 1
    with pytest.raises(KeyError, match="here"):
        next(out)


def test_ahead_leaves_no_thread_behind() -> None:
    def items() -> Iterator[int]:
        yield from range(10**9)

    before = threading.active_count()
    out = prefetch(items())
    next(out)
    assert threading.active_count() == before + 1
    out.close()
    assert threading.active_count() == before


def test_results_are_results() -> None:
    assert all(isinstance(r, Result) for r in Engine(make_model()).evaluate(mixed(3)))
