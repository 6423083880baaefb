"""What a file says of its atoms is kept or refused: occupancies, elements, constraints, counts, line ends, ids."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from ase import Atoms
from ase.build import bulk
from ase.constraints import FixAtoms, FixBondLengths, FixCartesian, FixedLine, FixedPlane, FixScaled
from ase.db import connect
from ase.io import write

from dpa1_fast.sources import Item, SourceError, find_sources
from dpa1_fast.sources.constraints import UnknownConstraint
from dpa1_fast.sources.names import type_names

CIF = """data_{name}
_cell_length_a 4
_cell_length_b 4
_cell_length_c 4
_cell_angle_alpha 90
_cell_angle_beta 90
_cell_angle_gamma 90
_symmetry_space_group_name_H-M 'P 1'
loop_
_symmetry_equiv_pos_as_xyz
'x, y, z'
loop_
_atom_site_label
_atom_site_type_symbol
_atom_site_fract_x
_atom_site_fract_y
_atom_site_fract_z
_atom_site_{more}
{sites}
"""


def read(path: Path, model: tuple[str, ...] = (), **options: Any) -> list[Item]:
    [source] = find_sources([str(path)], model, **options)
    return list(source.read())


def cif(path: Path, *sites: str, more: str = "occupancy") -> Item:
    (path / "a.cif").write_text(CIF.format(name="cod-7", more=more, sites="\n".join(sites)))
    [item] = read(path / "a.cif")
    return item


@pytest.mark.parametrize("share", ["0.5", "0.75(2)", "0", "?", "1.2", "-1"])
def test_a_site_of_a_cif_that_is_not_always_taken_is_refused_by_name(share: str, tmp_path: Path) -> None:
    item = cif(tmp_path, "Al1 Al 0 0 0 1", f"Mg1 Mg 0.5 0.5 0.5 {share}")
    assert item.atoms is None
    assert "occupancy" in str(item.error)
    assert "Mg1" in str(item.error)


def test_a_site_that_two_elements_share_is_refused(tmp_path: Path) -> None:
    assert "Al1 is Al 0.5" in str(cif(tmp_path, "Al1 Al 0 0 0 0.5", "Cu1 Cu 0 0 0 0.5").error)
    assert "partial occupancy" in str(cif(tmp_path, "Al1 Al 0 0 0 1", "Cu1 Cu 0 0 0 1").error)


def test_alternatives_and_atoms_without_places_are_refused(tmp_path: Path) -> None:
    assert "alternatives" in str(cif(tmp_path, "Al1 Al 0 0 0 A", "Al2 Al 0 0 .1 B", more="disorder_group").error)
    assert "hydrogen" in str(cif(tmp_path, "O1 O 0 0 0 2", more="attached_hydrogens").error)


@pytest.mark.parametrize("share", ["1", "1.0(1)", "1.0000", "."])
def test_an_ordered_cif_is_read_and_its_block_is_its_id(share: str, tmp_path: Path) -> None:
    item = cif(tmp_path, f"Al1 Al 0 0 0 {share}", f"Mg1 Mg 0.5 0.5 0.5 {share}")
    assert (item.error, item.atoms.get_chemical_formula(), item.id) == (None, "AlMg", "cod-7")


def pdb(*atoms: str) -> str:
    return "".join(f"HETATM    {k + 1} {line}\n" for k, line in enumerate(atoms)) + "END\n"


@pytest.mark.parametrize(
    ("atom", "reason"),
    [
        (" O   HOH     1       1.000   0.000   0.000  0.50  0.00           O", "partial occupancy"),
        (" O  BHOH     1       1.000   0.000   0.000  1.00  0.00           O", "given at places A and B"),
        (" CA  GLY     1       1.000   0.000   0.000  1.00  0.00", "no element in columns 77 and 78"),
    ],
)
def test_a_pdb_with_disorder_or_without_elements_is_refused(atom: str, reason: str, tmp_path: Path) -> None:
    first = " O  AHOH     1       0.000   0.000   0.000  1.00  0.00           O"
    (tmp_path / "a.pdb").write_text(pdb(first, first.replace("A", " ").replace("  1  ", "  2  ")))
    assert [i.error for i in read(tmp_path / "a.pdb")] == [None]
    (tmp_path / "a.pdb").write_text(pdb(first, atom))
    [item] = read(tmp_path / "a.pdb")
    assert reason in str(item.error)


def test_occupancies_that_travel_with_atoms_are_seen_in_any_format(tmp_path: Path) -> None:
    atoms = bulk("Al", cubic=True)
    atoms.info["occupancy"] = {"0": {"Al": 0.5, "Cu": 0.5}}
    write(tmp_path / "a.traj", atoms)
    assert "partial occupancy: site 0 is Al 0.5 Cu 0.5" in str(read(tmp_path / "a.traj")[0].error)
    atoms.info.clear()
    atoms.arrays["occupancy"] = np.array([1, 1, 0.5, 1])
    write(tmp_path / "a.extxyz", atoms)
    assert "partial occupancy: atom 2 is Al 0.5" in str(read(tmp_path / "a.extxyz")[0].error)


# --- elements ------------------------------------------------------------------------------------------------------

DUMP = (
    "ITEM: TIMESTEP\n{step}\nITEM: NUMBER OF ATOMS\n{n}\nITEM: BOX BOUNDS pp pp pp\n0 9\n0 9\n0 9\nITEM: ATOMS {rows}\n"
)
WATER = "id type x y z\n3 2 0 1 0\n1 1 0 0 0\n2 2 1 0 0"
DATA = "water\n\n3 atoms\n2 atom types\n0 9 xlo xhi\n0 9 ylo yhi\n0 9 zlo zhi\n{more}\nAtoms # atomic\n\n"
ROWS = "1 1 0 0 0\n2 2 1 0 0\n3 2 0 1 0\n"


def test_types_of_lammps_are_what_the_option_says_and_never_atomic_numbers(tmp_path: Path) -> None:
    (tmp_path / "a.lammpstrj").write_text(DUMP.format(step=0, n=3, rows=WATER))
    (tmp_path / "a.lammps-data").write_text(DATA.format(more="") + ROWS)
    for name in ("a.lammpstrj", "a.lammps-data"):
        [item] = read(tmp_path / name, ("O", "H"))
        assert "says types 1 to 2 and no elements; give --type-map" in str(item.error)
        [item] = read(tmp_path / name, ("H", "O"), type_map=["O", "H"])
        assert (item.error, list(item.atoms.symbols)) == (None, ["O", "H", "H"])
        assert item.atoms.positions[1].tolist() == [1, 0, 0]
    with pytest.raises(SourceError, match="the model has no type N"):
        read(tmp_path / "a.lammpstrj", ("O", "H"), type_map=["O", "N"])


def test_masses_and_labels_of_lammps_say_elements_and_made_up_masses_do_not(tmp_path: Path) -> None:
    def data(more: str) -> Item:
        (tmp_path / "a.lammps-data").write_text(DATA.format(more=more) + ROWS)
        [item] = read(tmp_path / "a.lammps-data", ("OW", "HW", "O", "H"))
        return item

    assert list(data("\nMasses\n\n1 15.9994\n2 1.008\n").atoms.symbols) == ["O", "H", "H"]
    assert "mass 15.035 is no element's" in str(data("\nMasses\n\n1 15.035\n2 1.008\n").error)
    labelled = data("\nAtom Type Labels\n\n1 OW\n2 HW\n").atoms
    assert labelled.arrays["dpa1_type"].tolist() == ["OW", "HW", "HW"]
    assert labelled.get_chemical_formula() == "H2O"


def test_a_cut_or_miscounted_dump_costs_one_frame(tmp_path: Path) -> None:
    whole = WATER.replace("type", "element").replace(" 2 ", " H ").replace(" 1 0 0 0", " O 0 0 0")
    counts = [3, 2, 4, 3, 3]
    text = "".join(DUMP.format(step=k, n=n, rows=whole) for k, n in enumerate(counts))
    (tmp_path / "a.lammpstrj").write_text(text[: text.rindex("2 H")])
    found = read(tmp_path / "a.lammpstrj")
    assert [i.error is None for i in found] == [True, False, False, True, False]
    assert "says 2 atoms, and has 3 rows" in str(found[1].error)
    assert len(found[3].atoms) == 3
    [source] = find_sources([str(tmp_path / "a.lammpstrj")], ())
    assert [i.frame for i in source.read(found[1].mark)] == [2, 3, 4]


def test_names_of_the_models_types_are_taken_everywhere(tmp_path: Path) -> None:
    (tmp_path / "a.xyz").write_text("3\nwater\nOW 0 0 0\nHW 1 0 0\nHW 0 1 0\n")
    entry = {"symbols": ["OW", "HW", "HW"], "positions": [[0, 0, 0], [1, 0, 0], [0, 1, 0]]}
    (tmp_path / "a.jsonl").write_text(json.dumps(entry))
    for name in ("a.xyz", "a.jsonl"):
        [item] = read(tmp_path / name, ("OW", "HW"))
        assert item.atoms.arrays["dpa1_type"].tolist() == ["OW", "HW", "HW"]
        [item] = read(tmp_path / name, ("H", "O"), type_map=["OW=O", "HW=H"])
        assert (list(item.atoms.symbols), "dpa1_type" in item.atoms.arrays) == (["O", "H", "H"], False)
        [item] = read(tmp_path / name, ("H", "O"))
        assert "OW" in str(item.error).upper()
    (tmp_path / "b.xyz").write_text("3\nwater\nO 0 0 0\nH 1 0 0\nH 0 1 0\n")
    [item] = read(tmp_path / "b.xyz", ("OW", "HW"), type_map=["O", "H"])
    assert item.atoms.arrays["dpa1_type"].tolist() == ["OW", "HW", "HW"]


def test_what_a_type_map_may_say() -> None:
    assert type_names(("O", "H"), ["1=H", "2=O"]).by_number == ("H", "O")
    for wrong in (["O", "H=O"], ["2=O"], ["O", "N"], ["x=N"]):
        with pytest.raises(SourceError, match="--type-map"):
            type_names(("O", "H"), wrong)


# --- constraints ---------------------------------------------------------------------------------------------------

HELD = [
    FixAtoms([0]), FixCartesian([1], (True, False, True)), FixScaled([2], (True, True, False)),
    FixedLine([3], [0, 0, 1]), FixedPlane([3], [1, 0, 0]), FixBondLengths([[0, 1]]),
]  # fmt: skip


@pytest.mark.parametrize("name", ["a.db", "a.json", "a.jsonl", "a.traj"])
def test_constraints_come_through_as_they_are(name: str, tmp_path: Path) -> None:
    atoms = bulk("Al", cubic=True)
    atoms.set_constraint(HELD)
    if name == "a.traj":
        write(tmp_path / name, atoms)
    elif name == "a.jsonl":
        plain = {"numbers": atoms.numbers.tolist(), "positions": atoms.positions.tolist()}
        (tmp_path / name).write_text(json.dumps({**plain, "constraints": [c.todict() for c in HELD]}, default=list))
    else:
        with connect(tmp_path / name) as db:
            db.write(atoms)
    [item] = read(tmp_path / name)
    as_written = [json.dumps(c.todict(), default=np.ndarray.tolist) for c in HELD]
    assert [json.dumps(c.todict(), default=np.ndarray.tolist) for c in item.atoms.constraints] == as_written


def test_a_constraint_that_cannot_be_rebuilt_is_kept_by_name(tmp_path: Path) -> None:
    rules = [
        {"name": "FixSomething", "kwargs": {"a": 1}},
        {"name": "FixAtoms", "kwargs": {"indices": [9]}},
        {"name": "FixedLine", "kwargs": {}},
    ]
    entry = {"numbers": [13], "positions": [[0, 0, 0]], "constraints": rules}
    (tmp_path / "a.jsonl").write_text(json.dumps(entry) + "\n" + json.dumps(entry | {"constraints": 3}))
    first, second = read(tmp_path / "a.jsonl")
    assert all(isinstance(c, UnknownConstraint) for c in first.atoms.constraints)
    assert [c.kind for c in first.atoms.constraints] == ["FixSomething", "FixAtoms", "FixedLine"]
    assert first.atoms.constraints[0].todict() == rules[0]
    assert "constraints" in str(second.error)


def test_flags_of_selective_dynamics_are_read_as_vasp_reads_them(tmp_path: Path) -> None:
    rows = ["0 0 0 F F F", ".5 .5 0 .FALSE. f .F.", ".5 0 .5 T T T", "0 .5 .5 F F T"]
    text = "Al\n4\n1 0 0\n0 1 0\n0 0 1\nAl\n4\nSelective dynamics\nDirect\n"
    (tmp_path / "POSCAR").write_text(text + "\n".join(rows) + "\n")
    [item] = read(tmp_path / "POSCAR")
    whole, partly = item.atoms.constraints
    assert (type(whole), whole.index.tolist()) == (FixAtoms, [0, 1])
    assert (type(partly), partly.index.tolist(), partly.mask.tolist()) == (FixScaled, [3], [True, True, False])
    (tmp_path / "POSCAR").write_text(text.replace("\n4\nSel", "\n3\nSel") + "\n".join(rows) + "\n")
    assert "more rows of coordinates than the 3" in str(read(tmp_path / "POSCAR")[0].error)


# --- counts, line ends, ids ----------------------------------------------------------------------------------------

FRAME = '{n}\nLattice="4 0 0 0 4 0 0 0 4" material_id=set-{k} Properties=species:S:1:pos:R:3\nAl 0 0 0\nAl 2 2 0\n'


@pytest.mark.parametrize("count", [1, 3, 4])
def test_a_wrong_count_costs_its_own_frame_and_no_other(count: int, tmp_path: Path) -> None:
    (tmp_path / "a.xyz").write_text("".join(FRAME.format(n=count if k == 1 else 2, k=k) for k in range(4)))
    found = read(tmp_path / "a.xyz")
    assert [i.error is None for i in found] == [True, False, True, True]
    assert f"says {count} atoms" in str(found[1].error)
    assert [i.id for i in found] == ["set-0", None, "set-2", "set-3"]
    [source] = find_sources([str(tmp_path / "a.xyz")], ())
    assert [i.id for i in source.read(found[1].mark)] == ["set-2", "set-3"]


@pytest.mark.parametrize(
    "change", [lambda b: b"\xef\xbb\xbf" + b, lambda b: b.replace(b"\n", b"\r")], ids=["bom", "cr"]
)
def test_byte_order_marks_and_old_line_ends_change_nothing(change: Any, tmp_path: Path) -> None:
    plain = "".join(FRAME.format(n=2, k=k) for k in range(3)).encode()
    write(tmp_path / "POSCAR", bulk("Al", cubic=True), format="vasp")
    (tmp_path / "b.jsonl").write_text(json.dumps({"symbols": ["Al"], "positions": [[0, 0, 0]]}) + "\n")
    (tmp_path / "c.xyz").write_bytes(plain)
    for name in ("POSCAR", "b.jsonl", "c.xyz"):
        wanted = read(tmp_path / name)
        (tmp_path / name).write_bytes(change((tmp_path / name).read_bytes()))
        found = read(tmp_path / name)
        assert [(i.error, i.atoms, i.id) for i in found] == [(None, i.atoms, i.id) for i in wanted]
    [source] = find_sources([str(tmp_path / "c.xyz")], ())
    assert [i.id for i in source.read(found[0].mark)] == ["set-1", "set-2"]


def test_text_in_utf_16_is_named(tmp_path: Path) -> None:
    (tmp_path / "a.xyz").write_text(FRAME.format(n=2, k=0), encoding="utf-16")
    assert "UTF-16" in str(read(tmp_path / "a.xyz")[0].error)


def test_ids_are_told_whatever_kind_of_file_it_is(tmp_path: Path) -> None:
    sites = [{"species": [{"element": "Al", "occu": 1}], "abc": [0, 0, 0]}]
    crystal = {"lattice": {"matrix": np.diag([4.0] * 3).tolist()}, "sites": sites}
    (tmp_path / "a.json").write_text(json.dumps({"set-1": crystal, "set-2": crystal | {"sites": []}, "7": crystal}))
    (tmp_path / "b.json").write_text(json.dumps({"7": crystal, "8": crystal}))
    (tmp_path / "c.jsonl").write_text(json.dumps({"material_id": 12, "structure": crystal, "gap": 1.5}))
    with connect(tmp_path / "d.db") as db:
        db.write(Atoms("Al"), key_value_pairs={"mp_id": "mp-1"})
        db.write(Atoms("Al"), data={"identifier": "x", "array": np.eye(3)})
    assert [i.id for i in read(tmp_path / "a.json")] == ["set-1", "set-2", "7"]
    assert [i.id for i in read(tmp_path / "b.json")] == ["7", "8"]
    [item] = read(tmp_path / "c.jsonl")
    assert (item.id, item.atoms.info) == (12, {"material_id": 12, "gap": 1.5})
    assert [i.id for i in read(tmp_path / "d.db")] == ["mp-1", "x"]


def test_a_format_can_be_named_and_a_folder_of_files_of_one_kind_is_all_of_them(tmp_path: Path) -> None:
    for k in range(3):
        (tmp_path / f"runs/{k}").mkdir(parents=True)
        write(tmp_path / f"runs/{k}/POSCAR", bulk("Al"), format="vasp")
        (tmp_path / f"runs/{k}/INCAR").touch()
    found = find_sources([str(tmp_path / "runs")], ())
    assert [s.name for s in found] == [str(tmp_path / f"runs/{k}/POSCAR") for k in range(3)]
    (tmp_path / "runs/0/a.cif").touch()
    with pytest.raises(SourceError, match=r"several kinds \(1 .cif, 3 POSCAR\)"):
        find_sources([str(tmp_path / "runs")], ())
    (tmp_path / "x.dat").write_bytes((tmp_path / "runs/0/POSCAR").read_bytes())
    assert read(tmp_path / "x.dat", format="vasp")[0].error is None
    with pytest.raises(SourceError, match="is it .*vasp"):
        read(tmp_path / "x.dat", format="vaps")
