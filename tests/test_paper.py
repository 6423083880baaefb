"""The paper's experiments, on data so small that they take seconds: each run once, resumed, and told in the docs."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import make_model
from training import labelled, periodic, write_system

from dpa1_fast.checkpoint import write_model

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT / "examples" / "paper"))
import attention  # noqa: E402
import curves  # noqa: E402
import elements  # noqa: E402
import report  # noqa: E402
import results  # noqa: E402
import sets  # noqa: E402

PAGE = "".join(f"<!-- {n} -->\n<!-- end of {n} -->\n" for n in ("curves", "attention", "elements", "cost"))


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A pretrained model, and a set of 12 crystals to train on and 3 to test on."""
    write_model(make_model(), tmp_path / "model.safetensors")
    data = tmp_path / "data" / "teacher68" / "almgcu"
    write_system(data / "train" / "4", labelled(periodic(4, 12)))
    write_system(data / "test" / "4", labelled(periodic(4, 3, 50)))
    monkeypatch.setattr(curves, "SAMPLES", (0, 3, -1))
    return tmp_path


def words(folder: Path, *more: Any) -> list[str]:
    common = {"--data": folder / "data", "--model": folder / "model.safetensors", "--results": folder / "r.jsonl"}
    common["--work"] = folder / "work"
    return [str(x) for pair in common.items() for x in pair] + [str(x) for x in more]


def test_learning_curves_do_what_is_missing_and_are_told(folder: Path) -> None:
    given = words(folder, "--sets", "almgcu", "--seeds", "1", "--steps", 3)
    curves.main(given)
    lines = results.read(folder / "r.jsonl")
    assert [(r["samples"], r["start"]) for r in lines] == [
        (0, "pretrained"), (3, "pretrained"), (3, "scratch"), (-1, "pretrained"), (-1, "scratch")
    ]  # fmt: skip
    assert [r.get("trained_on") for r in lines] == [None, 3, 3, 12, 12]
    # The labels are the pretrained model's: as it is it makes no error, but for the digits of the files.
    assert lines[0]["force"] < 0.1 < lines[2]["force"]
    assert not list((folder / "work").iterdir())
    kept = (folder / "r.jsonl").read_text().splitlines(keepends=True)
    (folder / "r.jsonl").write_text("".join(kept[:3]) + kept[3][:40])  # killed while it wrote
    curves.main(given)
    again = results.read(folder / "r.jsonl")
    assert len(again) == 5
    same = ("samples", "start", "force", "energy")
    assert [[r[k] for k in same] for r in again] == [[r[k] for k in same] for r in lines]
    curves.main([*given, "--longer", "2"])
    longer = results.read(folder / "r.jsonl")[5:]
    assert [(r["experiment"], r["samples"], r["start"], r["steps"]) for r in longer] == [
        ("longer", -1, "scratch", 6), ("longer", -1, "pretrained", 6)
    ]  # fmt: skip


def test_attention_gets_equal_processor_time(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(attention, "LAYERS", (0, 3))
    monkeypatch.setattr(attention, "TIMED", (1, 4))
    attention.main(words(folder, "--set", "almgcu", "--seeds", "1", "--seconds", 0.2))
    lines = results.read(folder / "r.jsonl")
    assert [r["layers"] for r in lines] == [0, 3]
    assert all(r["steps"] >= attention.TIMED[1] for r in lines)


def test_the_map_of_elements(folder: Path) -> None:
    elements.main(["--model", "almgcu-demo", "--results", str(folder / "r.jsonl"), "--picture", str(folder / "a.png")])
    (line,) = results.read(folder / "r.jsonl")
    assert line["elements"] == 3
    assert (folder / "a.png").stat().st_size > 10_000
    assert [elements.place(s) for s in ("H", "He", "Be", "Al", "Zn", "Lu", "Hf", "Pb")] == [
        (1, 1), (1, 18), (2, 2), (3, 13), (4, 12), (6, 3), (6, 4), (6, 14)
    ]  # fmt: skip
    line_of = np.arange(12.0)[:, None]
    assert elements.correlation(elements.pairs(line_of), elements.pairs(3 * line_of)) == pytest.approx(1)
    noise = elements.pairs(np.random.default_rng(0).normal(size=(12, 3)))
    assert abs(elements.by_chance(noise, elements.pairs(line_of), 200).mean()) < 0.05


def run(samples: int, start: str, force: float, seed: int = 1, name: str = "si") -> results.Run:
    asked = -1 if samples == 400 else samples
    found = {"experiment": "curves", "set": name, "samples": asked, "start": start, "seed": seed, "model": "m"}
    return found | {"trained_on": samples, "force": force, "energy": 1.0, "rms_force": 500.0, "seconds": 60.0}


def test_the_page_says_what_pretraining_saves(tmp_path: Path) -> None:
    (tmp_path / "paper.md").write_text(PAGE)
    lines = [run(10, "pretrained", 100), run(100, "pretrained", 50), run(400, "pretrained", 40)]
    lines += [run(10, "scratch", 400), run(100, "scratch", 120), run(400, "scratch", 70)]
    lines += [{**line, "seed": 2} for line in lines]
    lines.append({**run(0, "pretrained", 300), "trained_on": 0})
    lines.append({**run(400, "scratch", 45), "experiment": "longer", "steps": 6000})
    lines.append({**run(400, "pretrained", 30), "experiment": "longer", "steps": 6000})
    lines.insert(0, {**run(10, "scratch", 9999), "model": "an earlier one"})
    lines += [{"experiment": "attention", "set": "si", "layers": k, "seed": 1, "steps": 100, "force": 90.0 - k,
               "energy": 2.0, "model": "m"} for k in range(4)]  # fmt: skip
    (tmp_path / "r.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    for _ in range(2):
        report.main(["--results", str(tmp_path / "r.jsonl"), "--docs", str(tmp_path)])
    page = (tmp_path / "paper.md").read_text()
    # 70 lies between 100 (at 10) and 50 (at 100): 10 · 10^(log(100/70) / log(100/50)) = 32.7 samples.
    assert "with 33: 0.08 of them" in page
    # 45 between 50 (at 100) and 40 (at 400), likewise.
    assert "From scratch for 6,000 steps on all of them: 45 meV/Å and 1 meV/atom; the force error is one that " in page
    assert "that fine-tuning reaches with 192 samples, and for as many steps is at 30 meV/Å and 1 meV/atom." in page
    assert "9999" not in page
    assert page.count("| mlearn Si (DFT) | 3 |") == 1
    assert (tmp_path / "paper" / "curves.png").exists()
    assert (tmp_path / "paper" / "attention.png").exists()


def test_sets_are_what_their_files_say(tmp_path: Path) -> None:
    site = {"species": [{"element": "Mo", "occu": 1}], "xyz": [0.1, 0.2, 0.3]}
    one = {"structure": {"lattice": {"matrix": np.eye(3).tolist()}, "sites": [site]}}
    many = [one | {"outputs": {"energy": -float(k), "forces": [[0.0, 0.0, k]]}} for k in range(20)]
    (tmp_path / "mlearn" / "Mo").mkdir(parents=True)
    (tmp_path / "mlearn" / "Mo" / "training.json").write_text(json.dumps(many))
    train, test = sets.load("mo", tmp_path)
    assert (len(train), len(test)) == (18, 2)
    energies = sorted(-a.get_potential_energy() for a in (*train, *test))
    assert energies == list(range(20))
    few, more = sets.chosen(train, 3, 1), sets.chosen(train, 9, 1)
    assert few == more[:3]
    assert len(sets.chosen(train, -1, 1)) == 18
    assert len(sets.chosen(train, 300, 1)) == 18


def test_what_stands_in_the_repository_is_what_its_lines_say(tmp_path: Path) -> None:
    docs = ROOT / "docs" / "paper.md"
    (tmp_path / "paper.md").write_text(docs.read_text())
    report.main(["--docs", str(tmp_path)])
    assert (tmp_path / "paper.md").read_text() == docs.read_text(), "run examples/paper/report.py"
