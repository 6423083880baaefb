"""Logits of any size, with empty slots and without, in every backend: the softmax of the reference in float64.

A softmax is computed after its largest logit was taken off. Which one that is depends on whether an empty slot stands
among the logits: with exactly ``sel`` neighbours there is none, and e^x of logits far below zero underflows.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from ase import Atoms
from conftest import make_model, molecule

from dpa1_fast import DPA1, Engine
from dpa1_fast.kernels.prepare import bases

pytestmark = pytest.mark.usefixtures("quiet")

N = 7
"""Atoms of the molecule, which all see each other."""

LEVELS = (-1500.0, -90.0, -21.0, 90.0, 1500.0)
"""What all logits are about: far below what an exponential can hold, and far above."""

BACKENDS = [
    pytest.param(backend, level, marks=[pytest.mark.slow] if backend == "triton" and level != -90.0 else [])
    for backend in ("cpu", "triton")
    for level in LEVELS
]
"""The interpreter takes its time: ``make test`` has the level that underflows, the others are in ``make test-all``."""


def model_with_logits(level: float, sel: int, **options: Any) -> DPA1:
    """A model whose logits are near ``level``: biases of q and k decide, weights add a little."""
    model = make_model(sel=(sel,), attn=12, **options)
    scale = model.config.attention_scale
    for layer in model.attention:
        bias = layer.in_proj.bias.data
        length = np.sqrt(abs(level) / (12 * scale))
        bias[:12], bias[12:24] = np.sign(level) * length, length
        layer.in_proj.weight.data[:, :24] *= min(1.0, 1.0 / length)
    return model


def assert_as_reference(model: DPA1, backend: str, atoms: list[Atoms]) -> None:
    judge = Engine(model, backend="reference").evaluate(atoms)
    for found, right in zip(Engine(model, backend=backend).evaluate(atoms), judge, strict=True):
        assert np.abs(found.energies - right.energies).max() < 1e-10
        assert np.abs(found.forces - right.forces).max() < 1e-10 * max(1.0, np.abs(right.forces).max())


def close_together() -> list[Atoms]:
    return [molecule(N, seed=k, box=2.4) for k in range(2)]


@pytest.mark.parametrize(("backend", "level"), BACKENDS)
@pytest.mark.parametrize("smooth", [True, False])
@pytest.mark.parametrize("sel", [N - 1, N, 40])
def test_without_lengths(sel: int, smooth: bool, level: float, backend: str) -> None:
    """sel = N − 1: no slot is empty."""
    model = model_with_logits(level, sel, normalize=False, smooth_type_embedding=smooth, attn_layer=1)
    assert_as_reference(model, backend, close_together())


@pytest.mark.parametrize(("backend", "level"), BACKENDS)
@pytest.mark.parametrize("smooth", [True, False])
def test_a_temperature_that_is_large(smooth: bool, level: float, backend: str) -> None:
    """q and k of length one, but their product is multiplied by the temperature."""
    model = make_model(sel=(N - 1,), temperature=level, smooth_type_embedding=smooth)
    assert_as_reference(model, backend, close_together())


@pytest.mark.parametrize("sel", [N - 1, 40])
@pytest.mark.parametrize(("backend", "level"), BACKENDS)
def test_in_coordinates(level: float, sel: int, backend: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The first layer in few coordinates has launchers of its own."""
    monkeypatch.setattr(bases, "WORTH", 2.0)
    assert_as_reference(model_with_logits(level, sel, normalize=False), backend, close_together())
