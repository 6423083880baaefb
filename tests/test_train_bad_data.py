"""Bad data is named in one line before the first step."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest
from commands import run_command
from conftest import crystal, make_model, molecule
from training import NAMES, labelled, periodic, write_data, write_system, write_toml

from dpa1_fast import Engine
from dpa1_fast.errors import DPA1Error, DPA1Warning
from dpa1_fast.train.command import read_options
from dpa1_fast.train.prepare import prepare


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """A folder with sound data."""
    write_data(tmp_path)
    return tmp_path


def said(folder: Path) -> str:
    """The line that refuses the data of a folder."""
    with pytest.raises(DPA1Error) as error:
        prepare(read_options(write_toml(folder)))
    assert "\n" not in str(error.value)
    return str(error.value)


def change(folder: Path, name: str, **new: float) -> None:
    """Puts a value into the array of a system."""
    path = folder / "set.000" / f"{name}.npy"
    array = np.load(path)
    array[1, 2] = new["to"]
    np.save(path, array)


@pytest.mark.parametrize("name", ["force", "virial"])
def test_labels_that_are_not_finite(data: Path, name: str) -> None:
    change(data / "train" / "4", name, to=np.nan)
    told = said(data)
    assert "4 frame 1" in told
    assert name in told
    assert "not finite" in told


def test_an_energy_that_is_not_finite(data: Path) -> None:
    path = data / "train" / "3" / "set.000" / "energy.npy"
    np.save(path, np.full_like(np.load(path), np.inf))
    assert "frame 0: the energy is not finite" in said(data)


def test_wrong_shapes(data: Path) -> None:
    path = data / "train" / "5" / "set.000" / "force.npy"
    np.save(path, np.load(path)[:, :9])
    assert "force.npy: has 9 numbers a frame, expected 15" in said(data)
    np.save(path, np.load(path)[:2])
    assert "has 2 frames" in said(data)


def test_an_element_that_is_not_in_the_type_map(data: Path) -> None:
    source = write_toml(data)
    source.write_text(source.read_text().replace("rcut = 4.0", 'type_map = ["H", "O"]\nrcut = 4.0'))
    with pytest.raises(DPA1Error, match="C") as error:
        prepare(read_options(source))
    assert "H O" in str(error.value)


def test_no_structure_at_all(data: Path) -> None:
    shutil.rmtree(data / "train")
    assert "train" in said(data)
    (data / "train").mkdir()
    assert "train" in said(data)


def test_a_missing_virial(data: Path) -> None:
    (data / "train" / "3" / "set.000" / "virial.npy").unlink()
    with pytest.warns(DPA1Warning, match=r"1 of 3 training systems lack virials \(.*3\)"):
        prepare(read_options(write_toml(data)))
    for n in (4, 5):
        (data / "train" / str(n) / "set.000" / "virial.npy").unlink()
    assert "no virials, which the loss asks for; give them, or set their prefactors" in said(data)


def test_frames_that_are_there_twice(data: Path) -> None:
    shutil.copytree(data / "train" / "4", data / "train" / "again")
    with pytest.warns(DPA1Warning, match="4 training frames are copies of others"):
        prepare(read_options(write_toml(data)))
    path = data / "train" / "again" / "set.000" / "energy.npy"
    np.save(path, np.load(path) + 1.0)
    assert "is the same structure as" in said(data)


def test_validation_data_that_is_training_data_too(data: Path) -> None:
    shutil.copytree(data / "train" / "4", data / "valid" / "again")
    with pytest.warns(DPA1Warning, match="4 of 7 validation frames are training frames too"):
        prepare(read_options(write_toml(data)))


def trajectory(folder: Path, force: float = 1.0, energy: float = 1.0, shuffled: bool = False) -> None:
    """A path of small steps along the forces of a teacher, in wrong units."""
    engine, atoms = Engine(make_model(), precision="float64"), molecule(8, 3)
    atoms.set_cell(np.eye(3) * 30)
    atoms.pbc = True
    frames, rng = [], np.random.default_rng(0)
    for _ in range(14):
        frames.append(atoms.copy())
        f = engine.evaluate([atoms])[0].forces
        atoms.positions += 0.02 * f / np.abs(f).max() + rng.normal(0, 0.004, f.shape)
    rows = labelled(frames)
    for row in rows:
        row["force"] = 10 * (row["force"][::-1] if shuffled else row["force"] * force)
        row["energy"] = 10 * row["energy"] * energy
    write_system(folder, rows, names=NAMES)


@pytest.mark.parametrize(
    ("wrong", "words"),
    [
        ({"force": 1 / 51.4221}, "eV and forces in Hartree/bohr"),
        ({"energy": 1 / 27.2114}, "energies in Hartree"),
        ({"energy": 23.0605}, "energies in kcal/mol"),
        ({"force": -1.0}, "the other sign"),
        ({"energy": 1 / 8}, "energies per atom"),
        ({"shuffled": True}, "belong to other atoms or frames"),
    ],
)
def test_units_that_the_data_betray(data: Path, wrong: dict[str, float], words: str) -> None:
    trajectory(data / "train" / "path", **wrong)
    told = said(data)
    assert "forces are not the gradient of the energies" in told
    assert words in told


def test_right_units_and_data_that_cannot_tell_pass(data: Path) -> None:
    trajectory(data / "train" / "path")
    write_system(data / "train" / "other", labelled(periodic(6, 4, 500)))
    prepare(read_options(write_toml(data)))


def test_units_show_without_an_order_of_the_frames(data: Path) -> None:
    """Frames of a path that were shuffled: each is near to another one all the same."""
    trajectory(data / "train" / "path", force=1 / 51.4221)
    order = np.random.default_rng(3).permutation(14)
    for path in (data / "train" / "path" / "set.000").glob("*.npy"):
        np.save(path, np.load(path)[order])
    assert "eV and forces in Hartree/bohr" in said(data)


def test_other_frame_parameters_give_other_energies(data: Path) -> None:
    trajectory(data / "train" / "path")
    shutil.copytree(data / "train" / "path", data / "train" / "hot")
    for name, hot in (("path", np.arange(14) % 2), ("hot", np.full(14, 2))):
        folder = data / "train" / name / "set.000"
        np.save(folder / "fparam.npy", hot[:, None].astype(float))
        np.save(folder / "energy.npy", np.load(folder / "energy.npy") + 5.0 * hot[:, None])
    text = write_toml(data).read_text()
    more = "neuron = [8]\nnumb_fparam = 1\ndefault_fparam = [0.0]"
    (data / "input.toml").write_text(text.replace("neuron = [8]", more))
    prepare(read_options(data / "input.toml"))


def strained(folder: Path, virial: float = 1.0) -> None:
    """A crystal in cells that breathe and shear, with a teacher's labels and virials in other units."""
    atoms, frames, rng = crystal(3, 5), [], np.random.default_rng(1)
    for _ in range(12):
        entries = rng.uniform(-0.015, 0.015, (3, 3))
        new = atoms.copy()
        new.set_cell(atoms.cell[:] @ (np.eye(3) + entries + entries.T), scale_atoms=True)
        frames.append(new)
    rows = labelled(frames)
    for row in rows:
        row["virial"] = row["virial"] * virial
    write_system(folder, rows, names=NAMES)


@pytest.mark.parametrize(
    ("factor", "words"),
    [(-1.0, "the other sign"), (160.21766, "GPa"), (1602.1766, "kbar"), (1 / 27.2114, "Hartree"), (0.2, "per atom")],
)
def test_virials_that_are_not_the_derivative_of_the_energies(data: Path, factor: float, words: str) -> None:
    strained(data / "train" / "cells", factor)
    told = said(data)
    assert "virials are not the derivative of the energies" in told
    assert words in told
    assert "give −dE/dstrain in eV" in told


def test_right_virials_pass(data: Path) -> None:
    strained(data / "train" / "cells")
    prepare(read_options(write_toml(data)))


def scaled(folder: Path, factor: float) -> None:
    """All coordinates and cells in other units."""
    for name in ("coord", "box"):
        for path in folder.glob(f"**/{name}.npy"):
            np.save(path, np.load(path) * factor)


def test_coordinates_in_nm_are_refused_and_in_bohr_are_noted(data: Path) -> None:
    scaled(data, 0.1)
    assert "coordinates and cells are not in Å (in nm, or scaled)" in said(data)
    scaled(data, 10 / 0.529177)
    with pytest.warns(DPA1Warning, match="coordinates may be in bohr"):
        prepare(read_options(write_toml(data)))


def test_copies_are_found_where_atoms_were_moved_by_lattice_vectors(data: Path) -> None:
    shutil.copytree(data / "train" / "4", data / "train" / "again")
    path = data / "train" / "again" / "set.000" / "coord.npy"
    coord, box = np.load(path).reshape(4, 4, 3), np.load(path.with_name("box.npy")).reshape(4, 3, 3)
    coord[:, 1] += box[:, 0] - 2 * box[:, 2]
    np.save(path, coord.reshape(4, 12))
    with pytest.warns(DPA1Warning, match="4 training frames are copies of others"):
        prepare(read_options(write_toml(data)))


def test_what_is_odd_is_one_line_before_the_first_step(data: Path) -> None:
    (data / "train" / "3" / "set.000" / "virial.npy").unlink()
    shutil.copytree(data / "train" / "4", data / "train" / "again")
    done = run_command("train", write_toml(data, steps=1), "-o", data / "out", "-t", 1)
    assert done.returncode == 0, done.stderr
    lines = done.stderr.splitlines()
    first = next(k for k, line in enumerate(lines) if line.startswith("step 1/"))
    told = [line for line in lines[:first] if line.startswith("note: ")]
    assert len(told) == 2
    assert "1 of 4 training systems lack virials" in told[0]
    assert "4 training frames are copies of others" in told[1]
