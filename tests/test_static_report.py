"""The report of what kernels compile to: what must hold of what the engine launches."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest

pytestmark = pytest.mark.skipif(find_spec("triton") is None, reason="triton is not installed")

LAYER = ("project", "scores", "output", "output_bwd", "scores_bwd", "project_bwd")
WITH_PRODUCTS = {
    "embedding_fwd", "embedding_edges_bwd", "embedding_fwd_no_attention", "embedding_bwd", "coordinates",
    "series_moments", "series_moments_bwd",
    *(f"attention_{x}" for x in LAYER), *(f"reduced_{x}" for x in LAYER),
}  # fmt: skip
"""By the name before what says which layer it serves."""
MODELLED = {"tf32": 1.45, "bfloat16": 0.68}
"""µs an atom by the model of time, which is no measurement: an H100 took about twice as long (kernels/README.md). Held
here is that no change makes the kernels do more."""

WITHOUT_ATTENTION = {"tf32": 0.055, "bfloat16": 0.04}
"""The same where there is none, moments by series."""


def plain(kernel: str) -> str:
    """A kernel's name without the layer that it serves."""
    return kernel.removesuffix("_last").removesuffix("_first")


@pytest.mark.slow
@pytest.mark.parametrize("precision", ["bfloat16", "tf32"])
def test_defaults_need_no_stack_and_use_tensor_cores(precision: str, tmp_path: Path) -> None:
    # Tests may run in the interpreter, which has nothing to compile; the report must find out by itself.
    interpreted = os.environ | {"TRITON_INTERPRET": "1"}
    options = ["--quick", "--precision", precision, "--output", str(tmp_path)]
    command = [sys.executable, "-m", "bench.compiled.static_report", *options]
    done = subprocess.run(command, cwd=Path(__file__).parents[1], env=interpreted, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-2000:]
    rows = json.loads((tmp_path / "kernel_report.json").read_text())
    assert {plain(r["kernel"]) for r in rows} > WITH_PRODUCTS
    for r in rows:
        assert "error" not in r, r
        assert r["stack_bytes"] == 0, r["kernel"]
        assert r["fma_products"] == 0, r["kernel"]
        assert (r["tensor_core_products"] > 0) == (plain(r["kernel"]) in WITH_PRODUCTS), r["kernel"]
        assert r["products_as_modelled"], f"{r['kernel']}: work.py no longer counts the products that are there"
        if r["kernel"].startswith(("attention", "reduced")):
            assert r["loops_followed"], f"{r['kernel']}: its loops are no longer those that work.py names"
    totals = json.loads((tmp_path / "kernel_report_totals.json").read_text())
    assert [t["precision"] for t in totals] == [precision]
    for total in totals:
        assert total["bytes_ok"], total
        assert total["model_us_per_atom"] <= MODELLED[total["precision"]], total
    alone = ("contraction", "energy", "forces", "series")
    assert sum(r["model_us_per_atom"] for r in rows if r["kernel"].startswith(alone)) <= WITHOUT_ATTENTION[precision]


def shape_report(*options: str) -> str:
    """What ``bench.compiled.shape_report`` says where nothing is wrong, in a process of its own."""
    interpreted = os.environ | {"TRITON_INTERPRET": "1"}
    command = [sys.executable, "-m", "bench.compiled.shape_report", *options]
    done = subprocess.run(command, cwd=Path(__file__).parents[1], env=interpreted, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr[-2000:]
    return done.stdout


@pytest.mark.slow
@pytest.mark.parametrize("precision", ["bfloat16", "float32"])
def test_models_of_128_channels_need_no_stack(precision: str) -> None:
    said = shape_report("--arch", "sm_90", "--precision", precision, "--shape", "M = 128")
    assert ", 0 of them are not as they should be" in said


@pytest.mark.slow
def test_the_production_model_fits_smaller_cards() -> None:
    """GeForce cards have 99 kB of shared memory where an A100 has 163."""
    said = shape_report("--arch", "sm_89", "--precision", "float32", "--shape", "se_atten", "--stack", "512")
    assert ", 0 of them are not as they should be" in said


def test_some_of_the_fastest_kernels_need_no_stack_and_use_tensor_cores() -> None:
    """What is looked at in all of them by the slow tests above: here in what takes the most time on a card."""
    kernels = ("attention_scores_bwd", "attention_output")
    options = ("--arch", "sm_90", "--precision", "bfloat16", "--shape", "se_atten", "--kernel", *kernels)
    said = shape_report(*options, "--workers", "1")
    assert re.match(r"[1-9]\d* kernels of 1 shapes, 0 of them are not", said), said


@pytest.mark.parametrize(
    "kernels",
    [("energy_last", "attention_project"), pytest.param(("embedding_bwd",), marks=pytest.mark.slow)],
    ids=lambda kernels: kernels[0],
)
def test_float64_compiles(kernels: tuple[str, ...]) -> None:
    """The default precision. Triton 3.4 to 3.8 did not take operands that come from a mask; it has tensor cores too."""
    options = ("--arch", "sm_90", "--precision", "float64", "--shape", "se_atten", "--kernel", *kernels)
    said = shape_report(*options, "--stack", "512", "--workers", "1")
    assert re.match(r"[1-9]\d* kernels of 1 shapes, 0 of them are not", said), said


def test_code_in_which_a_shift_runs_over_into_the_number_beside_it_is_refused() -> None:
    from dpa1_fast.kernels.triton.compiling.binary import mistake

    # From what Triton 3.6 makes of the backward pass in coordinates: column 2·(thread % 4) gets thread // 2 besides.
    wrong = """
        and.b32 \t%r12, %r2, 3;
        mul.wide.u32 \t%rd53, %r2, 2147483648;
        cvt.u64.u32 \t%rd54, %r12;
        shl.b64 \t%rd55, %rd54, 33;
        or.b64 \t%rd56, %rd53, %rd55;
        mov.b64 \t{_, %r28}, %rd56;"""
    assert "2147483648" in (mistake(wrong) or "")
    assert mistake(wrong.replace("2147483648", "16")) is None
    assert mistake("mul.wide.s32 \t%rd1, %r2, 4194304;") is None
