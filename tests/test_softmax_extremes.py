"""Logits of any size, with empty slots and without, in every backend: the softmax of the reference in float64.

A softmax is computed after its largest logit was taken off. Which one that is depends on whether an empty slot stands
among the logits: with exactly ``sel`` neighbours there is none, and e^x of logits far below zero underflows.
"""

from __future__ import annotations

from collections.abc import Container
from itertools import product
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

QUICK = {(N - 1, True), (N - 1, False), (N, False), (40, True)}
"""sel and smooth in Triton's interpreter, which takes its time, at the level that underflows; all else is slow."""


def cases(*options: tuple[Any, ...], quick: Container[tuple[Any, ...]]) -> list[Any]:
    """Each of the options in each backend at each level."""
    out = []
    for backend, level, values in product(("cpu", "triton"), LEVELS, options):
        slow = backend == "triton" and (level != -90.0 or values not in quick)
        out.append(pytest.param(*values, level, backend, marks=[pytest.mark.slow] if slow else []))
    return out


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


def close_together(backend: str) -> list[Atoms]:
    """One molecule, where the interpreter takes its time with it."""
    return [molecule(N, seed=k, box=2.4) for k in range(1 if backend == "triton" else 2)]


@pytest.mark.parametrize(
    ("sel", "smooth", "level", "backend"), cases(*product((N - 1, N, 40), (True, False)), quick=QUICK)
)
def test_without_lengths(sel: int, smooth: bool, level: float, backend: str) -> None:
    """sel = N − 1: no slot is empty."""
    model = model_with_logits(level, sel, normalize=False, smooth_type_embedding=smooth, attn_layer=1)
    assert_as_reference(model, backend, close_together(backend))


@pytest.mark.parametrize(("smooth", "level", "backend"), cases((True,), (False,), quick={(True,)}))
def test_a_temperature_that_is_large(smooth: bool, level: float, backend: str) -> None:
    """q and k of length one, but their product is multiplied by the temperature."""
    model = make_model(sel=(N - 1,), temperature=level, smooth_type_embedding=smooth)
    assert_as_reference(model, backend, close_together(backend))


@pytest.mark.parametrize(("sel", "level", "backend"), cases((N - 1,), (40,), quick={(N - 1,)}))
def test_in_coordinates(sel: int, level: float, backend: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The first layer in few coordinates has launchers of its own."""
    monkeypatch.setattr(bases, "WORTH", 2.0)
    assert_as_reference(model_with_logits(level, sel, normalize=False), backend, close_together(backend))
