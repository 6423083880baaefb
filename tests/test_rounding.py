"""The emulation of rounded products: its formulas are right, and it rounds as the Triton kernels do."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from conftest import OPTIONS, crystal, make_model, molecule

from bench import cases
from bench.rounding.model import RoundedModel
from bench.rounding.products import MODES, Products, nearest, truncated
from bench.rounding.report import Row, batch_of, compare, evaluate, markdown, sizes
from dpa1_fast import DPA1, Engine
from dpa1_fast.kernels.prepare import bases
from dpa1_fast.kernels.triton.evaluator import TritonEvaluator

pytestmark = pytest.mark.usefixtures("quiet")

MORE: dict[str, dict[str, Any]] = {
    "strip_hard": {"tebd_input_mode": "strip", "smooth_type_embedding": False},
    "no_dotr": {"attn_dotr": False},
    "descriptor_alone": {"concat_output_tebd": False},
}
ALL = OPTIONS | MORE


def worst(a: torch.Tensor, b: torch.Tensor) -> float:
    """Largest difference over the largest of ``b``."""
    return float((a - b).abs().max() / b.abs().max())


@pytest.mark.parametrize("reduced", [False, True], ids=["channels", "coordinates"])
@pytest.mark.parametrize(("mode", "limit"), [("float64", 1e-11), ("ieee", 2e-5)])
@pytest.mark.parametrize("name", ALL)
def test_formulas_are_those_of_the_reference(
    name: str, mode: str, limit: float, reduced: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(bases, "WORTH", 2.0)  # small models' bases are as large as their embedding
    model = make_model(**ALL[name])
    model.davg.uniform_(-0.1, 0.1)
    batch = batch_of(model, [molecule(6), crystal()])
    energies, _, forces, _ = Engine(model, backend="reference", device="cpu").run(batch)
    rounded = RoundedModel(model.weights(), Products(mode), reduced=reduced)
    assert rounded.reduced == (reduced and bool(model.config.attn_layer))
    found, f = evaluate(model, batch, rounded)
    assert worst(f, forces) < limit
    assert worst(found, energies) < limit


@pytest.mark.parametrize("smooth", [False, True])
def test_modes_stand_in_order(smooth: bool) -> None:
    model = cases.model(smooth_type_embedding=smooth)
    rows = {r.mode: r for r in compare("clusters", model, cases.molecules(3), list(MODES))}
    error = {mode: r.force_rms for mode, r in rows.items()}
    assert error["float64"] < 1e-11
    assert error["ieee"] < 5e-6
    assert error["tf32x3"] < 3 * error["ieee"]  # both are the rounding of everything else
    assert error["ieee"] < error["bf16x3"] < error["tf32"] < error["tf32, truncated"] < error["bfloat16"]
    assert 0.5 < error["float16"] / error["tf32"] < 2.0  # as many bits
    assert error["bfloat16"] < 0.05


def test_tf32_keeps_ten_bits() -> None:
    step = 2.0**-10
    x = torch.tensor([1.0 + 0.49 * step, 1.0 + 0.51 * step, -1.0 - 0.51 * step, 0.0, torch.inf])
    assert nearest(x).tolist() == [1.0, 1.0 + step, -1.0 - step, 0.0, torch.inf]
    assert truncated(x).tolist() == [1.0, 1.0, -1.0, 0.0, torch.inf]


def test_split_products_are_nearly_exact() -> None:
    a, b = torch.randn(16, 8), torch.randn(8, 16)
    exact = a.double() @ b.double()
    # Half a bit of each part of an operand is lost: 2⁻²¹ of TF32's two, 2⁻¹⁶ of bfloat16's.
    for mode, limit in (("ieee", 1e-6), ("tf32x3", 3e-6), ("bf16x3", 1e-4), ("tf32", 3e-3), ("bfloat16", 3e-2)):
        assert worst(Products(mode)(a, b).double(), exact) < limit, mode


@pytest.mark.parametrize("reduced", [False, True], ids=["channels", "coordinates"])
def test_errors_are_as_large_as_those_of_the_kernels(reduced: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """float16 is the type that the interpreter rounds to as a card does: it has no TF32, and multiplies the bits of
    bfloat16 as if they were integers."""
    monkeypatch.setattr(bases, "WORTH", 2.0 if reduced else 0.0)
    model: DPA1 = make_model()
    batch = batch_of(model, [molecule(8), crystal()])
    judge = Engine(model, backend="reference", device="cpu").run(batch)[2]
    options: dict[str, Any] = {"architecture": None, "chunk_bytes": 1 << 24}
    evaluator = TritonEvaluator(model.weights(), "float16", torch.device("cpu"), **options)
    assert (evaluator.model.coordinates is not None) == reduced
    kernels = evaluator(batch)[2] - judge
    rounded = RoundedModel(model.weights(), Products("float16"), reduced=reduced)
    emulated = evaluate(model, batch, rounded)[1] - judge
    assert 0.7 < float(emulated.norm() / kernels.norm()) < 1.4
    # Not the size alone: the same operands are rounded the same way.
    assert float((emulated * kernels).sum() / emulated.norm() / kernels.norm()) > 0.6


def test_operands_are_watched() -> None:
    dot = Products("float16", watch=True)
    dot(torch.tensor([[1e-9, 1e-5, 0.0, 3.0]]), torch.ones(4, 1))
    assert (dot.largest, dot.seen, dot.short, dot.lost) == (3.0, 7, 2, 1)
    assert np.isinf(Products("float16")(torch.tensor([[1e5]]), torch.ones(1, 1)).item())


def test_tables() -> None:
    row = Row("made up", "ieee", 4e-7, 2e-6, 5e-9, 0.04, 2.9, 0.34, 0.2)
    assert "| made up | ieee | 4.0e-07 | 2.0e-06 | 5.0e-09 |" in markdown([row])
    assert "| made up | 2.9 | 34.0% | 20.0% |" in sizes([row])
