"""The compiled CPU engine against autograd of the reference formulas: every option, every size, every build."""

from __future__ import annotations

import copy
import ctypes
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from ase import Atoms
from conftest import BASE, OPTIONS, crystal, make_model, molecule

import dpa1_fast.kernels.dispatch as dispatch
from dpa1_fast import DPA1, Engine, Result
from dpa1_fast.errors import BackendError, DPA1Warning
from dpa1_fast.kernels.cpu import library
from dpa1_fast.kernels.cpu.evaluator import CpuEvaluator
from dpa1_fast.kernels.prepare import bases, chebyshev

pytestmark = pytest.mark.skipif(not library.available(), reason="the CPU engine was not compiled: no C++ compiler")

GRADIENT = 1e-10  # of the largest force; float64

FIT = BASE.fitting
MORE: dict[str, dict[str, Any]] = {
    "one_layer": {"attn_layer": 1, "attn": 32},
    "three_layers_wide": {"attn_layer": 3, "attn": 40, "neuron": (5, 10)},
    "hard_unnormalised": {"smooth_type_embedding": False, "normalize": False, "scaling_factor": 0.2},
    "hard_without_directions": {"smooth_type_embedding": False, "attn_dotr": False},
    "smooth_unnormalised_wide": {"normalize": False, "attn": 40, "temperature": 0.3},
    "strip_hard": {"tebd_input_mode": "strip", "smooth_type_embedding": False},
    "strip_without_attention": {"tebd_input_mode": "strip", "attn_layer": 0},
    "strip_hard_without_attention": {"tebd_input_mode": "strip", "attn_layer": 0, "smooth_type_embedding": False},
    "one_sided_concat": {"type_one_side": True, "resnet_dt": True},
    "first_layer_as_wide_as_its_input": {"neuron": (11, 11, 22), "resnet_dt": True},
    "first_layer_twice_its_input": {"neuron": (22, 22), "attn_layer": 0},
    "single_embedding_layer": {"neuron": (17,), "axis_neuron": 3},
    "protection": {"env_protection": 0.3},
    "odd_widths": {"neuron": (3, 7, 13), "axis_neuron": 13, "attn": 7},
    "fitting_resnet": {"fitting": replace(FIT, neuron=(20, 20, 40), resnet_dt=True)},
    "fitting_linear": {"fitting": replace(FIT, neuron=())},
    "fitting_parameters": {"fitting": replace(FIT, numb_fparam=2, numb_aparam=1, dim_case_embd=3)},
    "vacuum_subtracted": {"fitting": replace(FIT, numb_fparam=1, atom_ener=(0.5, None, None))},
    "silent_type": {"fitting": replace(FIT, exclude_types=(1,))},
    "pairs_out": {"pair_exclude_types": ((0, 2),), "exclude_types": ((1, 1),), "atom_exclude_types": (0,)},
}
FUNCTIONS = ("tanh", "relu", "relu6", "softplus", "sigmoid", "silu", "gelu", "gelu_tf", "silut:0.3", "linear")


def structures(model: DPA1) -> list[Atoms]:
    out = [molecule(9), crystal(), Atoms("C"), molecule(2, 3), Atoms("HO", [[0, 0, 0], [0.9, 0.1, 0.2]])]
    rng = np.random.default_rng(5)
    for atoms in out:
        f = model.config.fitting
        atoms.info["fparam"] = rng.normal(size=f.numb_fparam)
        atoms.arrays["aparam"] = rng.normal(size=(len(atoms), f.numb_aparam))
    return out


def force(results: list[Result]) -> np.ndarray:
    return np.concatenate([r.forces for r in results])


def assert_same(model: DPA1, atoms: list[Atoms], tolerance: float = GRADIENT, **options: Any) -> None:
    fast = Engine(model, backend="cpu", **options).evaluate(atoms, atomic_virials=True)
    judge = Engine(model, backend="reference").evaluate(atoms, atomic_virials=True)
    scale = np.abs(force(judge)).max()
    assert scale > 1e-6
    for a, b in zip(fast, judge, strict=True):
        assert np.abs(a.energies - b.energies).max() < tolerance * max(1.0, np.abs(b.energies).max())
        assert np.abs(a.forces - b.forces).max() < tolerance * scale
        assert np.abs(a.virial - b.virial).max() < tolerance * 10 * scale
        assert a.atomic_virials is not None
        assert b.atomic_virials is not None
        assert np.abs(a.atomic_virials - b.atomic_virials).max() < tolerance * 10 * scale


@pytest.mark.parametrize("name", [*OPTIONS, *MORE])
def test_every_option(name: str, quiet: None) -> None:
    model = make_model(**(OPTIONS | MORE)[name])
    assert_same(model, structures(model))


@pytest.mark.parametrize("options", [{}, {"attn_layer": 0}, {"tebd_input_mode": "strip", "attn_layer": 1}])
@pytest.mark.parametrize("function", FUNCTIONS)
def test_every_activation_function(function: str, options: dict[str, Any], quiet: None) -> None:
    fitting = replace(FIT, activation_function=function)
    model = make_model(activation_function=function, fitting=fitting, **options)
    assert_same(model, structures(model))


@pytest.mark.parametrize("name", [*OPTIONS, "strip_hard", "one_sided_concat", "odd_widths"])
def test_statistics_with_a_mean(name: str, quiet: None) -> None:
    model = make_model(**(OPTIONS | MORE)[name])
    model.davg.uniform_(-0.1, 0.1)
    assert_same(model, structures(model))


@pytest.mark.parametrize("name", [*OPTIONS, "strip_hard", "strip_without_attention", "first_layer_twice_its_input"])
def test_nets_and_full_layers_where_nothing_is_fitted(name: str, quiet: None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bases, "NEAREST", 1e9)
    model = make_model(**(OPTIONS | MORE)[name])
    assert_same(model, structures(model))


@pytest.mark.parametrize("name", ["smooth", "hard", "strip", "strip_onesided"])
@pytest.mark.parametrize("most", [0, 4])
def test_first_layer_in_coordinates_and_without(name: str, most: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bases, "MOST_TYPES_AROUND", most)
    monkeypatch.setattr(bases, "WORTH", 2.0)
    monkeypatch.setattr(chebyshev, "most_terms", lambda shapes: chebyshev.MOST_TERMS)
    model = make_model(**OPTIONS[name] | {"neuron": (10, 20, 40)})
    assert_same(model, structures(model))


ALONE: dict[str, dict[str, Any]] = {
    "concat": {},
    "strip": {"tebd_input_mode": "strip"},
    "strip_hard": {"tebd_input_mode": "strip", "smooth_type_embedding": False},
    "with_parameters": {"fitting": replace(FIT, neuron=(30, 30), resnet_dt=True, numb_fparam=2, numb_aparam=1)},
    "with_types": {"concat_output_tebd": True, "fitting": replace(FIT, neuron=(24,), dim_case_embd=3)},
    "vacuum": {"fitting": replace(FIT, neuron=(24, 24), numb_fparam=1, atom_ener=(0.5, None, None))},
    "silent_type": {"fitting": replace(FIT, neuron=(24, 24), exclude_types=(1,))},
    "pairs_out": {"pair_exclude_types": ((0, 2),), "exclude_types": ((1, 1),), "atom_exclude_types": (0,)},
}


@pytest.mark.parametrize("name", ALONE)
def test_energy_net_in_coordinates_where_there_is_no_attention(
    name: str, quiet: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(bases, "WORTH", 2.0)
    model = make_model(**ALONE[name] | {"attn_layer": 0, "neuron": (10, 20, 40), "axis_neuron": 6})
    near = Atoms("HCO", [[0, 0, 0], [0.25, 0.1, 0], [1.5, 0, 0.3]])  # closer than what was sampled: all channels
    near.info["fparam"], near.arrays["aparam"] = np.ones(model.config.fitting.numb_fparam), np.ones((3, 1))
    atoms = [*structures(model), *([] if model.config.fitting.numb_aparam else [near])]
    assert_same(model, atoms)
    evaluator = Engine(model, backend="cpu").evaluator
    assert isinstance(evaluator, CpuEvaluator)
    engine = Engine(model, backend="cpu")
    batch = engine.batch(atoms)
    evaluator(batch)
    assert len(evaluator._bases) >= 3
    assert min(evaluator._bases.values()) >= 0


def test_nothing_is_in_coordinates_where_the_energy_nets_first_layer_cannot_be(quiet: None) -> None:
    for fitting in (replace(FIT, neuron=()), replace(FIT, neuron=(40 * 6,))):
        model = make_model(attn_layer=0, neuron=(10, 20, 40), axis_neuron=6, fitting=fitting, concat_output_tebd=False)
        assert not bases.has_head(model.weights().double())
        assert_same(model, structures(model))
    model = make_model(attn_layer=0, neuron=(10, 20, 40))
    model.davg.uniform_(-0.1, 0.1)
    assert not bases.has_head(model.weights().double())
    assert_same(model, structures(model))


@pytest.mark.parametrize("layers", [0, 1])
def test_small_structures_of_many_types_make_no_bases(layers: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each takes longer to make than a small compound to evaluate, and every new compound would need some."""
    monkeypatch.setattr(bases, "WORTH", 2.0)
    monkeypatch.setattr(chebyshev, "most_terms", lambda shapes: chebyshev.MOST_TERMS)
    monkeypatch.setattr(bases, "ATOMS_PER_TYPE", {True: 4, False: 4})
    model = make_model(type_map=("H", "C", "O", "N", "S"), attn_layer=layers, neuron=(10, 20, 40))
    small, large = molecule(11), molecule(12)
    assert set(large.symbols) == set(small.symbols) == {"H", "C", "O"}
    engine = Engine(model, backend="cpu")
    evaluator = engine.evaluator
    assert isinstance(evaluator, CpuEvaluator)
    alone = engine.evaluate([small])[0]
    assert not evaluator._bases
    together = engine.evaluate([large, small])
    assert len(evaluator._bases) == 3
    assert np.array_equal(together[1].forces, alone.forces)
    assert together[1].energy == alone.energy
    assert_same(model, [small, large])


@pytest.mark.parametrize("name", [*OPTIONS, "strip_hard", "one_sided_concat", "odd_widths"])
def test_series_where_nets_would_be_faster(name: str, quiet: None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(chebyshev, "most_terms", lambda shapes: chebyshev.MOST_TERMS)
    model = make_model(**(OPTIONS | MORE)[name])
    assert_same(model, structures(model))


def test_a_series_serves_where_it_is_shorter_than_the_net_is_wide() -> None:
    """Models of the paper's size take series (24 to 41 terms of theirs are enough), small nets are evaluated."""
    assert chebyshev.most_terms([(9, 25), (25, 50), (50, 100)]) > 41
    assert chebyshev.most_terms([(17, 10), (10, 20), (20, 40)]) < 76


@pytest.mark.parametrize("name", ["smooth", "strip", "no_attention"])
def test_a_neighbour_closer_than_what_was_sampled(name: str) -> None:
    near = Atoms("HCO", [[0, 0, 0], [0.25, 0.1, 0], [1.5, 0, 0.3]])
    assert_same(make_model(**OPTIONS[name]), [near, molecule(5)])


@pytest.mark.parametrize("name", ["smooth", "hard", "strip", "no_attention"])
@pytest.mark.parametrize("n", [1, 2, 4, 5, 8, 9, 16, 17, 18, 32, 33, 34, 50])
def test_neighbour_counts_around_the_width_of_a_vector(name: str, n: int) -> None:
    """n atoms within the cut-off of each other, one of them the other's only neighbour for n = 2, and so on."""
    if n == 1:
        return assert_same(make_model(**OPTIONS[name]), [Atoms("C"), molecule(3)])
    atoms = molecule(n, seed=n, box=5.0)
    return assert_same(make_model(**OPTIONS[name], sel=(60,)), [atoms])


def test_more_neighbours_than_sel() -> None:
    with pytest.warns(DPA1Warning, match="more than sel"):
        assert_same(make_model(sel=(6,)), [molecule(12)])


@pytest.mark.parametrize("build", library.BUILDS)
def test_each_build_is_compiled_for_what_its_name_says(build: str) -> None:
    """All have the same sources, and are compiled at the same time."""
    if build not in library.usable() or library.find(build) is None:
        pytest.skip(f"this machine has no {build}")
    told = library.library(build).dpa1_instructions
    told.restype = ctypes.c_char_p
    assert told().decode() == build


@pytest.mark.parametrize("build", library.BUILDS)
@pytest.mark.parametrize("name", ["smooth", "strip_onesided", "no_attention"])
def test_every_build_that_this_machine_can_run(build: str, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    if build not in library.usable() or library.find(build) is None:
        pytest.skip(f"this processor does not have {build}, or it was not compiled")
    monkeypatch.setattr(library, "usable", lambda: [build])
    library.library.cache_clear()
    model = make_model(**OPTIONS[name])
    try:
        assert_same(model, structures(model))
        single = Engine(model, precision="float32").evaluate(structures(model))
        double = Engine(model).evaluate(structures(model))
        assert np.abs(force(single) - force(double)).max() < 1e-5 * np.abs(force(double)).max()
    finally:
        library.library.cache_clear()


@pytest.mark.parametrize("precision", ["float64", "float32"])
def test_threads_and_chunks_change_no_bit(precision: str, model: DPA1, monkeypatch: pytest.MonkeyPatch) -> None:
    atoms = [molecule(12, k) for k in range(6)] + [crystal()]
    expected = Engine(model, precision=precision, threads=1).evaluate(atoms)
    for threads, chunk_bytes, chunk_atoms in ((1, 1, 1), (2, 1 << 20, 3), (3, 1 << 16, 64), (8, 1 << 24, 5)):
        monkeypatch.setattr(library, "CHUNK_BYTES", chunk_bytes)
        monkeypatch.setattr(library, "CHUNK_ATOMS", chunk_atoms)
        found = Engine(model, precision=precision, threads=threads).evaluate(atoms)
        for a, b in zip(found, expected, strict=True):
            assert a.energy == b.energy
            assert np.array_equal(a.forces, b.forces)
            assert np.array_equal(a.energies, b.energies)


@pytest.mark.parametrize("name", [*OPTIONS, *MORE])
def test_float32_forces_stay_close_to_float64(name: str, quiet: None) -> None:
    model = make_model(**(OPTIONS | MORE)[name])
    atoms = structures(model)
    single, double = (Engine(model, precision=p).evaluate(atoms) for p in ("float32", "float64"))
    error = np.sqrt(np.mean((force(single) - force(double)) ** 2) / np.mean(force(double) ** 2))
    assert error < 1e-5  # measured: 3e-7 to 2e-6


def test_many_types_of_which_few_meet() -> None:
    elements = ("H", "C", "O", "N", "S", "P", "F", "Cl", "Na", "K", "Mg", "Ca")
    model = make_model(type_map=elements, neuron=(8, 16, 32))
    rng = np.random.default_rng(0)
    atoms = [molecule(8, k) for k in range(3)]
    for a in atoms:
        a.symbols[:] = rng.choice(elements, len(a))
    assert_same(model, atoms)


def test_infinite_weights_end_in_an_error_and_not_in_numbers() -> None:
    broken = make_model()
    with torch.no_grad():
        broken.fitting.layers[0].weight.fill_(float("inf"))
    results = Engine(broken).evaluate([molecule(4)], on_error="return")
    assert "overflow" in str(results[0])


def test_without_a_compiler_the_reference_serves_and_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dispatch.library, "available", lambda: False)
    with pytest.warns(DPA1Warning, match="was not compiled"):
        assert Engine(make_model(), device="cpu").backend == "reference"
    with pytest.raises(BackendError, match="C\\+\\+ compiler"):
        Engine(make_model(), backend="cpu")


@pytest.mark.parametrize("name", ["smooth", "hard", "strip", "no_attention", "fitting_resnet"])
def test_bfloat16_products_where_the_processor_has_them(name: str) -> None:
    model = make_model(**(OPTIONS | MORE)[name] | {"attn": 32})
    if not library.has_bfloat16():
        with pytest.raises(BackendError, match="AVX512-BF16"):
            Engine(model, precision="bfloat16")
        return
    atoms = [molecule(20, 1, 6.0), molecule(18, 2)]
    rounded, double = (Engine(model, precision=p).evaluate(atoms) for p in ("bfloat16", "float64"))
    error = np.sqrt(np.mean((force(rounded) - force(double)) ** 2) / np.mean(force(double) ** 2))
    assert 1e-6 < error < 2e-2  # it is neither float32 in disguise nor broken; measured: 1e-4 to 4e-3
    assert np.array_equal(force(Engine(model, precision="bfloat16", threads=3).evaluate(atoms)), force(rounded))


def test_what_is_kept_of_a_batch_is_that_of_its_atoms(monkeypatch: pytest.MonkeyPatch) -> None:
    """The same atoms come again at every step; other types, other active atoms, changed in place too, are others."""
    monkeypatch.setattr(bases, "WORTH", 2.0)
    engine = Engine(make_model(neuron=(10, 20, 40)), backend="cpu")
    batch = engine.batch([molecule(9), crystal()])
    assert not torch.equal(batch.types, batch.types.flip(0))
    active = batch.active.clone()
    active[::2] = False
    others = [batch, replace(batch, active=active), replace(batch, types=batch.types.flip(0)), batch]
    for k, each in enumerate(others):
        fresh = copy.copy(engine)
        for x, y in zip(engine.run(each), fresh.run(each), strict=True):
            assert torch.equal(x, y), k
    batch.types.copy_(batch.types.flip(0))
    assert torch.equal(engine.run(batch).energies, engine.run(others[2]).energies)


def test_no_more_is_kept_than_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("dpa1_fast.kernels.cpu.evaluator.MOST_BATCHES", 2)
    monkeypatch.setattr("dpa1_fast.kernels.cpu.evaluator.MOST_BASES", 3)
    monkeypatch.setattr(bases, "WORTH", 2.0)
    engine = Engine(make_model(neuron=(10, 20, 40)), backend="cpu")
    evaluator = engine.evaluator
    assert isinstance(evaluator, CpuEvaluator)
    atoms = [molecule(9), crystal(), molecule(2, 3), Atoms("HO", [[0, 0, 0], [0.9, 0.1, 0.2]])]
    first = [engine.evaluate([a])[0].forces for a in atoms]
    for a, forces in zip(atoms, first, strict=True):  # some bases were forgotten in between
        assert np.array_equal(engine.evaluate([a])[0].forces, forces)
    assert len(evaluator._centers) <= 2
