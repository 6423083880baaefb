"""Models without attention on Triton's kernels, in its interpreter: moments by series, by the net where those end."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
from ase import Atoms
from conftest import BASE, make_model, molecule
from interpreter_memory import watch
from test_triton import assert_same, batch_of, evaluator, one_atom, structures

from bench import cases
from dpa1_fast import DPA1, Engine
from dpa1_fast.kernels.triton.launch_configurations import (
    INTERPRETED,
    EmbeddingConfigurations,
    LaunchConfiguration,
)

pytestmark = pytest.mark.usefixtures("quiet")

SERIES = {"_series_moments_kernel", "_series_moments_bwd_kernel"}
OPTIONS: dict[str, dict[str, Any]] = {
    "concat": {},
    "types of neighbours alone": {"type_one_side": True},
    "strip": {"tebd_input_mode": "strip"},
    "strip, hard": {"tebd_input_mode": "strip", "smooth_type_embedding": False},
    "first layer of the net adds its input": {"fitting": replace(BASE.fitting, neuron=(64, 64))},
    "wide": {"neuron": (25, 50, 100), "axis_neuron": 16},
}


def model_of(**options: Any) -> DPA1:
    return make_model(**{"attn_layer": 0, "neuron": (4, 8, 16)} | options)


def launched(model: DPA1, atoms: list[Atoms]) -> set[str]:
    """Names of the kernels that evaluate some structures."""
    with watch() as launches:
        evaluator(model)(batch_of(model, atoms))
    return {launch.kernel for launch in launches}


@pytest.mark.parametrize("name", OPTIONS)
def test_moments_by_series_are_those_of_the_reference(name: str) -> None:
    """With and without empty slots that add to the moments."""
    model = model_of(**OPTIONS[name])
    batch = batch_of(model, structures(model)[: 3 if name == "strip" else 1])
    assert evaluator(model).model.series_moments is not None
    assert_same(model, batch, "float32")
    model.davg.uniform_(-0.1, 0.1)
    assert_same(model, batch, "float64")


def test_a_term_more_than_a_power_of_two_is_spared() -> None:
    """Its forces are as right as float32 has them; with it every product would be twice as long."""
    model = cases.model(attn_layer=0, tebd_input_mode="strip", smooth_type_embedding=True)
    found = evaluator(model, "float32").model.series_moments
    assert found is not None
    assert found.terms == 32
    assert_same(model, batch_of(model, cases.molecules(1)), "float32")


def test_the_net_is_not_evaluated() -> None:
    seen = launched(model_of(), [molecule(4)])
    assert seen > SERIES
    assert not any("embedding" in kernel for kernel in seen)


CLOSE = molecule(4)
CLOSE.positions[1] = CLOSE.positions[0] + [0.0, 0.3, 0.0]
BY_NET: dict[str, tuple[dict[str, Any], Atoms]] = {
    "atoms closer than series were sampled": ({}, CLOSE),
    "a net with kinks": ({"activation_function": "relu"}, molecule(4)),
    "more types than columns": ({"type_map": ("H", "C", "O", "N", "S", "P", "F", "Cl", "Br")}, molecule(4)),
}


@pytest.mark.parametrize("why", BY_NET)
def test_the_net_serves_where_series_end(why: str) -> None:
    options, atoms = BY_NET[why]
    model = model_of(**options)
    assert not launched(model, [atoms]) & SERIES
    assert_same(model, batch_of(model, [atoms]), "float64")


@pytest.mark.parametrize(("rows", "chunk"), [(16, 16), (16, 128), (64, 32)])
def test_any_launch_configuration_gives_the_same(rows: int, chunk: int) -> None:
    """More neighbours than a block has, and a last block that is not full."""
    one = LaunchConfiguration(rows, chunk, 4)
    configurations = replace(INTERPRETED, embedding=EmbeddingConfigurations(series_moments=one, series_moments_bwd=one))
    model = model_of(sel=(260,), neuron=(10, 20, 40), tebd_input_mode="strip")
    assert_same(model, one_atom(model, 33), "float64", configurations=configurations)


@pytest.mark.parametrize(("precision", "most"), [("tf32", 2e-6), ("bfloat16", 1e-2), ("float16", 2e-3)])
def test_series_lose_nothing_that_the_net_of_energies_does_not(precision: str, most: float) -> None:
    """Half precisions round the energy net's operands alone: moments are summed from float32."""
    model = model_of(neuron=(8, 16, 32))
    atoms = [molecule(8, 2)]
    judge = torch.from_numpy(Engine(model, backend="reference").evaluate(atoms)[0].forces)
    run = Engine(model, device="cpu", backend="triton", precision=precision)
    found = torch.from_numpy(run.evaluate(atoms)[0].forces)
    assert float((found - judge).square().mean().sqrt() / judge.square().mean().sqrt()) < most
