"""Frames of extended XYZ are exactly what ASE makes of them, and a damaged one costs no other."""

from __future__ import annotations

import io
import tracemalloc
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from ase import Atoms
from ase.io import write
from ase.io.extxyz import read_xyz
from conftest import crystal, molecule
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from dpa1_fast.sources import Item, find_sources, xyz_frame
from dpa1_fast.sources.xyz_frame import parse_frame

NUMBERS = st.one_of(
    st.floats(-1e3, 1e3).map(repr),
    st.integers(-99, 99).map(str),
    st.sampled_from(["1e3", "1.5E-2", "+.5", "3.", "nan", "-inf", "1_0", "0x1", "1d5", "T", "*", "9" * 20]),
)
SYMBOLS = st.sampled_from(["H", "C", "O", "Al", "al", "CU", "X", "x", "D", "H1", "6", ""])
PROPERTIES = st.sampled_from(
    [
        "species:S:1:pos:R:3",
        "species:S:1:pos:R:3:forces:R:3",
        "species:S:1:pos:R:3:force:R:3:tags:I:1",
        "species:S:1:pos:R:3:label:S:1:magmoms:R:1",
        "species:S:1:pos:R:3:move_mask:L:1",
        "species:S:1:pos:R:3:pos1:I:1",
        "species:S:1:pos:R:3:pair:S:2:energies:R:1",
        "species:S:1:pos:R:3:masses:R:1:charge:R:1",
        "pos:R:3:species:S:1",
        "Z:I:1:pos:R:3",
        "species:S:1:pos:R:3:Z:I:1",
        "species:S:1:pos:R:2",
        "species:S:1:pos:R:3:forces:I:3:q:Q:1",
        "species:S:1:pos:R",
    ]
)
PIECES = st.one_of(
    st.lists(NUMBERS, min_size=9, max_size=9).map(lambda n: f'Lattice="{" ".join(n)}"'),
    st.lists(NUMBERS, min_size=9, max_size=9).map(lambda n: f'stress="{" ".join(n)}"'),
    st.lists(NUMBERS, min_size=1, max_size=9).map(lambda n: f'Lattice="{",".join(n)}"'),
    st.tuples(st.sampled_from(["energy", "free_energy", "dipole", "uid", "n-1", "virial"]), NUMBERS).map("=".join),
    st.lists(NUMBERS, max_size=4).map(lambda n: f'vector="{" ".join(n)}"'),
    st.sampled_from(
        [
            *('pbc="T T F"', "pbc=F", 'pbc="1 0 1"', "pbc=[T, T, T]", "pbc=maybe", 'pbc="F F F" pbc="T T T"'),
            *("name=mp-149", "flag", "key = 3", "a=b=c", "'quoted key'=1", 'say="a \\"word\\""', "list={1 2 3}"),
            *('json="_JSON [1, {\\"a\\": 2}]"', 'words="two words"', 'no="close', "ü=ß", "Time=1.5e3", "at 300 K"),
            *("empty=", "forces=3", 'stress="1 0 0 0 1 0 0 0 1"', "charges=[1.0, 2.0]"),
        ]
    ),
)


@st.composite
def frames(draw: st.DrawFn) -> str:
    n = draw(st.integers(0, 3))
    properties = draw(st.one_of(st.none(), PROPERTIES))
    pieces = draw(st.lists(PIECES, max_size=5))
    if properties is not None:
        pieces.insert(draw(st.integers(0, len(pieces))), f"Properties={properties}")
    kinds = [] if properties is None else properties.split(":")
    columns = [k for k, c in zip(kinds[1::3], kinds[2::3], strict=False) for _ in range(int(c))] or list("SRRR")
    value = {"S": SYMBOLS, "L": st.sampled_from("TFx"), "I": st.integers(0, 9).map(str), "R": NUMBERS, "Q": NUMBERS}
    rows = [[draw(value[k]) for k in columns] for _ in range(n)]
    if rows and draw(st.booleans()):
        rows[-1] = draw(st.sampled_from([rows[-1][:-1], [*rows[-1], "7"]]))
    gap = draw(st.sampled_from([" ", "   ", "\t"]))
    end = draw(st.sampled_from(["\n", "\r\n", " \n"]))
    return end.join([f" {n}", gap.join(pieces), *map(gap.join, rows), ""])


def outcome(make: Any) -> Atoms | str:
    try:
        return make()
    except Exception as error:
        return type(error).__name__


def alike(a: Any, b: Any) -> bool:
    """Equal in value, type and dtype, all the way down; NaN equals itself."""
    if type(a) is not type(b):
        return False
    if isinstance(a, dict):
        return list(a) == list(b) and all(alike(a[k], b[k]) for k in a)
    if isinstance(a, np.ndarray):
        if (a.dtype, a.shape) != (b.dtype, b.shape):
            return False
        return bool(np.array_equal(a, b, equal_nan=a.dtype.kind == "f"))
    return bool(a == b or (a != a and b != b))


@settings(max_examples=600, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(frames())
@example('1\nLattice="1 0 0 0 1 0 0 0 1" energy=-1.5 name=x\nH 0 0 0\n')
@example("1\n\nH 0 0 0 7 7\n")
@example("1\nVECs\nH 0 0 0\nVEC1 1 0 0\n")
def test_a_frame_is_what_ase_makes_of_it(text: str) -> None:
    ours = outcome(lambda: parse_frame(text.encode().splitlines(keepends=True)))
    theirs = outcome(lambda: next(iter(read_xyz(io.StringIO(text, newline=None), 0))))
    if isinstance(ours, str) or isinstance(theirs, str):
        assert ours == theirs or (ours, theirs) == ("ValueError", "KeyError"), text
        return
    assert alike(ours.arrays, theirs.arrays), text
    assert alike(ours.info, theirs.info), text
    assert alike(ours.cell.array, theirs.cell.array), text
    assert alike(ours.pbc, theirs.pbc), text
    assert len(ours.constraints) == len(theirs.constraints), text
    results = [{} if a.calc is None else dict(sorted(a.calc.results.items())) for a in (ours, theirs)]
    assert alike(*results), text


def test_what_ase_writes_takes_the_short_way(monkeypatch: pytest.MonkeyPatch) -> None:
    """Energies, forces and stresses included: ASE's reader is not called."""
    from ase.calculators.singlepoint import SinglePointCalculator

    atoms = crystal(1)
    atoms.info.update(name="mp-1", batch=3, weight=0.5)
    atoms.calc = SinglePointCalculator(atoms, energy=-1.5, forces=atoms.positions, stress=np.arange(6.0))
    file = io.StringIO()
    write(file, atoms, format="extxyz")
    monkeypatch.setattr(xyz_frame, "read_xyz", None)
    again = parse_frame(file.getvalue().encode().splitlines(keepends=True))
    assert again.info == atoms.info
    assert (again.get_potential_energy(), again.get_stress().tolist()) == (-1.5, list(range(6)))


def items(path: Path, text: str) -> list[Item]:
    (path / "a.xyz").write_bytes(text.encode())
    [source] = find_sources([str(path / "a.xyz")], ())
    return list(source.read())


GOOD = "2\ngood\nO 0 0 0\nH 0 0 1\n"


def test_a_damaged_frame_is_one_item(tmp_path: Path) -> None:
    read = items(tmp_path, GOOD + "1\n\nH 0 zero 0\n" + "1\n\nQq 0 0 0\n" + GOOD)
    assert [(i.frame, i.error is None) for i in read] == [(0, True), (1, False), (2, False), (3, True)]
    assert "could not convert string to float" in str(read[1].error)
    assert "'Qq' is not a chemical symbol" in str(read[2].error)


@pytest.mark.parametrize(
    ("tail", "why"),
    [
        ("3\n\nH 0 0 0\n", "file ends in the middle of frame 1"),
        ("999999999999\n\nH 0 0 0\n", "file ends in the middle of frame 1, which begins with 999999999999"),
        ("H 0 0\n" + GOOD, "expected a number of atoms, found 'H 0 0'"),
        ("-1\n\n", "expected a number of atoms, found '-1'"),
        ("\x00" * 1000, "expected a number of atoms"),
    ],
)
def test_where_the_next_frame_cannot_be_found_the_source_ends(tail: str, why: str, tmp_path: Path) -> None:
    first, last = items(tmp_path, GOOD + tail)
    assert (first.frame, first.error, last.frame, last.mark) == (0, None, -1, None)
    assert str(last.error).startswith(f"cannot be read after 1 structures: {why}")


@pytest.mark.parametrize("columns", ["99999999999999999999", "4294967296", "+1_000_000_000"])
@pytest.mark.parametrize("quote", ["", '"', "'"])
def test_columns_that_no_line_has_are_refused_before_anything_is_made_for_them(
    columns: str, quote: str, tmp_path: Path
) -> None:
    comment = f"Properties={quote}species:S:1:pos:R:3:forces:R:{columns}{quote}"
    (tmp_path / "a.xyz").write_text(f"1\n{comment}\nH 0 0 0\n1\n\nO 0 0 0\n")
    bad, good = find_sources([str(tmp_path / "a.xyz")], ("H", "O"))[0].read()
    assert f"promise {columns} columns" in str(bad.error)
    assert good.error is None


def test_an_empty_file_says_so(tmp_path: Path) -> None:
    [item] = items(tmp_path, " \n\n")
    assert (item.frame, item.error, item.mark) == (-1, "holds no structure", None)


def test_memory_does_not_grow_with_the_file(tmp_path: Path) -> None:
    file = io.StringIO()
    write(file, [molecule(9, k) for k in range(20)], format="extxyz")
    (tmp_path / "a.xyz").write_text(file.getvalue() * 150)
    [source] = find_sources([str(tmp_path / "a.xyz")], ())
    list(source.read())  # what is loaded once is loaded
    tracemalloc.start()
    count = sum(1 for _ in source.read())
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert count == 3000
    assert peak < 500_000 < (tmp_path / "a.xyz").stat().st_size


@pytest.mark.benchmark(group="reading")
def test_how_long_a_frame_takes(tmp_path: Path, benchmark: Any) -> None:
    lines = ["20", 'Lattice="9.0 0.0 0.0 0.0 9.0 0.0 0.0 0.0 9.0" Properties=species:S:1:pos:R:3 pbc="T T T"']
    lines += [f"C {x:16.8f} {y:16.8f} {z:16.8f}" for x, y, z in np.random.default_rng(0).uniform(0, 9, (20, 3))]
    benchmark(parse_frame, [line.encode() + b"\n" for line in lines])
