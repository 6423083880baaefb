"""``dpa1-fast bench``: forces are judged before anything is timed, and one page says what was found."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from ase import Atoms
from ase.build import bulk
from ase.io import write
from commands import run_command

from dpa1_fast import DPA1Config, Engine
from dpa1_fast.benchmark import command, measure, peer, systems
from dpa1_fast.benchmark.report import page
from dpa1_fast.kernels.cpu.evaluator import CpuEvaluator
from dpa1_fast.kernels.outputs import Outputs
from dpa1_fast.model import DPA1

QUICK = {"SECONDS": 0.01, "ROUNDS": 1}


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in QUICK.items():
        monkeypatch.setattr(measure, name, value)
    monkeypatch.setattr(command, "COUNTS", (1, 4))
    monkeypatch.setattr(command, "MEMORY_SECONDS", 0.05)
    monkeypatch.setattr(measure, "timed", _once)
    monkeypatch.setattr(measure, "memory", lambda *_: measure.Memory(((10, 1), (20, 2)), 3))


def _once(engine: Engine, run: Any, seconds: float = 0.0) -> measure.Timing:
    import time

    began = time.perf_counter()
    run()
    took = time.perf_counter() - began
    return measure.Timing(took, took, took, 1)


def bench(folder: Path | None, **options: Any) -> int:
    given = {"structures": None, "precision": "float32", "device": "cpu", "backend": "auto", "threads": 1, "head": None,
             "most": 100, "peer": None} | options  # fmt: skip
    return command.bench("almgcu-demo", folder, **given)


MEMORY = measure.memory


def test_a_page_and_the_numbers_behind_it(
    tmp_path: Path, quick: None, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(measure, "memory", lambda model, engine, some: MEMORY(model, engine, some[:2]))
    assert bench(tmp_path / "out") == 0
    saved = json.loads((tmp_path / "out" / "bench.json").read_text(encoding="utf-8"))
    assert [s["atoms"] for s in saved["sizes"]] == [16, 72]
    assert {p["name"] for p in saved["precisions"]} >= {"float64", "float32"}
    assert all(p["us_per_atom"] > 0 for p in saved["precisions"])
    assert saved["memory"]["peaks"][0][1] > 50e6
    html = (tmp_path / "out" / "report.html").read_text(encoding="utf-8")
    sections = re.findall(r'<section id="(\w+)"', html)
    assert sections == ["size", "throughput", "stages", "precision", "roofline", "memory"]
    assert html.count("<svg") == 6
    assert not re.search(r'(src|href)="https?:', html)  # readable without a network
    for words in ("almgcu-demo", saved["facts"]["sha256"], "a crystal of the model's first elements", "1 thread"):
        assert words in html.replace("&#39;", "'")
    said = capsys.readouterr().out
    assert "µs/atom" in said
    assert "structures of 8 atoms a second" in said


def test_wrong_forces_have_no_speed(
    tmp_path: Path, quick: None, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    right = CpuEvaluator.__call__

    def planted(self: CpuEvaluator, batch: Any, hidden: bool = False) -> Outputs:
        out = right(self, batch, hidden)
        return Outputs(out.energies, out.gradient, out.forces * 1.01, out.virials)

    monkeypatch.setattr(CpuEvaluator, "__call__", planted)
    assert bench(tmp_path) == 1
    saved = json.loads((tmp_path / "bench.json").read_text(encoding="utf-8"))
    assert not saved["sizes"]
    assert "no speed" in (tmp_path / "report.html").read_text(encoding="utf-8")
    assert "no speed is shown" in capsys.readouterr().out


def test_structures_of_the_users_own(tmp_path: Path, quick: None) -> None:
    write(tmp_path / "mine.extxyz", [bulk("Al", cubic=True), bulk("Mg")])
    assert bench(tmp_path, structures=tmp_path / "mine.extxyz") == 0
    saved = json.loads((tmp_path / "bench.json").read_text(encoding="utf-8"))
    assert saved["facts"]["structures"] == "mine.extxyz"
    assert [s["atoms"] for s in saved["sizes"]] == [16, 72]
    write(tmp_path / "molecule.xyz", Atoms("AlCu", [[0, 0, 0], [0, 0, 2.4]]))
    assert [len(a) for a in systems.sizes(Atoms("AlCu", [[0, 0, 0], [0, 0, 2.4]]), 1000)] == [2]


def test_the_made_crystal_has_usual_neighbours_and_elements_of_the_model() -> None:
    config = DPA1Config(type_map=("O", "H"), rcut=6.0, rcut_smth=0.5, sel=(120,), neuron=(4, 8), axis_neuron=2, attn=4)
    cell = systems.made(config)
    assert set(cell.symbols) == {"O", "H"}
    engine = Engine(DPA1(config), device="cpu")
    assert 70 < systems.neighbors(engine, systems.repeated(cell, 200)) < 100
    distances = systems.repeated(cell, 64).get_all_distances(mic=True)
    assert distances[np.triu_indices(len(distances), 1)].min() > 1.5


def test_deepmd_kit_stands_beside_where_it_agrees(tmp_path: Path, quick: None, monkeypatch: pytest.MonkeyPatch) -> None:
    def times(python: str, model: Any, some: list[Atoms], threads: int) -> list[tuple[float, float]]:
        engine = Engine(model, device="cpu", precision="float32")
        return [(1.0, engine.evaluate([a])[0].energy) for a in some]

    monkeypatch.setattr(command, "times", times)
    assert bench(tmp_path, peer="another/python") == 0
    assert all(s["peer"] == 1.0 for s in json.loads((tmp_path / "bench.json").read_text(encoding="utf-8"))["sizes"])
    assert "DeePMD-kit" in (tmp_path / "report.html").read_text(encoding="utf-8")


def test_a_peer_that_cannot_be_run_is_named(tmp_path: Path, quick: None, capsys: pytest.CaptureFixture[str]) -> None:
    assert bench(None, peer=str(tmp_path / "python")) == 0
    assert f"no comparison: {tmp_path / 'python'}: No such file" in " ".join(capsys.readouterr().out.split())
    with pytest.raises(peer.PeerError, match="gave up: .*deepmd"):
        peer.times("python3", _small(), [bulk("Al", cubic=True)], 1)


def _small() -> DPA1:
    return DPA1(DPA1Config(type_map=("Al",), rcut=4.0, rcut_smth=0.5, sel=(20,), neuron=(4, 8), axis_neuron=2, attn=4))


def test_memory_that_tells_nothing_is_not_extrapolated() -> None:
    assert measure.Memory(((10, 100), (100, 1000)), 10**9).largest is None
    told = measure.Memory(((1000, 10**8), (11_000, 2 * 10**8)), 12 * 10**8)
    assert told.per_atom == 10_000
    assert told.largest == 111_000


def test_the_page_of_what_was_measured_is_the_same_page_again(tmp_path: Path, quick: None) -> None:
    results = measure.Results(
        {"model": "m<b>", "precision": "float32"}, precisions=[measure.Precision("float32", 0.5, None)]
    )
    assert page(results) == page(results)
    assert "m&lt;b&gt;" in page(results)


def test_bad_options_are_one_line(tmp_path: Path) -> None:
    for words, said in (
        (["no.pt"], "no.pt"),
        (["almgcu-demo", "--precision", "float8"], "precision"),
        (["almgcu-demo", "--structures", "none.xyz"], "none.xyz"),
    ):
        done = run_command("bench", *words, cwd=tmp_path)
        assert done.returncode == 2
        assert done.stderr.count("\n") == 1
        assert said in done.stderr
