"""DeePMD-kit's own data, as folders and as LMDB: values and labels as they were written, faults by name."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import dpdata
import lmdb
import msgpack
import numpy as np
import pytest
from dpdata.formats.deepmd.lmdb import dump_systems

from dpa1_fast.errors import StructureError
from dpa1_fast.sources import Item, find_sources
from dpa1_fast.sources.deepmd_data import read_system, systems

RNG = np.random.default_rng(5)


def labelled(frames: int = 3, periodic: bool = True) -> dpdata.LabeledSystem:
    """A system of O and H, atoms in no order."""
    data = {
        "atom_names": ["H", "O"],
        "atom_numbs": [2, 1],
        "atom_types": np.array([0, 1, 0]),
        "orig": np.zeros(3),
        "coords": RNG.uniform(0, 5, (frames, 3, 3)),
        "cells": np.stack([np.diag([7.0, 8, 9])] * frames),
        "energies": RNG.normal(size=frames),
        "forces": RNG.normal(size=(frames, 3, 3)),
        "virials": RNG.normal(size=(frames, 3, 3)),
    }
    return dpdata.LabeledSystem(data={**data, **({} if periodic else {"nopbc": True})})


def items(path: Path) -> list[Item]:
    return [item for source in find_sources([str(path)], ("O", "H")) for item in source.read()]


def check(read: list[Item], system: dpdata.LabeledSystem, periodic: bool = True) -> None:
    data = system.data
    assert len(read) == len(data["coords"])
    for k, item in enumerate(read):
        atoms = item.atoms
        assert [data["atom_names"][t] for t in data["atom_types"]] == list(atoms.symbols)
        assert np.array_equal(atoms.positions, data["coords"][k])
        assert np.array_equal(atoms.cell.array, data["cells"][k] * periodic)
        assert atoms.pbc.tolist() == [periodic] * 3
        assert atoms.get_potential_energy() == data["energies"][k]
        assert np.array_equal(atoms.get_forces(), data["forces"][k])
        assert np.array_equal(atoms.info["virial"], data["virials"][k])


@pytest.mark.parametrize("periodic", [True, False])
def test_folders_and_lmdb_as_dpdata_writes_them(periodic: bool, tmp_path: Path) -> None:
    system = labelled(5, periodic)
    system.to("deepmd/npy", tmp_path / "npy", set_size=2, prec=np.float64)
    dump_systems([system, labelled(2)], tmp_path / "a.lmdb", type_map=["C", "O", "H"])
    check(items(tmp_path / "npy"), system, periodic)
    check(items(tmp_path / "a.lmdb")[:5], system, periodic)
    assert [i.frame for i in items(tmp_path / "a.lmdb")] == list(range(7))


def test_parameters_stay_with_their_frame(tmp_path: Path) -> None:
    labelled(2).to("deepmd/npy", tmp_path / "a")
    part = tmp_path / "a" / "set.000"
    np.save(part / "fparam.npy", [[1.0, 2.0], [3.0, 4.0]])
    np.save(part / "aparam.npy", np.arange(6.0).reshape(2, 3))
    first, second = items(tmp_path)
    assert second.atoms.info["fparam"].tolist() == [3.0, 4.0]
    assert first.atoms.arrays["aparam"].tolist() == [[0.0], [1.0], [2.0]]


def break_file(name: str, content: Any) -> Any:
    def do(folder: Path) -> None:
        if content is None:
            (folder / name).unlink()
        elif isinstance(content, str):
            (folder / name).write_text(content)
        else:
            np.save(folder / name, content, allow_pickle=True)

    return do


@pytest.mark.parametrize(
    ("name", "content", "reason"),
    [
        ("type.raw", "0 one", "cannot read type.raw"),
        ("set.000/coord.npy", None, "has no coord.npy"),
        ("set.000/coord.npy", np.zeros((3, 8)), "has 8 numbers a frame, expected 9"),
        ("set.000/coord.npy", "no array", "cannot be read"),
        ("set.000/coord.npy", np.array([{"any": "object"}]), "cannot be read"),
        ("set.000/box.npy", None, "has no box.npy"),
        ("set.000/force.npy", np.zeros((2, 9)), "has 2 frames, coord.npy has 3"),
    ],
)
def test_a_damaged_folder_says_which_file(name: str, content: Any, reason: str, tmp_path: Path) -> None:
    labelled().to("deepmd/npy", tmp_path)
    break_file(name, content)(tmp_path)
    [item] = items(tmp_path)
    assert (item.frame, item.mark) == (-1, None)
    assert reason in str(item.error)
    with pytest.raises(StructureError, match=reason):
        list(read_system(tmp_path, ("O", "H")))


def test_a_type_that_is_no_element_fails_where_it_is_used(tmp_path: Path) -> None:
    labelled(2).to("deepmd/npy", tmp_path)
    (tmp_path / "type_map.raw").write_text("H water")
    assert [i.frame for i in items(tmp_path)] == [0, 1]
    assert all("water: no chemical symbol, and no type of the model" in str(i.error) for i in items(tmp_path))
    (tmp_path / "type.raw").write_text("0 0 0")
    assert all(i.error is None for i in items(tmp_path))


def test_an_empty_set_holds_nothing(tmp_path: Path) -> None:
    (tmp_path / "set.000").mkdir()
    (tmp_path / "type.raw").write_text("0 1 1")
    (tmp_path / "nopbc").touch()
    np.save(tmp_path / "set.000" / "coord.npy", np.zeros((0, 9)))
    assert systems(tmp_path) == [tmp_path]
    assert [(i.frame, i.error) for i in items(tmp_path)] == [(-1, "holds no structure")]


@pytest.mark.parametrize(
    ("meta", "reason"),
    [
        (None, "__metadata__ is missing"),
        (b"\xc1", "__metadata__ is damaged"),
        ({"nframes": "all"}, "nframes 'all'"),
        ({"nframes": 1, "frame_idx_fmt": "999999999d"}, "frame_idx_fmt '999999999d'"),
        ({"nframes": 10**12}, "promises 1000000000000 frames, 1 are there"),
    ],
)
def test_a_damaged_lmdb_says_what_is_wrong(meta: Any, reason: str, tmp_path: Path) -> None:
    dump_systems([labelled(1)], tmp_path / "a.lmdb")
    with (
        lmdb.open(str(tmp_path / "a.lmdb"), map_size=2**20) as environment,
        environment.begin(write=True) as transaction,
    ):
        if meta is None:
            transaction.delete(b"__metadata__")
        else:
            transaction.put(b"__metadata__", meta if isinstance(meta, bytes) else msgpack.packb(meta))
    [item] = items(tmp_path)
    assert item.frame == -1
    assert reason in str(item.error)


@pytest.mark.parametrize(
    ("changed", "reason"),
    [
        ({"coords": None}, "has no atom_types or no coords"),
        ({"coords": {"type": "float64", "shape": [2, 3], "data": bytes(48)}}, "has 6 coordinates for 3 atoms"),
        ({"coords": {"type": "float64", "shape": [3, 3], "data": bytes(71)}}, "ValueError"),
        ({"coords": {"type": "object", "shape": [9], "data": bytes(72)}}, "an array of object"),
        ({"atom_types": {"type": "int32", "shape": [3], "data": b"\7\0\0\0" * 3}}, "type 7 has no name"),
    ],
)
def test_a_damaged_record_costs_no_other(changed: dict[str, Any], reason: str, tmp_path: Path) -> None:
    dump_systems([labelled(3)], tmp_path / "a.lmdb")
    with (
        lmdb.open(str(tmp_path / "a.lmdb"), map_size=2**20) as environment,
        environment.begin(write=True) as transaction,
    ):
        record = msgpack.unpackb(transaction.get(b"000000000001")) | changed
        record = {k: v for k, v in record.items() if v is not None}
        transaction.put(b"000000000001", msgpack.packb(record))
    first, bad, last = items(tmp_path)
    assert (first.error, bad.frame, bad.atoms, last.error) == (None, 1, None, None)
    assert reason in str(bad.error)
