"""VASP's XDATCAR: every frame with its own cell, and no frame where the file does not say it soundly."""

from __future__ import annotations

import time
from pathlib import Path

import numpy as np
import pytest
from ase import Atoms

from dpa1_fast.sources import find_sources
from dpa1_fast.sources.base import Item

TYPES = ("Na", "Cl")
PLACES = ["  0.00 0.00 0.00", "  0.50 0.00 0.00", "  0.25 0.50 0.75"]


def header(
    a: float = 5.0, counts: str = "1 2", names: str = "Na Cl", scale: str = "1.0", name: str = "salt"
) -> list[str]:
    return [name, scale, f"{a} 0 0", f"0 {a} 0", f"1 0 {a}", names, counts]


def frame(k: int, rows: list[str] = PLACES) -> list[str]:
    return [f"Direct configuration= {k}", *rows]


def read(folder: Path, lines: list[str]) -> list[Item]:
    file = folder / "XDATCAR"
    file.write_text("\n".join(lines) + "\n")
    (source,) = find_sources([str(file)], TYPES)
    return list(source.read())


def cells(items: list[Item]) -> list[float | None]:
    """The first lattice vector's length of each frame, None where it is an error."""
    return [None if i.atoms is None else float(i.atoms.cell[0, 0]) for i in items]


def test_one_header_serves_all_frames_and_a_cell_that_changes_has_its_own(tmp_path: Path) -> None:
    fixed = read(tmp_path, header() + frame(1) + frame(2))
    assert cells(fixed) == [5.0, 5.0]
    atoms = fixed[1].atoms
    assert isinstance(atoms, Atoms)
    assert atoms.get_chemical_symbols() == ["Na", "Cl", "Cl"]
    assert np.allclose(atoms.positions, [[0, 0, 0], [2.5, 0, 0], [2.0, 2.5, 3.75]])
    assert atoms.pbc.all()
    changing = header(5) + frame(1) + header(6, name="") + frame(2) + frame(3) + header(7) + frame(4)
    assert cells(read(tmp_path, changing)) == [5.0, 6.0, 6.0, 7.0]


def test_scales_potentials_and_volumes_as_vasp_takes_them(tmp_path: Path) -> None:
    (item,) = read(tmp_path, header(names="Na_pv Cl/0af3", scale="2.0") + frame(1))
    assert item.atoms is not None
    assert item.atoms.get_chemical_symbols() == ["Na", "Cl", "Cl"]
    assert item.atoms.cell[0, 0] == 10.0
    (item,) = read(tmp_path, header(scale="-64") + frame(1))
    assert item.atoms is not None
    assert item.atoms.get_volume() == pytest.approx(64.0)


@pytest.mark.parametrize(
    ("counts", "told"),
    {
        "1 1": "says 2 atoms, and has 3 rows",
        "1 3": "says 4 atoms, and has 3 rows",
        "1 -2": "says -2 atoms of an element",
        "1 99999999999999999999": "and has 3 rows of atoms",
    }.items(),
)
def test_counts_are_held_against_the_rows(counts: str, told: str, tmp_path: Path) -> None:
    began = time.process_time()
    items = read(tmp_path, header(counts=counts) + frame(1))
    assert told in str(items[0].error)
    assert time.process_time() - began < 5, "a count must not be believed before it is held against the file"


def test_no_frame_gets_the_cell_of_another(tmp_path: Path) -> None:
    # The second header has a fault: its frame is refused, and so are those behind it up to the next sound one.
    broken = header(6)
    broken[3] = "0 six 0"
    items = read(tmp_path, header(5) + frame(1) + broken + frame(2) + frame(3) + header(7) + frame(4))
    assert cells(items) == [None, None, None, 7.0]
    assert "sound header" in str(items[1].error)
    items = read(tmp_path, ["no header at all", *frame(1), *header(), *frame(2)])
    assert cells(items) == [None, 5.0]


def test_a_last_frame_that_was_cut_is_refused_alone(tmp_path: Path) -> None:
    items = read(tmp_path, header() + frame(1) + frame(2, PLACES[:2]))
    assert cells(items) == [5.0, None]
    items = read(tmp_path, header() + frame(1) + frame(2, [*PLACES[:2], "0.1 0.2 0.x"]) + frame(3))
    assert cells(items) == [5.0, None, 5.0], "a row with a fault says nothing of other frames"
    (item,) = read(tmp_path, header())
    assert "ends before its first configuration" in str(item.error) or "no structure" in str(item.error)


def test_reading_goes_on_at_a_mark_with_the_right_cell(tmp_path: Path) -> None:
    lines = header(5) + frame(1) + frame(2) + header(6) + frame(3) + frame(4)
    items = read(tmp_path, lines)
    (source,) = find_sources([str(tmp_path / "XDATCAR")], TYPES)
    for k in range(3):
        assert cells(list(source.read(items[k].mark))) == cells(items)[k + 1 :]
