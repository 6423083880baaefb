"""Neighbours just inside the cut-off count as DeePMD-kit has it, to the last digit of the switch."""

from __future__ import annotations

from dataclasses import replace
from fractions import Fraction
from functools import cache
from typing import Any

import numpy as np
import pytest
import torch
from ase import Atoms
from conftest import make_model
from ptx_emulator.contraction import contracted
from ptx_emulator.operations import multiply_add
from test_compiled_races import elsewhere
from test_triton import batch_of, evaluator

from dpa1_fast import Engine
from dpa1_fast.kernels.prepare import bases

GAPS = (1e-3, 2e-4, 1e-4, 1e-5, 1e-6)
"""Å to the cut-off. From about 2e-4 on |row[1:4]| is below 1e-12, and that is what it is divided by."""
AUTOGRAD = 2e-6
"""Of the largest force: autograd multiplies before it adds up the switch's slope, and so rounds differently."""


def apart(model: Any, gap: float) -> Atoms:
    """Four atoms close together, and one so near to the cut-off of the first alone."""
    direction = np.array([2.0, -1.0, 2.0]) / 3
    near = [[0.0, 0.0, 0.0], [-0.9, 0.4, 0.1], [-0.2, 1.1, -0.5], [-0.3, -0.2, -1.2]]
    names = [*model.config.type_map, *model.config.type_map][:2]
    return Atoms([names[k % 2] for k in range(5)], positions=[*near, direction * (model.config.rcut - gap)])


@pytest.mark.parametrize(
    ("smooth", "reduced"),
    [(False, False), (False, True), (True, False)],
    ids=["hard", "hard, coordinates", "smooth"],
)
def test_forces_are_right_up_to_the_cutoff(smooth: bool, reduced: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bases, "WORTH", 2.0 if reduced else 0.0)
    # Neither number is one of float32's.
    model = make_model(smooth_type_embedding=smooth, rcut=4.1, rcut_smth=0.3)
    batch = batch_of(model, [apart(model, gap) for gap in GAPS])
    ends = torch.zeros(len(batch.types), dtype=torch.bool)
    ends[batch.offsets[:-1]] = ends[batch.offsets[1:] - 1] = True  # all other pairs are far inside
    batch = replace(batch, active=ends)
    found = evaluator(model)(batch)
    cpu, autograd = (Engine(model, backend=backend, device="cpu").run(batch) for backend in ("cpu", "reference"))
    largest = float(autograd[2].abs().max())
    assert float((found[0] - autograd[0]).abs().max()) < 1e-12
    assert float((found[2] - cpu[2]).abs().max()) < 1e-11 * largest
    assert float((found[2] - autograd[2]).abs().max()) < AUTOGRAD * largest


COMPILED = ("all channels", "coordinates", "no attention", "no attention, by the net")
QUICK = "no attention"
"""Compiled and emulated in ``make test``; it has the switch and its slope, whose functions all kernels share."""


@cache
def compiled(name: str) -> dict[str, Any]:
    """What the emulator makes of one case, with the names of all kernels that have an environment in them."""
    results: dict[str, Any] = elsewhere("near_cutoff", [name])
    return {"with environment": results["kernels"], **results["cases"][name]}


@pytest.mark.slow
def test_no_kernel_with_an_environment_is_left_out() -> None:
    launched = {kernel for name in COMPILED for kernel in compiled(name)["kernels"]}
    assert launched == set(compiled(QUICK)["with environment"])


@pytest.mark.slow
@pytest.mark.parametrize("name", ["all channels", "coordinates"])
def test_compiled_kernels_round_the_switch_as_torch_does(name: str) -> None:
    """Whatever products and sums NVIDIA's compilers make one of: a switch of 1e-15 has no digits to lose."""
    assert compiled(name)["rows"]
    assert max(compiled(name)["rows"]) < 2e-7  # they are stored in float32


@pytest.mark.parametrize(
    "name",
    [QUICK, *(pytest.param(x, marks=pytest.mark.slow) for x in ("all channels", "no attention, by the net"))],
)
def test_compiled_kernels_round_its_slope_as_the_cpu_engine_does(name: str) -> None:
    assert compiled(name)["gradients"] < 2e-5  # all else is float32


# --- the emulator's part ----------------------------------------------------------------------------------------------


def test_emulated_multiply_adds_are_rounded_once() -> None:
    rng = np.random.default_rng(0)
    a, b = rng.normal(size=(2, 4000))
    c = np.concatenate(
        [rng.normal(size=1000), -a[1000:2000] * b[1000:2000], -a[2000:3000] * b[2000:3000] * (1 + 2**-50)]
    )
    c = np.concatenate([c, a[3000:] * b[3000:] * 2.0 ** rng.integers(40, 110, size=1000)])
    right = [float(Fraction(x) * Fraction(y) + Fraction(z)) for x, y, z in zip(a, b, c, strict=True)]
    assert multiply_add(a, b, c).tolist() == right


def test_emulated_multiply_adds_of_ties() -> None:
    """Half a bit, and a product that says which way, far below."""
    one, half, tiny = 1.0, 2.0**-53, 2.0**-100
    a, b = np.array([one + 2**-52, one + 2**-30, one - 2**-30]), np.array([one, one + 2**-23, one - 2**-23])
    c = np.array([half, half, half + tiny])
    right = [float(Fraction(x) * Fraction(y) + Fraction(z)) for x, y, z in zip(a, b, c, strict=True)]
    assert multiply_add(a, b, c).tolist() == right


def test_contraction_takes_products_that_go_into_one_sum() -> None:
    code = (
        "\t.reg .b64 \t%rd<9>;\n\tmul.f64 \t%rd3, %rd1, %rd2;\n\tsub.f64 \t%rd4, %rd5, %rd3;\n"
        "\tmul.f64 \t%rd6, %rd1, %rd2;\n\tadd.f64 \t%rd7, %rd6, %rd4;\n\tadd.f64 \t%rd8, %rd6, %rd4;"
    )
    out = contracted(code)
    assert "%rd<10>" in out
    assert "neg.f64 %rd9, %rd1;\nfma.rn.f64 %rd4, %rd9, %rd2, %rd5;" in out
    assert out.count("fma") == 1  # the other one is used twice
