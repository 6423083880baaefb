"""Kernels compiled by processes of their own: crashes, processes that cannot start, a program's second start."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from conftest import make_model
from test_compiling import CARD, ROOT, evaluator

from dpa1_fast.checkpoint import write_model
from dpa1_fast.kernels.triton.compiling import pool
from dpa1_fast.kernels.triton.compiling.choice import Chooser
from dpa1_fast.kernels.triton.launch_configurations import SHIPPED

STUB = """
import json, os, sys
print("ready", flush=True)
for line in sys.stdin:
    name = json.loads(line)["function"]
    if name == "a.crashes_kernel":
        os.abort()
    print(json.dumps({"registers": len(name), "seconds": 0.1}), flush=True)
"""


def job(name: str) -> str:
    return json.dumps({"function": f"a.{name}_kernel"})


def test_a_compiler_that_crashes_costs_one_kernel(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pool, "command", lambda architecture: [sys.executable, "-c", STUB])
    names = [f"k{k}" for k in range(6)]
    lines = [job(x) for x in (*names, "crashes")]
    found = pool.compile_all(lines, "sm_90", tmp_path, 2)
    assert found[job("crashes")].error == "the compiler crashed (SIGABRT)"
    assert {k: x.registers for k, x in found.items() if not x.error} == {job(x): len(x) + 9 for x in names}


@pytest.mark.parametrize("command", [["/no/such/python"], [sys.executable, "-c", "raise SystemExit('no triton here')"]])
def test_without_workers_the_engine_goes_on_and_says_so(
    command: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pool, "command", lambda architecture: command)
    run, said = evaluator(), list[str]()
    run.choose = Chooser(CARD, tmp_path, said.append, workers=2)
    run.compile(90)
    assert run.tuned == {"128": SHIPPED["tf32"]}
    assert said[-1].startswith("kernels are compiled one by one as they are launched: no other process could do it (")
    assert ("no such" in said[-1].lower()) or "no triton here" in said[-1]


LAUNCHES = """
import sys

import torch
from ase.build import molecule
from triton import knobs
from triton.runtime import driver

from dpa1_fast.checkpoint import read_model
from dpa1_fast.kernels.triton.compiling.functions import settled
from dpa1_fast.kernels.triton.compiling.worker import Driver
from dpa1_fast.kernels.triton.evaluator import TritonEvaluator
from dpa1_fast.kernels.triton.stand_ins import standing_in
from dpa1_fast.structures.batch import collate, neighborhood
from dpa1_fast.structures.structure import from_ase

driver.set_active(Driver("sm_90"))
settled()
model = read_model(sys.argv[1]).model
run = TritonEvaluator(model.weights(), "float32", torch.device("cpu"), "sm_90", 1 << 26)
compiled = []
knobs.compilation.listener = lambda src, metadata, times, cache_hit, **_: compiled.append(cache_hit)


class Kernel:
    def __init__(self, function):
        self.function = function

    def __getitem__(self, grid):
        return lambda *args, **options: self.function.warmup(*args, grid=grid, **options)


with standing_in(lambda name, function: Kernel(function)):
    for names in (["H2O"], ["CH3CH2OH", "H2O"], ["trans-butane"]):
        parts = [neighborhood(model.config, from_ase(model.config, molecule(x), x)) for x in names]
        run(collate(model.config, parts))
print(len(compiled), all(compiled))
"""


def test_a_second_start_compiles_nothing_and_neither_does_a_launch(tmp_path: Path) -> None:
    model = tmp_path / "model.safetensors"
    write_model(make_model(attn_layer=0), model, "")
    environment = {k: v for k, v in os.environ.items() if k != "TRITON_INTERPRET"} | {
        "TRITON_CACHE_DIR": str(tmp_path / "cache"), "TRITON_DEFAULT_FP_FUSION": "1",
        "PYTHONPATH": str(ROOT),
    }  # fmt: skip

    def start(*command: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run([sys.executable, *command], env=environment, capture_output=True, text=True, cwd=tmp_path)

    warm = ("-m", "dpa1_fast", "warm", str(model), "--architecture", "sm_90", "--workers", "2")
    first = start(*warm)
    assert first.returncode == 0, first.stderr
    made = re.search(r"sm_90, float32: (\d+) kernels compiled", first.stdout)
    assert made is not None, first.stdout
    assert int(made[1]) >= 12  # and what serves instead of some, which depends on the compiler
    assert "kernels for sm_90, once" in first.stderr
    second = start(*warm)
    assert (second.returncode, second.stderr) == (0, "")
    assert "sm_90, float32: nothing left to compile" in second.stdout
    script = tmp_path / "launches.py"
    script.write_text(LAUNCHES)
    launched = start(str(script), str(model))
    assert launched.returncode == 0, launched.stderr
    count, hits = launched.stdout.split()
    assert int(count) > 8
    assert hits == "True"


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ((), "no GPU was found: name the card that is meant by its architecture"),
        (("--architecture", "H100"), "'H100' is no architecture: give one as sm_80, sm_90, sm_100 or gfx942"),
        (("--architecture", "sm_90", "--precision", "float8"), "precision 'float8' is not available"),
    ],
)
def test_what_cannot_be_made_warm_is_one_line(
    options: tuple[str, ...], words: str, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    from typer.testing import CliRunner

    from dpa1_fast.cli import app

    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert CliRunner().invoke(app, ["warm", "almgcu-demo", *options]).exit_code == 2
