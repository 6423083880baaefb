"""Archives, slices of files and HDF5: structures in them are what they are elsewhere."""

from __future__ import annotations

import gzip
import io
import json
import shutil
import tarfile
import zipfile
from collections.abc import Callable
from pathlib import Path

import h5py
import pytest
from source_cases import STRUCTURES, TYPE_MAP, extxyz, hdf5_systems, npy, tarred, the_same, zipped

from dpa1_fast.sources import find_sources


@pytest.mark.parametrize("make", [zipped, tarred], ids=lambda make: make.__name__)
def test_an_archive_is_its_members_in_their_order(make: Callable[[Path], str], tmp_path: Path) -> None:
    name = make(tmp_path)
    [source] = find_sources([name], TYPE_MAP)
    found = list(source.read())
    labels = ["a/b.extxyz"] * 5 + ["../../POSCAR", "/abs/c.jsonl.gz", "notes.txt"]
    assert [i.source for i in found] == [f"{name}/{label}" for label in labels]
    assert [i.frame for i in found] == [0, 1, 2, 3, 4, 0, 0, -1]
    assert [i.error is None for i in found] == [True] * 7 + [False]
    assert "dpa1-fast-" not in str(found[-1].error)
    assert (found[4].atoms.get_chemical_formula(), found[-1].mark) == (STRUCTURES[4].get_chemical_formula(), None)
    for k, item in enumerate(found[:-1]):
        rest = list(source.read(json.loads(json.dumps(item.mark))))
        assert all(map(the_same, rest, found[k + 1 :]))
        assert len(rest) == len(found) - k - 1


def test_what_unpacks_to_gigabytes_is_refused_before_it_does(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "a.zip", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("bomb.xyz", bytes(80 * 2**20))
        archive.writestr("b.xyz", "1\n\nH 0 0 0\n")
    bomb, good = find_sources([str(tmp_path / "a.zip")], TYPE_MAP)[0].read()
    assert "unpacks to more than 250 times its size" in str(bomb.error)
    assert good.error is None
    with tarfile.open(tmp_path / "a.tar.gz", "w:gz") as archive:
        info = tarfile.TarInfo("bomb.xyz")
        info.size = 80 * 2**20
        archive.addfile(info, io.BytesIO(bytes(info.size)))
    (tmp_path / "POSCAR.gz").write_bytes(gzip.compress(b"Al\n1\n" + bytes(80 * 2**20)))
    for name in ("a.tar.gz", "POSCAR.gz"):
        found = list(find_sources([str(tmp_path / name)], TYPE_MAP)[0].read())
        assert all("unpacks to more than 250 times its size" in str(item.error) for item in found)


def test_a_damaged_member_costs_no_other(tmp_path: Path) -> None:
    path = Path(zipped(tmp_path))
    content = bytearray(path.read_bytes())
    at = content.index(b"POSCAR") + 20
    content[at : at + 8] = bytes(8)
    path.write_bytes(content)
    found = list(find_sources([str(path)], TYPE_MAP)[0].read())
    assert [i.error is None for i in found] == [True] * 5 + [False, True, False]
    assert "cannot be unpacked" in str(found[5].error)


@pytest.mark.parametrize(
    ("text", "frames"),
    [
        ("1", [1]), ("-1", [4]), ("1:3", [1, 2]), (":2", [0, 1]), ("::2", [0, 2, 4]), ("-2:", [3, 4]),
        ("1:-1:2", [1, 3]), ("7:9", [-1]), (":", [0, 1, 2, 3, 4]),
    ],
)  # fmt: skip
def test_structures_are_chosen_as_in_ase(text: str, frames: list[int], tmp_path: Path) -> None:
    [source] = find_sources([f"{extxyz(tmp_path)}@{text}"], TYPE_MAP)
    found = list(source.read())
    assert [i.frame for i in found] == frames
    assert source.name.endswith(f"@{text}")
    for k, item in enumerate(found[:-1]):
        assert all(map(the_same, source.read(item.mark), found[k + 1 :]))
    (tmp_path / "x@2").write_bytes((tmp_path / "a.extxyz").read_bytes())
    assert find_sources([str(tmp_path / "x@2")], TYPE_MAP)[0].name.endswith("x@2")


def test_systems_in_hdf5_are_what_folders_are(tmp_path: Path) -> None:
    wanted = list(find_sources([npy(tmp_path)], TYPE_MAP)[0].read())
    shutil.rmtree(tmp_path / "system")
    with h5py.File(hdf5_systems(tmp_path), "a") as file:
        file["away"] = h5py.ExternalLink("other.hdf5", "/")
        file["huge/type.raw"] = [0]
        file["huge"].create_dataset("set.000/coord.npy", (2**40, 3), "f8", chunks=(1024, 3))
    [source] = find_sources([str(tmp_path / "a.hdf5")], TYPE_MAP)
    found = list(source.read())
    assert [i.source.rpartition("#")[2] for i in found] == ["/deep/two"] * 6 + ["/huge"] + ["/one"] * 6
    assert "unpacks to more than" in str(found[6].error)
    for mine in (found[:6], found[7:]):
        assert [(i.atoms, i.error is None) for i in mine] == [(i.atoms, i.error is None) for i in wanted]
    for k, item in enumerate(found[:-1]):
        assert all(map(the_same, source.read(json.loads(json.dumps(item.mark))), found[k + 1 :]))
    [one] = find_sources([f"{tmp_path}/a.hdf5#/one"], TYPE_MAP)
    assert [i.atoms for i in one.read()] == [i.atoms for i in wanted]
