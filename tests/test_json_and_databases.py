"""Structures out of JSON and databases: what is taken, what is refused by name, and what is not tripped over."""

from __future__ import annotations

import json
import os
import sqlite3
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from ase import Atoms
from ase.calculators.singlepoint import SinglePointCalculator
from ase.db import connect
from ase.io.jsonio import encode
from conftest import crystal, molecule

from dpa1_fast.sources import Item, find_sources

SILICON: dict[str, Any] = {
    "lattice_vectors": [[4, 0, 0], [0, 4, 0], [0, 0, 9]],
    "dimension_types": [1, 1, 0],
    "cartesian_site_positions": [[0, 0, 0], [2, 2, 0]],
    "species_at_sites": ["Si1", "O"],
    "species": [{"name": "Si1", "chemical_symbols": ["Si", "vacancy"], "concentration": [1.0, 0.0]}],
}


def items(path: Path, *entries: Any, name: str = "a.jsonl") -> list[Item]:
    (path / name).write_text("\n".join(e if isinstance(e, str) else json.dumps(e) for e in entries))
    [source] = find_sources([str(path / name)], ("H",))
    return list(source.read())


def test_optimade_says_what_is_periodic(tmp_path: Path) -> None:
    [item] = items(tmp_path, {"id": 7, "attributes": SILICON})
    assert list(item.atoms.symbols) == ["Si", "O"]
    assert item.atoms.pbc.tolist() == [True, True, False]
    assert item.atoms.cell.lengths().tolist() == [4, 4, 9]
    assert item.atoms.info == {"id": 7}
    sheet = SILICON | {"lattice_vectors": [[4, 0, 0], [0, 4, 0], [None] * 3]}
    [item] = items(tmp_path, sheet)
    assert item.atoms.cell.array.tolist() == [[4, 0, 0], [0, 4, 0], [0, 0, 0]]


@pytest.mark.parametrize(
    ("changed", "reason"),
    [
        (
            {"species": [{"name": "O", "chemical_symbols": ["O", "S"], "concentration": [0.5, 0.5]}]},
            "species O is O 0.5 S",
        ),
        (
            {"species": [{"name": "O", "chemical_symbols": ["O"], "concentration": [0.9]}]},
            "partial occupancy: species O",
        ),
        ({"species": [{"name": "O", "chemical_symbols": ["O"], "attached": ["H"], "nattached": [1]}]}, "attached"),
        ({"structure_features": ["implicit_atoms"]}, "implicit atoms"),
        ({"assemblies": [{"sites_in_groups": [[0], [1]], "group_probabilities": [0.3, 0.7]}]}, "assemblies"),
        ({"species_at_sites": ["Si1", "Foo"]}, "Foo: no chemical symbol"),
        ({"species_at_sites": ["Si1"]}, "cartesian_site_positions has shape (2, 3), expected (1, 3)"),
        ({"cartesian_site_positions": [[0, 0, 0], "x"]}, "cartesian_site_positions is no array of numbers"),
        ({"cartesian_site_positions": None}, "cartesian_site_positions"),
        ({"lattice_vectors": None}, "has no lattice_vectors"),
        ({"lattice_vectors": [[1, 0, 0]]}, "lattice_vectors"),
    ],
)
def test_optimade_that_cannot_be_done_is_refused_by_name(changed: dict[str, Any], reason: str, tmp_path: Path) -> None:
    first, bad, last = items(tmp_path, SILICON, {"attributes": SILICON | changed}, SILICON)
    assert (first.error, last.error, bad.atoms, bad.frame) == (None, None, None, 1)
    assert reason in str(bad.error)


@pytest.mark.parametrize(
    ("entry", "reason"),
    [
        ({"some": "thing"}, "is no structure that is known"),
        ([3], "expected a JSON object, found int"),
        ({"numbers": [1.5], "positions": [[0, 0, 0]]}, "no atomic number"),
        ({"numbers": [-1], "positions": [[0, 0, 0]]}, "no atomic number"),
        ({"symbols": "H2", "positions": [[0, 0, 0]]}, "positions has shape (1, 3), expected (2, 3)"),
        (
            {"sites": [{"species": [{"element": "Fe", "occu": 0.5}], "xyz": [0, 0, 0]}]},
            "partial occupancy: site 0 is Fe 0.5",
        ),
        ({"sites": [{"species": [], "xyz": [0, 0, 0]}]}, "site 0 is nothing"),
        ("{broken", "cannot be read: JSONDecodeError"),
        ("[" * 100_000, "cannot be read: RecursionError"),
    ],
)
def test_json_that_is_no_structure_is_one_item(entry: Any, reason: str, tmp_path: Path) -> None:
    read = items(tmp_path, SILICON, entry, SILICON)
    assert [(i.frame, i.error is None) for i in read] == [(0, True), (1, False), (2, True)]
    assert reason in str(read[1].error)


def test_a_damaged_first_line_costs_no_other(tmp_path: Path) -> None:
    for broken in (json.dumps(SILICON)[:50], "{,}"):
        first, second = items(tmp_path, broken, SILICON)
        assert (first.frame, first.atoms, second.frame, second.error) == (0, None, 1, None)


def test_what_ase_encodes_and_a_cell_without_pbc(tmp_path: Path) -> None:
    atoms = crystal(1)
    whole = json.loads(encode(atoms.todict()))
    cell = {"symbols": ["H"], "positions": [[0, 0, 0]], "cell": [[3, 0, 0], [0, 3, 0], [0, 0, 3]]}
    first, second, third = items(tmp_path, whole, cell, {"symbols": "H2O", "positions": [[0, 0, 0]] * 3})
    assert first.atoms == atoms
    assert second.atoms.pbc.all()
    assert not third.atoms.pbc.any()


def test_what_pymatgen_writes(tmp_path: Path) -> None:
    core = pytest.importorskip("pymatgen.core")
    lattice = core.Lattice(crystal(1).cell.array, pbc=(True, True, False))
    made = core.Structure(lattice, ["Na+", "Cl-"], [[0.1, 0.2, 0.3], [0.5, 0.6, 1.7]])
    first, second, third = items(
        tmp_path,
        made.as_dict(),
        made.as_dict(verbosity=0),
        core.Molecule(["O", "H"], [[0, 0, 0], [0, 0, 1]], charge=-1).as_dict(),
    )
    for item in (first, second):
        assert item.error is None
        assert item.atoms.get_chemical_formula() == "ClNa"
        assert np.abs(item.atoms.positions - made.cart_coords).max() < 1e-12
        assert item.atoms.pbc.tolist() == [True, True, False]
    assert third.atoms == Atoms("OH", [[0, 0, 0], [0, 0, 1]])


@pytest.mark.parametrize("name", ["a.db", "a.json"])
def test_rows_of_ase_db_keep_their_keys_and_labels(name: str, tmp_path: Path) -> None:
    atoms = crystal(1)
    atoms.calc = SinglePointCalculator(atoms, energy=-3.5, forces=atoms.positions)
    with connect(tmp_path / name) as db:
        db.write(atoms, batch=3, origin="mine", data={"any": [1, 2]})
        db.write(molecule(3))
    before = (tmp_path / name).read_bytes()
    first, second = find_sources([str(tmp_path / name)], ())[0].read()
    assert first.atoms == atoms
    assert first.atoms.info == {"batch": 3, "origin": "mine"}
    assert second.atoms == molecule(3)
    assert (tmp_path / name).read_bytes() == before
    assert os.listdir(tmp_path) == [name]
    if name == "a.db":
        assert first.atoms.get_potential_energy() == -3.5
        assert np.abs(first.atoms.get_forces() - atoms.positions).max() == 0


def test_a_damaged_row_costs_no_other(tmp_path: Path) -> None:
    with connect(tmp_path / "a.db") as db:
        for k in range(3):
            db.write(molecule(3, k))
    with sqlite3.connect(tmp_path / "a.db") as connection:
        connection.execute("UPDATE systems SET positions = x'0011' WHERE id = 2")
    read = list(find_sources([str(tmp_path / "a.db")], ())[0].read())
    assert [(i.frame, i.error is None) for i in read] == [(0, True), (1, False), (2, True)]
    assert str(read[1].error).startswith("row 2 cannot be read")


def test_what_is_no_database_is_not_made_one(tmp_path: Path) -> None:
    with sqlite3.connect(tmp_path / "other.db") as connection:
        connection.execute("CREATE TABLE things (id INTEGER)")
    (tmp_path / "text.db").write_text("no database")
    (tmp_path / "empty.db").touch()
    (tmp_path / "words.json").write_text("no JSON")
    (tmp_path / "ids.json").write_text('{"1": {"numbers": [1]}, "ids": [1, 2], "nextid": 3}')
    (tmp_path / "row.json").write_text('{"1": {"numbers": [1]}, "ids": [1]}')
    said = {
        p.name: " ".join(str(i.error) for s in find_sources([str(p)], ()) for i in s.read()) for p in tmp_path.iterdir()
    }
    assert "no database of ase.db" in said["other.db"]
    assert "its content is no SQLite file" in said["text.db"]
    assert said["empty.db"] == "holds no structure"
    assert "its content is none" in said["words.json"]
    assert "lacks rows that it lists" in said["ids.json"]
    assert "row 1 cannot be read" in said["row.json"]
    assert (tmp_path / "empty.db").stat().st_size == 0


def test_a_python_file_is_not_run(tmp_path: Path) -> None:
    (tmp_path / "a.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w')\nimages = []\n")
    [item] = find_sources([str(tmp_path / "a.py")], ())[0].read()
    assert item.frame == -1
    assert not (tmp_path / "ran").exists()
