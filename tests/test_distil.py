"""A student without attention learns what its teacher says, and its worth is told."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from ase.io import read, write
from commands import run_command
from conftest import crystal, make_model, molecule

from dpa1_fast import Engine
from dpa1_fast.checkpoint import read_model, write_model
from dpa1_fast.distil.command import force_error
from dpa1_fast.distil.label import LabelOptions, held_out, label, perturbed
from dpa1_fast.distil.speed import compared, enough
from dpa1_fast.distil.student import defaults, student_config
from dpa1_fast.sources import find_sources
from dpa1_fast.train.input_toml import read_student
from dpa1_fast.train.options import TrainingError

SETTINGS = """
[model]
neuron = [4, 8]
axis_neuron = 2
[model.fitting]
neuron = [8]
[data]
batch_atoms = 24
[training]
steps = {steps}
save = 10
"""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A teacher, and structures without labels: crystals of H and C, a molecule, and one that nobody can do."""
    write_model(make_model(), tmp_path / "teacher.safetensors")
    structures = [crystal(seed, 4 + seed % 2) for seed in range(1, 20)]
    for k, atoms in enumerate(structures):
        atoms.symbols = ["H", "C", *["HC"[k % 2]] * (len(atoms) - 2)]
    structures.append(molecule(5, 3))
    structures[-1].symbols = "C5"
    structures[4].positions[0] = structures[4].positions[1]
    write(tmp_path / "pool.extxyz", structures)
    (tmp_path / "student.toml").write_text(SETTINGS.format(steps=30))
    return tmp_path


def distil(folder: Path, *words: Any) -> Any:
    return run_command(
        "distil", folder / "teacher.safetensors", folder / "pool.extxyz", "-o", folder / "out", "--settings",
        folder / "student.toml", "--threads", 1, *words,
    )  # fmt: skip


def test_a_student_and_what_it_is_worth(folder: Path) -> None:
    done = distil(folder, "--copies", 2, "--rattle", 0.05, "--strain", 0.02)
    assert done.returncode == 0, done.stderr
    student = read_model(folder / "out" / "student.safetensors").model
    c = student.config
    assert (c.attn_layer, c.tebd_input_mode, c.type_map, c.neuron) == (0, "strip", ("H", "C"), (4, 8))
    assert read_model(folder / "out" / "student.dp").model.config.attn_layer == 0
    told = json.loads((folder / "out" / "distilled.json").read_text())
    assert told["speed"]["model"]["gain"] > 0
    assert "times as fast" in done.stdout
    assert "added force error" in done.stdout
    # The error is what anybody finds on the structures held out, whose labels are the teacher's.
    held = read(folder / "out" / "labels" / "valid.extxyz", ":")
    results = Engine(student, precision="float64").evaluate(held)
    error = np.concatenate([r.forces - a.get_forces() for r, a in zip(results, held, strict=True)])
    assert told["errors"]["rmse_f"] == pytest.approx(float(np.sqrt(np.mean(error**2))), rel=1e-4)
    labels = Engine(make_model()).evaluate(held)
    for atoms, result in zip(held, labels, strict=True):
        assert atoms.get_potential_energy() == pytest.approx(result.energy, abs=1e-6)
        np.testing.assert_allclose(atoms.get_forces(), result.forces, atol=1e-6)


def test_the_same_command_goes_on_and_other_labels_need_a_new_start(folder: Path) -> None:
    assert distil(folder, "--steps", 4).returncode == 0
    first = (folder / "out" / "model.safetensors").read_bytes()
    done = distil(folder, "--steps", 4)
    assert done.returncode == 0, done.stderr
    assert "goes on at step 4 of 4" in done.stderr
    assert (folder / "out" / "model.safetensors").read_bytes() == first
    refused = distil(folder, "--steps", 4, "--copies", 1, "--rattle", 0.1)
    assert refused.returncode == 2
    assert "holds a training of other options" in refused.stderr


def test_structures_are_held_out_with_their_copies_and_failures_are_listed(folder: Path) -> None:
    options = LabelOptions(held=0.2, copies=2, rattle=0.05, strain=0.02)
    engine = Engine(make_model())
    sources = find_sources([str(folder / "pool.extxyz")], engine.config.type_map)
    counts = label(engine, "x", sources, folder / "labels", options)
    assert counts.failed == 1  # as it is; its copies are moved apart
    out = [k for k in range(20) if held_out(k, options)]
    assert len(out) == 4
    assert counts.valid == 3 * len(out) - (4 in out)
    assert counts.train + counts.valid + counts.failed == 60
    assert "labels" in str((folder / "labels" / "failures.csv").parent)
    before = (folder / "labels" / "train.extxyz").stat().st_mtime_ns
    assert label(engine, "x", sources, folder / "labels", options) == counts
    assert (folder / "labels" / "train.extxyz").stat().st_mtime_ns == before
    written = []
    for chosen in ("@:12", "@8:"):  # the same file, but other structures of it
        part = find_sources([str(folder / "pool.extxyz") + chosen], engine.config.type_map)
        label(engine, "x", part, folder / "labels", options)
        written.append((folder / "labels" / "train.extxyz").read_bytes())
    assert written[0] != written[1]
    label(engine, "another teacher", sources, folder / "labels", options)
    assert (folder / "labels" / "train.extxyz").stat().st_mtime_ns > before


def test_a_copy_is_strained_with_its_cell_and_rattled() -> None:
    atoms = crystal(1, 5)
    options = LabelOptions(copies=1, strain=0.03)
    strained = perturbed(atoms, options, np.random.default_rng(0))
    np.testing.assert_allclose(strained.get_scaled_positions(), atoms.get_scaled_positions(), atol=1e-12)
    deformation = np.linalg.solve(atoms.cell[:], strained.cell[:])
    np.testing.assert_allclose(deformation, deformation.T, atol=1e-12)
    assert 0 < np.abs(deformation - np.eye(3)).max() <= 0.03
    rattled = perturbed(atoms, LabelOptions(copies=1, rattle=0.1), np.random.default_rng(0))
    np.testing.assert_array_equal(rattled.cell[:], atoms.cell[:])
    assert 0.02 < np.std(rattled.positions - atoms.positions) < 0.2


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"held": 0.0}, "--held 0"),
        ({"seed": -1}, "--seed -1"),
        ({"copies": 2}, "--copies without --rattle or --strain"),
        ({"rattle": 0.1}, "--copies 2"),
        ({"copies": 1, "strain": 0.9}, "--strain below 0.5"),
    ],
)
def test_options_that_make_no_sense(options: dict[str, Any], words: str) -> None:
    with pytest.raises(TrainingError, match=words):
        LabelOptions(**options)


def test_what_the_settings_leave_open_is_as_a_student_is_trained(tmp_path: Path) -> None:
    write(tmp_path / "train.extxyz", [crystal(1, 4)])
    usual = defaults(make_model().config, tmp_path, True, 7, "")
    assert read_student(None, usual) == usual
    assert (usual.seed, usual.metric) == (7, "F:RMSE")
    (tmp_path / "settings.toml").write_text('[training]\nseed = 3\nmetric = "loss"\n')
    told = read_student(tmp_path / "settings.toml", usual)
    assert (told.seed, told.metric, told.keep) == (3, "loss", usual.keep)


def test_a_student_of_crystals_without_forces_is_judged_too() -> None:
    told = "added force error 2 meV/Å"
    assert force_error({"rmse_f": 0.002, "rms_f": 0.02}) == f"{told} (10.0% of the RMS force)"
    for rounding in (0.0, 1e-14):
        assert force_error({"rmse_f": 0.002, "rms_f": rounding}) == f"{told} (there are no forces to speak of)"


def test_too_few_structures_are_one_clear_line(folder: Path) -> None:
    write(folder / "pool.extxyz", [crystal(1, 4)])
    done = distil(folder)
    assert done.returncode == 2
    assert "too few; give more structures, or a larger --held" in done.stderr


def test_a_student_of_a_teacher_with_options_of_its_own_is_a_plain_one() -> None:
    teacher = make_model(exclude_types=((0, 1),), attn_dotr=False).config
    c = student_config(teacher, ("O", "H"))
    assert (c.type_map, c.exclude_types, c.rcut, c.sel) == (("H", "O"), (), teacher.rcut, teacher.sel)
    assert (c.neuron, c.axis_neuron, c.fitting.neuron) == ((2, 4, 8), 4, (16, 16))


def test_speeds_are_of_the_same_atoms() -> None:
    structures = enough([crystal(1, 5)])
    assert sum(map(len, structures)) == 600
    engine = Engine(make_model(attn_layer=0))
    found = compared(engine, engine, structures[:3])
    assert set(found) == {"model", "whole"}
    assert 0.1 < found["model"].gain < 10
