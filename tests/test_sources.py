"""What every source of structures promises: all of them, in order, from any mark, whatever is wrong with some."""

from __future__ import annotations

import gzip
import io
import json
import math
import os
import sys
import tarfile
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import h5py
import lmdb
import msgpack
import numpy as np
import pytest
from ase import Atoms
from ase.build import bulk
from ase.db import connect
from ase.io import write
from conftest import crystal, molecule

from dpa1_fast.sources import Item, Source, SourceError, find_sources

TYPE_MAP = ("H", "C", "O")
STRUCTURES = [molecule(4, 1), crystal(2), molecule(7, 3), crystal(4), crystal(5, 3)]


def extxyz(path: Path) -> str:
    write(path / "a.extxyz", STRUCTURES)
    return str(path / "a.extxyz")


def compressed(path: Path) -> str:
    (path / "a.xyz.gz").write_bytes(gzip.compress(Path(extxyz(path)).read_bytes()))
    return str(path / "a.xyz.gz")


def damaged_xyz(path: Path) -> str:
    """The second frame has no number where one should be, blank lines follow, and the last one is cut off."""
    lines = Path(extxyz(path)).read_text().splitlines()
    lines[8] = lines[8].replace(".", ",", 1)
    lines[13:13] = ["", "  "]
    (path / "a.extxyz").write_text("\r\n".join(lines[:-1]))
    return str(path / "a.extxyz")


def trajectory(path: Path) -> str:
    write(path / "a.traj", STRUCTURES)
    return str(path / "a.traj")


def xdatcar(path: Path) -> str:
    write(path / "XDATCAR", [crystal(2)] * 3, format="vasp-xdatcar")
    return str(path / "XDATCAR")


def poscar(path: Path) -> str:
    write(path / "POSCAR", crystal(2), format="vasp", direct=True)
    return str(path / "POSCAR")


def database(path: Path, name: str = "a.db") -> str:
    with connect(path / name) as db:
        for k, atoms in enumerate(STRUCTURES):
            db.write(atoms, batch=k, origin="here")
    del db[3]
    return str(path / name)


def json_database(path: Path) -> str:
    return database(path, "a.json")


def optimade(atoms: Atoms) -> dict[str, Any]:
    symbols = sorted(set(atoms.get_chemical_symbols()))
    return {
        "id": atoms.get_chemical_formula(),
        "type": "structures",
        "attributes": {
            "lattice_vectors": atoms.cell.tolist() if atoms.pbc.all() else None,
            "dimension_types": [int(p) for p in atoms.pbc],
            "cartesian_site_positions": atoms.positions.tolist(),
            "species_at_sites": [f"{s}-site" for s in atoms.symbols],
            "species": [{"name": f"{s}-site", "chemical_symbols": [s], "concentration": [1.0]} for s in symbols],
        },
    }


def optimade_lines(path: Path) -> str:
    """With the header, entries of other types, and a line that is cut short."""
    lines = [json.dumps(optimade(atoms)) for atoms in STRUCTURES]
    lines[2] = lines[2][:40]
    header = [json.dumps({"x-optimade": {"meta": {}}}), json.dumps({"type": "info", "id": "structures"})]
    (path / "a.jsonl").write_text("\n".join([*header, *lines, "", json.dumps({"type": "references"})]))
    return str(path / "a.jsonl")


def optimade_answer(path: Path) -> str:
    (path / "a.json").write_text(json.dumps({"data": [optimade(a) for a in STRUCTURES], "meta": {}}, indent=1))
    return str(path / "a.json")


def mixed_lines(path: Path) -> str:
    """Each line another way of saying it; the second one has two."""
    first, second, third = (crystal(k) for k in range(3))
    sites = [
        {"species": [{"element": s, "occu": 1}], "abc": p.tolist()}
        for s, p in zip(first.symbols, first.get_scaled_positions(), strict=True)
    ]
    pymatgen = {"lattice": {"matrix": first.cell.tolist()}, "sites": sites}
    plain = {"numbers": second.numbers.tolist(), "positions": second.positions.tolist()}
    plain |= {"cell": second.cell.tolist(), "pbc": True}
    worded = {"symbols": list(third.symbols), "positions": third.positions.tolist()}
    entries = [pymatgen, [plain, worded], {"structure": plain, "id": "p"}, optimade(first)["attributes"]]
    (path / "a.ndjson").write_text("\n".join(map(json.dumps, entries)))
    return str(path / "a.ndjson")


def npy(path: Path) -> str:
    """Two sets; a type of the second frame has no name."""
    for s in range(2):
        part = path / "system" / f"set.{s:03}"
        part.mkdir(parents=True)
        np.save(part / "coord.npy", np.random.default_rng(s).uniform(0, 9, (3, 12)).astype(np.float32))
        np.save(part / "box.npy", np.stack([np.eye(3).ravel() * 9] * 3))
        np.save(part / "real_atom_types.npy", np.array([[0, 1, 2, -1], [0, 9 if s == 0 else 0, 0, 0], [2] * 4]))
        np.save(part / "energy.npy", np.arange(3.0))
    (path / "system" / "type.raw").write_text("0 0 0 0")
    return str(path / "system")


def packed(array: Any) -> dict[str, Any]:
    array = np.asarray(array)
    return {"type": str(array.dtype), "shape": list(array.shape), "data": array.tobytes()}


def lmdb_set(path: Path) -> str:
    """One record is missing, one damaged."""
    with lmdb.open(str(path / "a.lmdb"), map_size=2**22) as environment, environment.begin(write=True) as transaction:
        for k, atoms in enumerate(STRUCTURES):
            types = np.array([TYPE_MAP.index(s) for s in atoms.symbols], np.int32)
            record = {"atom_types": packed(types), "coords": packed(atoms.positions), "energies": packed(float(k))}
            if atoms.pbc.all():
                record["cells"] = packed(atoms.cell.array)
            value = msgpack.packb(record) if k != 1 else b"\xc1\xc1"
            if k != 3:
                transaction.put(format(k, "012d").encode(), value)
        meta = {"nframes": len(STRUCTURES), "frame_idx_fmt": "012d", "type_map": TYPE_MAP}
        transaction.put(b"__metadata__", msgpack.packb(meta))
    return str(path / "a.lmdb")


def through_dpdata(path: Path) -> str:
    return f"dpdata:vasp/poscar:{poscar(path)}"


KINDS: dict[Callable[[Path], str], str] = {
    extxyz: "0 1 2 3 4",
    compressed: "0 1 2 3 4",
    damaged_xyz: "0 1! 2 3 -1!",
    trajectory: "0 1 2 3 4",
    xdatcar: "0 1 2",
    poscar: "0",
    database: "0 1 2 3",
    json_database: "0 1 2 3",
    optimade_lines: "0 1 2! 3 4",
    optimade_answer: "0 1 2 3 4",
    mixed_lines: "0 1 2 3 4",
    npy: "0 1! 2 3 4 5",
    lmdb_set: "0 1! 2 3! 4",
    through_dpdata: "0",
}
"""Who makes an input, and which frames come out of it; ! is one that can't be read."""


@pytest.fixture(params=KINDS, ids=lambda make: make.__name__)
def kind(request: pytest.FixtureRequest, tmp_path: Path) -> tuple[Source, str]:
    [source] = find_sources([request.param(tmp_path)], TYPE_MAP)
    return source, KINDS[request.param]


def the_same(a: Item, b: Item) -> bool:
    if (a.source, a.frame, a.error, a.mark) != (b.source, b.frame, b.error, b.mark):
        return False
    if a.atoms is None or b.atoms is None:
        return a.atoms is b.atoms
    return bool(a.atoms == b.atoms and a.atoms.info.keys() == b.atoms.info.keys())


def test_every_structure_in_order_and_every_fault_in_its_place(kind: tuple[Source, str]) -> None:
    source, frames = kind
    items = list(source.read())
    assert " ".join(f"{i.frame}{'' if i.error is None else '!'}" for i in items) == frames
    assert all((i.atoms is None) == (i.error is not None) and i.source == source.name for i in items)
    assert all("\n" not in str(i.error) for i in items)


def test_reading_goes_on_from_any_mark(kind: tuple[Source, str]) -> None:
    source, _ = kind
    items = list(source.read())
    for k, item in enumerate(items[:-1]):
        rest = list(source.read(json.loads(json.dumps(item.mark))))
        assert len(rest) == len(items) - k - 1
        assert all(map(the_same, rest, items[k + 1 :]))


def test_the_last_item_is_the_end(kind: tuple[Source, str]) -> None:
    *before, last = kind[0].read()
    assert (last.mark, last.share) == (None, 1.0)
    shares = [item.share for item in before if not math.isnan(item.share)]
    assert shares == sorted(shares)
    assert all(0 <= share <= 1 for share in shares)


def test_a_fingerprint_changes_with_the_content_and_with_nothing_else(kind: tuple[Source, str]) -> None:
    source, _ = kind
    before = source.fingerprint()
    list(source.read())
    assert source.fingerprint() == before != ""
    path = Path(source.name.split(":")[-1])
    path = next((path / name for name in ("data.mdb", "set.001/coord.npy") if (path / name).exists()), path)
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)
    assert source.fingerprint() != before


@pytest.mark.parametrize("make", [extxyz, trajectory, optimade_answer, compressed], ids=lambda make: make.__name__)
def test_structures_come_out_as_they_went_in(make: Callable[[Path], str], tmp_path: Path) -> None:
    [source] = find_sources([make(tmp_path)], TYPE_MAP)
    for item, atoms in zip(source.read(), STRUCTURES, strict=True):
        assert list(item.atoms.symbols) == list(atoms.symbols)
        assert np.abs(item.atoms.positions - atoms.positions).max() < 1e-8
        assert np.abs(item.atoms.cell[:] - atoms.cell[:]).max() < 1e-8
        assert (item.atoms.pbc == atoms.pbc).all()


@pytest.mark.parametrize("make", [extxyz, damaged_xyz, optimade_lines, optimade_answer], ids=lambda m: m.__name__)
def test_a_pipe_is_read_like_a_file(
    make: Callable[[Path], str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = make(tmp_path)
    content = b"\n \n" + Path(path).read_bytes()
    [pipe] = find_sources(["-"], TYPE_MAP)
    assert pipe.fingerprint() == ""

    def read(mark: Any = None) -> list[Item]:
        monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BufferedReader(io.BytesIO(content))))
        return list(pipe.read(mark))

    items, expected = read(), list(find_sources([path], TYPE_MAP)[0].read())
    assert [(i.frame, i.error, i.atoms) for i in items] == [(i.frame, i.error, i.atoms) for i in expected]
    for k, item in enumerate(items[:-1]):
        assert all(map(the_same, read(item.mark), items[k + 1 :]))


def test_a_pattern_is_sorted_and_a_folder_is_what_is_in_it(tmp_path: Path) -> None:
    for name in ("b", "a"):
        write(tmp_path / f"{name}.vasp", bulk("Al"), format="vasp")
        (tmp_path / "data" / name).mkdir(parents=True)
        npy(tmp_path / "data" / name)
    lmdb_set(tmp_path / "data")
    names = [source.name for source in find_sources([f"{tmp_path}/*.vasp", f"{tmp_path}/data"], TYPE_MAP)]
    expected = ["a.vasp", "b.vasp", "data/a/system", "data/a.lmdb", "data/b/system"]
    assert names == [str(tmp_path / name) for name in expected]


@pytest.mark.parametrize(
    ("argument", "reason"),
    [
        ("none-*.xyz", "none-\\*.xyz: no such file"),
        ("empty", "without DeePMD-kit data"),
        ("dpdata:no/such:here", "no/such"),
    ],
)
def test_an_argument_without_structures_is_named(
    argument: str, reason: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "empty").mkdir()
    (tmp_path / "here").touch()
    with pytest.raises(SourceError, match=reason):
        find_sources([argument], TYPE_MAP)


def test_an_lmdb_without_its_package_says_what_to_install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "lmdb", None)
    (tmp_path / "data.mdb").touch()
    with pytest.raises(SourceError, match=r"pip install 'dpa1-fast\[dpdata\]'"):
        find_sources([str(tmp_path)], TYPE_MAP)


# --- archives, slices, HDF5 ------------------------------------------------------------------------------------------


def members(path: Path) -> dict[str, bytes]:
    """Names with contents: structures in three formats, what is none, and names that would lead out of a folder."""
    write(path / "POSCAR", crystal(2), format="vasp")
    return {
        "a/b.extxyz": Path(extxyz(path)).read_bytes(),
        "../../POSCAR": (path / "POSCAR").read_bytes(),
        "/abs/c.jsonl.gz": gzip.compress(json.dumps(optimade(crystal(3))).encode()),
        "notes.txt": b"nothing",
        "__MACOSX/a/._b.extxyz": b"\0",
    }


def zipped(path: Path) -> str:
    with zipfile.ZipFile(path / "a.zip", "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in members(path).items():
            archive.writestr(name, content)
    return str(path / "a.zip")


def tarred(path: Path) -> str:
    with tarfile.open(path / "a.tar.gz", "w:gz") as archive:
        for name, content in members(path).items():
            info = tarfile.TarInfo(name)
            info.size = len(content)
            archive.addfile(info, io.BytesIO(content))
        link = tarfile.TarInfo("link.xyz")
        link.type, link.linkname = tarfile.SYMTYPE, "/etc/passwd"
        archive.addfile(link)
    return str(path / "a.tar.gz")


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
    folder = Path(npy(tmp_path))
    wanted = list(find_sources([str(folder)], TYPE_MAP)[0].read())
    with h5py.File(tmp_path / "a.hdf5", "w") as file:
        for name in ("one", "deep/two"):
            for path in folder.glob("set.*/*.npy"):
                file[f"{name}/{path.parent.name}/{path.name}"] = np.load(path)
            file[f"{name}/type.raw"] = np.zeros(4, int)
            file[f"{name}/nopbc"] = False
        file["one/type_map.raw"] = ["H", "C", "O"]
        file["away"] = h5py.ExternalLink("other.hdf5", "/")
        file["huge/type.raw"] = np.zeros(1, int)
        file["huge"].create_dataset("set.000/coord.npy", (2**40, 3), chunks=(1024, 3))
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


def test_a_name_that_is_not_utf8_is_a_name(tmp_path: Path) -> None:
    path = Path(os.fsdecode(os.fsencode(tmp_path) + b"/caf\xe9.extxyz"))
    path.write_bytes(Path(extxyz(tmp_path)).read_bytes())
    [source] = find_sources([f"{tmp_path}/caf*"], TYPE_MAP)
    assert os.fsencode(source.name) == os.fsencode(path)
    assert [i.error for i in source.read()] == [None] * 5
    database(tmp_path)
    os.rename(tmp_path / "a.db", os.fsencode(tmp_path) + b"/\xe9.db")
    [source] = find_sources([os.fsdecode(os.fsencode(tmp_path) + b"/\xe9.db")], TYPE_MAP)
    assert [i.error for i in source.read()] == [None] * 4
