"""Descriptors in files are those of ``DeepPot.eval_descriptor``, whatever the pool is made of."""

from __future__ import annotations

import csv
import zipfile
from pathlib import Path

import h5py
import numpy as np
import pytest
from ase import Atoms
from ase.io import read, write
from commands import run_command
from conftest import make_model, molecule
from training import labelled, periodic, write_data, write_system

from dpa1_fast import DeepPot, Engine
from dpa1_fast.checkpoint import write_model
from dpa1_fast.sampling.embed import file_names
from dpa1_fast.sampling.growing import GrowingNpy


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("model") / "model.safetensors"
    write_model(make_model(), path)
    return path


def test_a_file_a_system_shaped_as_dp_eval_desc_shapes_it(model: Path, tmp_path: Path) -> None:
    write_data(tmp_path)
    done = run_command("embed", model, tmp_path / "train", "--output", tmp_path / "desc", "--types")
    assert done.returncode == 0, done.stderr
    assert "descriptors of 12 structures, 48 atoms" in done.stdout
    potential = DeepPot(model)
    for n in (3, 4, 5):
        part = tmp_path / "train" / str(n) / "set.000"
        coord, box, types = (np.load(part / f"{x}.npy") for x in ("coord", "box", "real_atom_types"))
        truth = potential.eval_descriptor(coord, box, types, mixed_type=True)
        found = np.load(tmp_path / "desc" / f"{n}.npy")
        assert found.shape == (4, n, potential.config.dim_descrpt)
        np.testing.assert_allclose(found, truth, rtol=0, atol=1e-13)
    np.testing.assert_array_equal(np.load(tmp_path / "desc" / "type_embedding.npy"), potential.eval_typeebd()[:-1])
    assert (tmp_path / "desc" / "type_map.raw").read_text().split() == potential.get_type_map()


def mixed(folder: Path) -> list[Atoms]:
    structures = [molecule(4 + k, seed=k) for k in range(5)]
    structures[2] = Atoms("HPt", [[0, 0, 0], [0, 0, 2]])
    structures[3].positions[1] = structures[3].positions[0]
    write(folder / "pool.extxyz", structures)
    return read(folder / "pool.extxyz", ":")


def test_structures_of_many_sizes_and_those_that_fail(model: Path, tmp_path: Path) -> None:
    structures = mixed(tmp_path)
    done = run_command("embed", model, tmp_path / "pool.extxyz", "-o", tmp_path / "desc", "--dtype", "float32")
    assert done.returncode == 1
    assert "2 failed" in done.stdout
    rows, counts = (np.load(tmp_path / "desc" / name) for name in ("pool.npy", "pool.natoms.npy"))
    assert counts.tolist() == [4, 5, 0, 0, 8]
    assert rows.dtype == np.float32
    truth = Engine(make_model()).descriptors([structures[k] for k in (0, 1, 4)])
    np.testing.assert_allclose(rows, np.concatenate(truth), rtol=1e-5, atol=1e-6)
    with (tmp_path / "desc" / "failures.csv").open() as file:
        told = list(csv.DictReader(file))
    assert [r["frame"] for r in told] == ["2", "3"]
    assert "Pt" in told[0]["error"]


def test_one_hdf5_file_for_all_and_means(model: Path, tmp_path: Path) -> None:
    structures = mixed(tmp_path)
    out = tmp_path / "desc.h5"
    (tmp_path / "failures.csv").write_text("a screening's")
    done = run_command("embed", model, tmp_path / "pool.extxyz", "-o", out, "--mean", "--types")
    assert done.returncode == 1, done.stderr
    assert len((tmp_path / "desc.failures.csv").read_text().splitlines()) == 3
    assert (tmp_path / "failures.csv").read_text() == "a screening's"
    truth = Engine(make_model()).descriptors([structures[k] for k in (0, 1, 4)])
    with h5py.File(out) as file:
        np.testing.assert_allclose(file["descriptor"][()], [x.mean(0) for x in truth], rtol=0, atol=1e-13)
        assert file["frame"][()].tolist() == [0, 1, 4]
        assert file["natoms"][()].tolist() == [4, 5, 8]
        assert len(file["type"]) == 17
        assert [x.decode() for x in file["type_map"]] == ["H", "C", "O"]
        assert file["type_embedding"].shape == (3, 5)


def test_nothing_that_can_be_done_is_exit_code_2_and_a_wrong_place_is_named(model: Path, tmp_path: Path) -> None:
    write(tmp_path / "pool.extxyz", [Atoms("Pt", [[0, 0, 0]])])
    assert run_command("embed", model, tmp_path / "pool.extxyz", "-o", tmp_path / "a").returncode == 2
    done = run_command("embed", model, tmp_path / "pool.extxyz", "-o", tmp_path / "pool.extxyz")
    assert done.returncode == 2
    assert "is a file; choose another --output" in done.stderr


def test_files_are_called_by_what_tells_their_systems_apart(model: Path, tmp_path: Path) -> None:
    assert file_names(["a/train/4", "a/valid/4"]) == ["train__4", "valid__4"]
    assert file_names(["x/4", "x/5"]) == ["4", "5"]
    assert file_names(["p.extxyz", "p.extxyz"]) == ["p", "p-2"]
    assert file_names(["a/w.v1", "a/w.v2", "a/w-2"]) == ["w", "w-2", "w-2-2"]
    assert file_names(["."]) == [Path.cwd().name]
    write_system(tmp_path / "s", labelled(periodic(3, 2)))
    done = run_command("embed", model, tmp_path / "s", tmp_path / "s", "-o", tmp_path / "d")
    assert done.returncode == 0, done.stderr
    np.testing.assert_array_equal(np.load(tmp_path / "d" / "s.npy"), np.load(tmp_path / "d" / "s-2.npy"))


def test_a_file_that_breaks_off_is_done_as_far_as_it_goes(model: Path, tmp_path: Path) -> None:
    write(tmp_path / "whole.extxyz", [molecule(4, seed) for seed in range(3)])
    lines = (tmp_path / "whole.extxyz").read_text().splitlines()
    (tmp_path / "cut.extxyz").write_text("\n".join(lines[:-2]) + "\n")
    done = run_command("embed", model, tmp_path / "cut.extxyz", tmp_path / "whole.extxyz", "-o", tmp_path / "d")
    assert done.returncode == 1, done.stderr
    assert "cut.extxyz" in (tmp_path / "d" / "failures.csv").read_text()
    cut, whole = (np.load(tmp_path / "d" / f"{name}.npy") for name in ("cut", "whole"))
    np.testing.assert_array_equal(cut.reshape(2, 4, -1), whole[:2])


def test_systems_in_one_file_and_parts_of_a_file_have_files_of_their_own(model: Path, tmp_path: Path) -> None:
    pool = [molecule(4, seed) for seed in range(4)]
    for name in ("a", "b"):
        write(tmp_path / f"{name}.xyz", pool)
    with zipfile.ZipFile(tmp_path / "pool.zip", "w") as archive:
        for name in ("a", "b"):
            archive.write(tmp_path / f"{name}.xyz", f"in/{name}.xyz")
    data = tmp_path / "pool.zip", f"{tmp_path}/a.xyz@:3", f"{tmp_path}/a.xyz@3:"
    done = run_command("embed", model, *data, "-o", tmp_path / "d")
    assert done.returncode == 0, done.stderr
    found = {p.name: len(np.load(p)) for p in (tmp_path / "d").iterdir()}
    assert found == {"pool__in__a.npy": 4, "pool__in__b.npy": 4, "a.npy": 3, "a-2.npy": 1}


def test_a_file_of_rows_is_whole_or_not_there(tmp_path: Path) -> None:
    file = GrowingNpy(tmp_path / "a.npy", 3, np.float64)
    file.append(np.arange(6.0).reshape(2, 3))
    assert not (tmp_path / "a.npy").exists()
    file.finish(1, 2, 3)
    np.testing.assert_array_equal(np.load(tmp_path / "a.npy"), np.arange(6.0).reshape(1, 2, 3))
