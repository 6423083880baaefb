"""Inputs in every format that is read, each made by a function of a folder; and what comes out of them."""

from __future__ import annotations

import gzip
import io
import json
import tarfile
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import h5py
import lmdb
import msgpack
import numpy as np
from ase import Atoms
from ase.db import connect
from ase.io import write
from conftest import crystal, molecule

from dpa1_fast.sources import Item

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


def the_same(a: Item, b: Item) -> bool:
    if (a.source, a.frame, a.error, a.mark) != (b.source, b.frame, b.error, b.mark):
        return False
    if a.atoms is None or b.atoms is None:
        return a.atoms is b.atoms
    return bool(a.atoms == b.atoms and a.atoms.info.keys() == b.atoms.info.keys())


def hdf5_systems(path: Path) -> str:
    """The frames of ``npy`` twice."""
    folder = Path(npy(path))
    with h5py.File(path / "a.hdf5", "w") as file:
        for name in ("one", "deep/two"):
            for part in folder.glob("set.*/*.npy"):
                file[f"{name}/{part.parent.name}/{part.name}"] = np.load(part)
            file[f"{name}/type.raw"] = np.zeros(4, int)
            file[f"{name}/nopbc"] = False
        file["one/type_map.raw"] = ["H", "C", "O"]
    return str(path / "a.hdf5")


def cif(path: Path) -> str:
    write(path / "a.cif", [crystal(2), crystal(3)])
    return str(path / "a.cif")


def lammps_dump(path: Path) -> str:
    frames = []
    for step, atoms in enumerate(STRUCTURES[:2]):
        rows = [
            f"{k + 1} {s} {x:.6f} {y:.6f} {z:.6f}"
            for k, (s, (x, y, z)) in enumerate(zip(atoms.symbols, atoms.positions, strict=True))
        ]
        frames += ["ITEM: TIMESTEP", str(step), "ITEM: NUMBER OF ATOMS", str(len(atoms)), "ITEM: BOX BOUNDS pp pp pp"]
        frames += ["0.0 9.0"] * 3 + ["ITEM: ATOMS id element x y z", *rows]
    (path / "a.lammpstrj").write_text("\n".join(frames) + "\n")
    return str(path / "a.lammpstrj")


def lammps_data(path: Path) -> str:
    write(path / "a.data", crystal(2), format="lammps-data", masses=True)
    return str(path / "a.data")


def protein(path: Path) -> str:
    write(path / "a.pdb", molecule(4, 1), format="proteindatabank")
    return str(path / "a.pdb")


def res(path: Path) -> str:
    write(path / "a.res", crystal(2), format="res")
    return str(path / "a.res")


def xsf(path: Path) -> str:
    write(path / "a.xsf", crystal(2))
    return str(path / "a.xsf")


def nwchem_input(path: Path) -> str:
    write(path / "a.nwi", crystal(2))
    return str(path / "a.nwi")


KINDS: dict[Callable[[Path], str], str] = {
    extxyz: "0 1 2 3 4",
    compressed: "0 1 2 3 4",
    damaged_xyz: "0 1! 2 3 -1!",
    trajectory: "0 1 2 3 4",
    xdatcar: "0 1 2",
    poscar: "0",
    nwchem_input: "0",
    database: "0 1 2 3",
    json_database: "0 1 2 3",
    optimade_lines: "0 1 2! 3 4",
    optimade_answer: "0 1 2 3 4",
    mixed_lines: "0 1 2 3 4",
    npy: "0 1! 2 3 4 5",
    lmdb_set: "0 1! 2 3! 4",
    through_dpdata: "0",
    cif: "0 1",
    lammps_dump: "0 1",
    lammps_data: "0",
    protein: "0",
    res: "0",
    xsf: "0",
}
"""Who makes an input, and which frames come out of it; ! is one that can't be read."""
