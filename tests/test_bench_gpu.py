"""The benchmark for a GPU, as far as it goes without one."""

from __future__ import annotations

import functools
import io
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from conftest import make_model, molecule
from rich.console import Console

from bench import cases
from bench.cases import Case
from bench.speed import gpu, peer
from bench.speed.gpu_report import Row, speedups, table, write_json, write_picture
from dpa1_fast.kernels.triton import evaluator  # noqa: F401  (loaded while the interpreter is on)

ROOT = Path(__file__).parents[1]
MACHINE = {
    "device": "NO REAL DEVICE, made-up numbers", "driver": "1.2.3", "cuda": "12.0", "torch": "2.0", "triton": "3.0",
    "python": "3.12", "date": "2000-01-01 00:00 UTC",
}  # fmt: skip
ROWS = [
    Row("made_up", 10, "reference", "float64", 1e-13, 1e-14, 0.0, 90.0, 120.0, 2**30, 3, 500.0, 0.0),
    Row("made_up", 10, "reference", "float32", 3e-7, 1e-8, 0.0, 40.0, 60.0, 2**29, 3, 500.0, 0.0),
    Row("made_up", 10, "triton", "float32", 4e-7, 1e-8, 0.0, 4.0, 9.0, 2**28, 1, 30.0, 9.0),
    Row("made_up", 10, "triton", "tf32", 4e-4, 1e-6, 0.0, 2.0, 7.0, 2**28, 1, 30.0, 9.0),
    Row("made_up", 10, "triton", "float64", 1e-3, 1e-3),
    Row("made_up", 10, "triton", "float16", failed=True, said="NaN or overflow"),
    Row("made_up", 10, "DeePMD-kit", "float32", 1e-6, evaluate_us=50.0),
    Row("also_made_up", 2000, "triton", "float32", 4e-7, 1e-8, 0.0, 3.0, 5.0, 2**28, 1, 30.0, 9.0),
]


def test_without_a_gpu_it_says_so_in_one_line(tmp_path: Path) -> None:
    hidden = {**os.environ, "CUDA_VISIBLE_DEVICES": "", "HIP_VISIBLE_DEVICES": "", "ROCR_VISIBLE_DEVICES": ""}
    hidden["PYTHONPATH"] = str(ROOT)
    run = subprocess.run(
        [sys.executable, "-m", "bench.speed.gpu"], cwd=tmp_path, env=hidden, capture_output=True, text=True, check=False
    )
    assert run.returncode == 2
    assert run.stdout == ""
    assert len(run.stderr.splitlines()) == 1
    assert "no GPU was found" in run.stderr


def test_what_is_right_and_what_is_not() -> None:
    assert [r.parity for r in ROWS] == [True, True, True, None, False, False, True, True]
    # Where float64 itself is less sure than the limit, that is the limit.
    assert Row("x", 1, "triton", "float64", 1e-8, spread=2e-8).parity
    assert not Row("x", 1, "triton", "float64", float("nan")).parity
    assert Row("x", 1, "triton", "float32").parity is None


def test_times_faster_is_against_eager_in_the_same_precision() -> None:
    found = speedups(ROWS)
    assert found["made_up", "triton", "float32"] == 10.0
    assert found["made_up", "triton", "tf32"] == 20.0  # eager has none: float32 stands in
    assert ("made_up", "triton", "float64") not in found
    assert ("also_made_up", "triton", "float32") not in found


def test_table() -> None:
    console = Console(width=200, record=True, file=io.StringIO())
    console.print(table(ROWS, MACHINE))
    text = console.export_text()
    lines = {tuple(line.split("│")[2:4]): line for line in text.splitlines() if line.count("│") > 5}
    lines = {tuple(x.strip() for x in k): v for k, v in lines.items()}
    assert "30 (9)" in lines["triton", "tf32"]
    assert "not judged" in lines["triton", "tf32"]
    assert "not right (≤ 1e-10)" in lines["triton", "float64"]
    assert "NaN or overflow" in lines["triton", "float16"]
    assert "1,024" in lines["reference", "float64"]
    for word in ("NO REAL DEVICE", "driver 1.2.3", "CUDA 12.0", "torch 2.0", "triton 3.0", "2000-01-01"):
        assert word in " ".join(text.split()), word


def test_json(tmp_path: Path) -> None:
    write_json(ROWS, MACHINE, tmp_path / "x.json")
    found = json.loads((tmp_path / "x.json").read_text())
    assert found["machine"] == MACHINE
    assert [r["parity"] for r in found["rows"]] == [r.parity for r in ROWS]
    assert found["rows"][2]["backend_us"] == 4.0
    assert found["rows"][2]["limit"] == 2e-5


@pytest.mark.parametrize("rows", [ROWS, ROWS[4:6], []])
def test_picture(rows: list[Row], tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    assert write_picture(rows, MACHINE, tmp_path / "x.png")
    assert (tmp_path / "x.png").read_bytes().startswith(b"\x89PNG")


def test_no_picture_without_matplotlib(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    assert not write_picture(ROWS, MACHINE, tmp_path / "x.png")
    assert not (tmp_path / "x.png").exists()


def test_the_command_goes_all_the_way(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """On the CPU, with Triton's interpreter: the numbers mean nothing, the way there is that of a card."""
    case = Case("tiny", "a molecule", lambda: [molecule(3)])
    monkeypatch.setattr(sys, "argv", ["gpu.py", "--device", "cpu", "--repeats", "1", "--only", "tin"])
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "set_device", lambda device: None)
    monkeypatch.setattr(gpu, "about", lambda device: dict(MACHINE))
    monkeypatch.setattr(gpu, "ROOT", tmp_path)
    monkeypatch.setattr(gpu, "WARM_UP", 0)
    monkeypatch.setattr(gpu, "FEWEST", 1)
    engines = {"reference": ("float64",), "triton": ("float32", "no such precision")}
    monkeypatch.setattr(gpu, "case_rows", functools.partial(gpu.case_rows, engines=engines))
    monkeypatch.setattr(peer, "PEER", tmp_path / "python")
    monkeypatch.setattr(cases, "CASES", {"tiny": case})
    monkeypatch.setattr(cases, "model", make_model)
    assert gpu.main() == 1
    found = json.loads((tmp_path / "build" / "bench_gpu.json").read_text())
    assert "make peer" in found["machine"]["peer"]
    assert [r["parity"] for r in found["rows"][:3]] == [True, True, False]
    for row in found["rows"][:2]:
        assert min(row["backend_us"], row["evaluate_us"]) > 0
        assert row["chunks"] == 1
        assert row["force_error"] < row["limit"]
        assert row["energy_error"] < 1e-6
    assert found["rows"][2]["backend_us"] is None
    assert "BackendError" in found["rows"][2]["said"]


def test_wrong_forces_get_no_speed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gpu.Judge, "force_error", lambda self, forces: 1e-3)
    case = Case("tiny", "a molecule", lambda: [molecule(4)])
    (row,), _ = gpu.case_rows(case, make_model(), torch.device("cpu"), 1, {"reference": ("float32",)})
    assert row.parity is False
    assert row.backend_us is None
    assert row.evaluate_us is None


def test_deepmd_is_left_out_where_it_is_not_installed(tmp_path: Path) -> None:
    assert gpu.peer_device(tmp_path / "python") == ""
