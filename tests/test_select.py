"""Which structures of a pool are chosen for labelling, and why."""

from __future__ import annotations

import csv
import math
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from ase import Atoms
from ase.io import read, write
from commands import run_command
from conftest import make_model
from test_uncertainty import labelled, write_data

from dpa1_fast import Engine
from dpa1_fast.checkpoint import write_model
from dpa1_fast.sampling import select as selecting
from dpa1_fast.sampling.farthest import Scale, farthest
from dpa1_fast.sampling.pool import Failures
from dpa1_fast.sampling.select_command import told
from dpa1_fast.sampling.trust import ACCURATE, CANDIDATE, FAILED, Bounds, BoundsError, Verdict
from dpa1_fast.train.calibrate import calibrate


@pytest.fixture(scope="module")
def models(tmp_path_factory: Any) -> Path:
    """A calibrated model, and one that was not; what training had are H and C."""
    folder = tmp_path_factory.mktemp("models")
    torch.manual_seed(3)
    model = make_model()
    write_model(model, folder / "plain.safetensors")
    train = write_data(folder / "train.extxyz", model, labelled(40, 1), 1)
    model.uncertainty = calibrate(model, train, write_data(folder / "v.extxyz", model, labelled(40, 2), 2)).uncertainty
    write_model(model, folder / "model.safetensors")
    other = make_model()
    with torch.no_grad():
        for parameter in other.fitting.parameters():
            parameter += 0.1 * torch.randn_like(parameter)
    write_model(other, folder / "other.safetensors")
    return folder


def pool(folder: Path, count: int = 30) -> list[Atoms]:
    """Molecules of H and C; number 5 has O too, 3 is far too close, 9 and 11 are copies of 8, moved and turned."""
    out = labelled(count, 7)
    out[5].symbols[0] = "O"
    out[3].positions[1] = out[3].positions[0]
    for k, angle in ((9, 40.0), (11, 0.0)):
        out[k] = out[8].copy()
        out[k].rotate(angle, "z")
        out[k].translate([1.0, 2.0, 0.5])
    write(folder / "pool.extxyz", out)
    return out


def table(folder: Path) -> list[dict[str, str]]:
    with (folder / "chosen.csv").open() as file:
        return list(csv.DictReader(file))


def test_the_unseen_comes_first_then_the_uncertain_and_no_two_are_alike(models: Path, tmp_path: Path) -> None:
    pool(tmp_path)
    words = ["select", tmp_path / "pool.extxyz", "-m", models / "model.safetensors", "--n", 8]
    done = run_command(*words, "-o", tmp_path / "out")
    assert done.returncode == 1
    assert "8 of 29 structures chosen; 1 could not be evaluated" in done.stdout
    rows = table(tmp_path / "out")
    assert rows[0]["index"] == "5"
    assert "unseen element" in rows[0]["reason"]
    assert rows[0]["rank"] == "1"
    assert len({"8", "9", "11"} & {r["index"] for r in rows}) <= 1
    distances = [float(r["distance"]) for r in rows]
    assert distances == sorted(distances, reverse=True)
    chosen = read(tmp_path / "out" / "chosen.extxyz", ":")
    assert [a.info["index"] for a in chosen] == [int(r["index"]) for r in rows]
    assert all(a.calc is None for a in chosen)  # what they lack is labels
    with (tmp_path / "out" / "failures.csv").open() as file:
        assert [r["frame"] for r in csv.DictReader(file)] == ["3"]
    again = run_command(*words, "-o", tmp_path / "again")
    assert again.returncode == 1
    for name in ("chosen.csv", "chosen.extxyz"):
        assert (tmp_path / "out" / name).read_bytes() == (tmp_path / "again" / name).read_bytes()


def test_only_the_most_uncertain_stay_in_the_running(
    models: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from dpa1_fast import load
    from dpa1_fast.sources import find_sources

    pool(tmp_path)
    engine = load(models / "model.safetensors")
    sources = find_sources([str(tmp_path / "pool.extxyz")], engine.config.type_map)
    monkeypatch.setattr(selecting, "CANDIDATES", 2)
    found, failures = selecting.select([engine], sources, 4, tmp_path)
    assert isinstance(failures, Failures)
    assert found.considered == 8
    everything, _ = selecting.select([engine], sources, 29, tmp_path)
    ranked = {c.member.index: c.rank for c in everything.chosen}
    assert {c.member.index for c in found.chosen} <= {k for k, rank in ranked.items() if rank <= 10}
    assert everything.alike  # two of three copies are left
    assert len(everything.chosen) == 27


def test_structures_that_have_labels_are_kept_away_from(models: Path, tmp_path: Path) -> None:
    structures = pool(tmp_path)
    write(tmp_path / "known.extxyz", [structures[5], structures[8]])
    done = run_command(
        "select", tmp_path / "pool.extxyz", "-m", models / "model.safetensors", "--n", 40, "--known",
        tmp_path / "known.extxyz", "-o", tmp_path / "out",
    )  # fmt: skip
    assert "all other candidates are copies of these, or of known ones" in done.stdout
    assert not {"5", "8", "9", "11"} & {r["index"] for r in table(tmp_path / "out")}


def test_the_deviation_of_several_models_between_dp_gens_bounds(models: Path, tmp_path: Path) -> None:
    structures = pool(tmp_path)
    names = [models / "plain.safetensors", models / "other.safetensors"]
    words = ["select", tmp_path / "pool.extxyz", "-o", tmp_path / "out", "--models", *names]
    good = [a for k, a in enumerate(structures) if k != 3]
    forces = [[r.forces for r in Engine(m, precision="float32").evaluate(good)] for m in map(model_of, names)]
    devi = [float(np.linalg.norm(np.std(pair, axis=0), axis=-1).max()) for pair in zip(*forces, strict=True)]
    lower, upper = np.quantile(devi, [0.3, 0.8])
    done = run_command(*words, "--n", 50, "--lower", lower, "--upper", upper)
    inside = [k for k, d in enumerate(devi) if lower <= d < upper]
    assert f"candidate {len(inside)}, failed {sum(d >= upper for d in devi)}" in done.stdout
    rows = table(tmp_path / "out")
    assert all(lower <= float(r["force_deviation"]) * (1 + 1e-4) <= upper * (1 + 2e-4) for r in rows)
    assert {r["flags"] for r in rows} == {""}


def model_of(path: Path) -> Any:
    from dpa1_fast.checkpoint import read_model

    return read_model(path).model


def test_bounds_are_dp_gens_but_for_what_was_never_seen() -> None:
    bounds = Bounds(0.1, 0.3)
    assert [bounds.of(Verdict(f, 0.0)) for f in (0.05, 0.1, 0.29, 0.3)] == [ACCURATE, CANDIDATE, CANDIDATE, FAILED]
    assert bounds.of(Verdict(0.05, 0.0, ("unseen_pair",))) == CANDIDATE
    assert bounds.of(Verdict(math.nan, 0.0)) == FAILED
    with pytest.raises(BoundsError, match="0 ≤ lower < upper"):
        Bounds(0.3, 0.1)


def test_a_model_that_knows_nothing_of_its_uncertainty_is_one_clear_line(models: Path, tmp_path: Path) -> None:
    pool(tmp_path)
    done = run_command("select", tmp_path / "pool.extxyz", "-m", models / "plain.safetensors", "-o", tmp_path / "out")
    assert done.returncode == 2
    assert "dpa1-fast calibrate does that; or give several models" in done.stderr
    assert done.stderr.count("\n") == 1


def test_a_pool_that_holds_earlier_choices_does_not_read_them(models: Path, tmp_path: Path) -> None:
    pool(tmp_path)
    for _ in range(2):
        done = run_command("select", tmp_path, "-m", models / "model.safetensors", "-n", 3, "-o", tmp_path / "out")
        assert "3 of 29 structures chosen" in done.stdout, done.stderr


def test_of_copies_alone_one_is_taken_and_none_of_one_that_is_known(models: Path, tmp_path: Path) -> None:
    copies = pool(tmp_path)[8:12]
    del copies[2]
    for name, some in (("copies", copies), ("one", copies[:1]), ("known", copies[1:])):
        write(tmp_path / f"{name}.extxyz", some)
    words = "-m", models / "model.safetensors", "-o", tmp_path / "out"
    done = run_command("select", tmp_path / "copies.extxyz", *words)
    assert "1 of 3 structures chosen" in done.stdout, done.stderr
    done = run_command("select", tmp_path / "one.extxyz", "--known", tmp_path / "known.extxyz", *words)
    assert "0 of 1 structures chosen" in done.stdout, done.stderr


def test_candidates_that_were_not_compared_are_not_called_copies() -> None:
    def said(considered: int) -> str:
        kinds = Counter({CANDIDATE: 100})
        return told(selecting.Selection(kinds=kinds, considered=considered, alike=True), 0, None)

    assert said(100).endswith("copies of these, or of known ones")
    assert said(20).endswith("; 80 more certain ones were not compared")


def test_farthest_points_are_those_of_a_plain_search() -> None:
    rows = np.random.default_rng(0).normal(size=(40, 5)).astype(np.float32)
    rows = Scale.of(rows)(rows)
    taken = farthest(rows, 6)
    chosen = [0]
    for _ in range(5):
        d = np.linalg.norm(rows[:, None].astype(float) - rows[chosen][None], axis=2).min(1)
        chosen.append(int(d.argmax()))
    assert [t.row for t in taken] == chosen
