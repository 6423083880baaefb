"""``dpa1-fast test``: errors against labels, per system, element and kind, in DeePMD-kit's columns."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from ase import Atoms
from ase.calculators.singlepoint import SinglePointCalculator
from ase.io import write
from conftest import make_model, molecule
from training import labelled, periodic, write_data, write_system

from dpa1_fast import Engine
from dpa1_fast.errors import StructureError
from dpa1_fast.testing.command import errors_command
from dpa1_fast.train.options import TrainingError


def test_the_teacher_makes_no_errors_and_another_model_those_that_numpy_finds(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_data(tmp_path)
    teacher = Engine(make_model(), precision="float64")
    assert errors_command(teacher, "teacher", [str(tmp_path / "train")], as_json=True) == 0
    told = json.loads(capsys.readouterr().out)
    assert told["all"]["structures"] == 12
    assert max(told["all"][k] for k in ("rmse_e", "rmse_f", "rmse_v")) < 1e-10

    other = Engine(make_model(attn_layer=1), precision="float64")
    out = tmp_path / "out"
    assert errors_command(other, "other", [str(tmp_path / "train")], out) == 0
    printed = capsys.readouterr().out
    told = json.loads((out / "errors.json").read_text())
    structures = [a for n in (3, 4, 5) for a in periodic(n, 4, 10 * n)]
    rows = labelled(structures)
    results = other.evaluate(structures)
    df = np.concatenate([r.forces - x["force"] for r, x in zip(results, rows, strict=True)])
    de = np.array([r.energy - x["energy"] for r, x in zip(results, rows, strict=True)])
    n = np.array([len(a) for a in structures])
    assert told["all"]["rmse_f"] == pytest.approx(np.sqrt((df**2).mean()))
    assert told["all"]["mae_f"] == pytest.approx(np.abs(df).mean())
    assert told["all"]["rmse_ea"] == pytest.approx(np.sqrt(((de / n) ** 2).mean()))
    symbols = np.concatenate([a.symbols for a in structures])
    assert told["elements"]["C"]["rmse_f"] == pytest.approx(np.sqrt((df[symbols == "C"] ** 2).mean()))
    assert [Path(s).name for s in told["systems"]] == ["3", "4", "5"]
    assert "by element" in printed
    columns = np.loadtxt(out / "detail.f.out")
    assert (
        (out / "detail.f.out").read_text().splitlines()[0].endswith("data_fx data_fy data_fz pred_fx pred_fy pred_fz")
    )
    np.testing.assert_allclose(columns[:, 3:] - columns[:, :3], df, atol=1e-12)
    assert np.loadtxt(out / "detail.v_peratom.out").shape == (12, 18)
    assert (out / "parity.png").stat().st_size > 10_000


def test_kinds_are_told_apart_and_data_without_labels_is_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    engine = Engine(make_model(), precision="float64")
    frames = [molecule(5, seed) for seed in range(4)]
    for k, atoms in enumerate(frames):
        atoms.info["config_type"] = ["dimer", "bulk"][k % 2]
    write(tmp_path / "bare.extxyz", frames)
    with pytest.raises(TrainingError, match="has an energy, force or virial"):
        errors_command(engine, "m", [str(tmp_path / "bare.extxyz")])
    for atoms, result in zip(frames, engine.evaluate(frames), strict=True):
        atoms.calc = SinglePointCalculator(atoms, energy=result.energy + 1.0, forces=result.forces)
    write(tmp_path / "labelled.extxyz", frames)
    errors_command(engine, "m", [str(tmp_path / "labelled.extxyz")], as_json=True)
    told = json.loads(capsys.readouterr().out)
    assert set(told["kinds"]) == {"dimer", "bulk"}
    assert told["kinds"]["bulk"]["structures"] == 2
    assert told["all"]["mae_e"] == pytest.approx(1.0, abs=1e-6)


def test_systems_are_named_from_the_root_and_from_here(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    write_data(tmp_path)
    monkeypatch.chdir(tmp_path)
    engine = Engine(make_model())
    assert errors_command(engine, "m", [str(tmp_path / "train" / "3"), "valid/4"]) == 0
    printed = capsys.readouterr().out
    assert "valid/4" in printed
    assert "by system" in printed


def test_nothing_of_an_earlier_test_stays(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rows = labelled(periodic(4, 2))
    write_system(tmp_path / "all", rows)
    write_system(tmp_path / "energies", [{k: v for k, v in r.items() if k not in ("force", "virial")} for r in rows])
    engine = Engine(make_model())
    for name in ("all", "energies"):
        errors_command(engine, "m", [str(tmp_path / name)], tmp_path / "out")
    told = ["detail.e.out", "detail.e_peratom.out", "errors.json", "parity.png"]
    assert sorted(p.name for p in (tmp_path / "out").iterdir()) == told
    assert "detail.f" not in capsys.readouterr().out.splitlines()[-1]


def test_a_structure_of_virtual_atoms_alone_is_named(tmp_path: Path) -> None:
    atoms = Atoms("X2", positions=[[0, 0, 0], [1, 0, 0]])
    atoms.calc = SinglePointCalculator(atoms, energy=1.0)
    write(tmp_path / "virtual.extxyz", atoms)
    with pytest.raises(StructureError, match="virtual.extxyz frame 0: all of its atoms are virtual"):
        errors_command(Engine(make_model()), "m", [str(tmp_path / "virtual.extxyz")])


def test_a_label_that_is_not_finite_is_named(tmp_path: Path) -> None:
    rows = labelled(periodic(4, 2))
    rows[1]["energy"] = np.array(np.nan)
    write_system(tmp_path / "s", rows)
    with pytest.raises(TrainingError, match="frame 1: the energy is not finite"):
        errors_command(Engine(make_model()), "m", [str(tmp_path / "s")], tmp_path / "out")


def test_virtual_atoms_do_not_count(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rows = labelled(periodic(4, 2))
    for row in rows:
        row["coord"] = np.vstack([row["coord"], [0.0, 0.0, 0.0]])
        row["force"] = np.vstack([row["force"], [9.0, 9.0, 9.0]])
        row["real_atom_types"] = np.append(row["real_atom_types"], -1)
    write_system(tmp_path / "padded", rows)
    errors_command(Engine(make_model(), precision="float64"), "m", [str(tmp_path / "padded")], as_json=True)
    told = json.loads(capsys.readouterr().out)
    assert told["all"]["atoms"] == 8
    assert told["all"]["rmse_f"] < 1e-10
