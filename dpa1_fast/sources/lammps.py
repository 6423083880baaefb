"""LAMMPS's text dumps and data files: frames and rows counted here, read by ASE, and no element made up.

ASE takes the number of a type for an atomic number where a file says no elements.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterator
from io import StringIO
from pathlib import Path
from typing import Any

import numpy as np
from ase import Atoms
from ase.data import atomic_masses, atomic_numbers, chemical_symbols
from ase.io.lammpsdata import read_lammps_data
from ase.io.lammpsrun import read_lammps_dump_text

from .base import Item, Told
from .names import Kinds, TypeNames, kinds_of
from .reading import Damaged, reason
from .streams import Stream, opened

UNITS = ("metal", "real", "electron", "si", "cgs", "micro", "nano")
"""In which ASE knows lengths; ``lj`` has none."""

NEAR = 0.2
"""How far from an element's standard weight a mass may be, in u; FF's united atoms are farther."""

HYDROGENS = (2.014, 3.016)

MOST_TYPES = 10_000

SECTION = re.compile(r"[A-Z][A-Za-z]+( [A-Za-z/]+)*")


def read_dump_file(path: Path, mark: Any, names: TypeNames) -> Iterator[Item]:
    """The frames of a text dump; a mark is [frame, its offset in bytes, the file's units]."""
    frame, offset, units = (0, 0, "metal") if mark is None else mark
    with opened(path, offset) as stream:
        for lines in _frames(stream):
            atoms, told, error = None, None, None
            if lines[0].startswith("ITEM: UNITS"):
                units = lines[1].strip()
            try:
                atoms, told = _frame(lines, units, names)
            except Exception as fault:  # ASE's reader raises anything; the next frame is none the worse
                error = f"cannot be read: {reason(fault)}"
            frame += 1
            mark = [frame, stream.offset, units]
            yield Item(str(path), frame - 1, atoms, error, mark, stream.share(stream.offset), told=told)


def _frames(stream: Stream) -> Iterator[list[str]]:
    """The lines of each frame: from the item behind the last frame's atoms to the end of its own."""
    lines: list[str] = []
    atoms = False
    while line := stream.file.readline():
        text = line.decode("utf-8", "backslashreplace")
        if text.startswith("ITEM:"):
            if atoms:
                yield lines
                lines, atoms = [], False
            atoms = text.startswith("ITEM: ATOMS")
        if text.strip():
            lines.append(text)
        stream.offset += len(line)
    if lines:
        yield lines


def _frame(lines: list[str], units: str, names: TypeNames) -> tuple[Atoms, Told]:
    starts = {line.split("ITEM:")[1].strip(): k for k, line in enumerate(lines) if line.startswith("ITEM:")}
    where = next((k for item, k in starts.items() if item.split()[0] == "ATOMS"), None)
    if where is None or "NUMBER OF ATOMS" not in starts:
        raise Damaged("the frame ends before its atoms")
    columns = lines[where].split()[2:]
    rows = [line.split() for line in lines[where + 1 :]]
    said = int(lines[starts["NUMBER OF ATOMS"] + 1])
    if len(rows) != said:
        raise Damaged(f"says {said} atoms, and has {len(rows)} rows of atoms")
    if bad := next((k for k, row in enumerate(rows) if len(row) != len(columns)), None):
        raise Damaged(f"row {bad} has {len(rows[bad])} columns, expected {len(columns)}")
    if units not in UNITS:
        raise Damaged(f"its units {units!r} have no length in Å")
    table = {name: [row[k] for row in rows] for k, name in enumerate(columns)}
    order = np.argsort(np.array(table["id"], np.int64)) if "id" in table else np.arange(len(rows))
    if "id" in table and len(set(table["id"])) < len(rows):
        raise Damaged("several atoms have the same id")
    kinds = _kinds_of_dump(table, order, names)
    # ASE gets no names: what it would make of them is not asked.
    header = ["type" if name == "type" else f"v_{name}" if name in ("element", "mass") else name for name in columns]
    blank = {"element": "0", "type": "1"} if "type" in columns else {"element": "0"}
    kept = [" ".join(blank.get(name, word) for name, word in zip(columns, row, strict=True)) for row in rows]
    if "type" not in columns:
        header.append("type")
        kept = [f"{row} 1" for row in kept]
    text = [*lines[starts["TIMESTEP"] : where], f"ITEM: ATOMS {' '.join(header)}\n", *(f"{row}\n" for row in kept)]
    atoms = read_lammps_dump_text(StringIO("".join(text)), index=0, units=units)
    for name in ("v_element", "v_mass"):
        atoms.arrays.pop(name, None)
    if "type" in table:
        atoms.arrays["type"] = np.array(table["type"], np.int64)[order]
    return atoms, Told(kinds=kinds, no_virtual=True)


def _kinds_of_dump(table: dict[str, list[str]], order: Any, names: TypeNames) -> Kinds:
    if "element" in table:
        return kinds_of([table["element"][k] for k in order])
    if "mass" in table and not (names.by_number and "type" in table):
        return kinds_of([element_by_mass(float(table["mass"][k])) for k in order])
    if "type" not in table:
        raise Damaged("has no column element, mass or type")
    return Kinds(_numbers(np.array(table["type"], np.int64)[order]), None)


def _numbers(types: Any) -> Any:
    if types.min(initial=1) < 1:
        raise Damaged(f"type {types.min()} is none: LAMMPS counts from 1")
    return types - 1


def element_by_mass(mass: float) -> str:
    """The symbol of the element with that standard weight (H for its isotopes too).

    Raises:
        Damaged: there is none; units may be others, or the particle may be no atom.
    """
    nearest = int(np.argmin(np.abs(atomic_masses[1:] - mass))) + 1
    if any(abs(mass - heavy) < 0.05 for heavy in HYDROGENS):
        return "H"
    if abs(atomic_masses[nearest] - mass) > NEAR:
        raise Damaged(f"mass {mass:g} is no element's; give --type-map with the model's name of each type, in order")
    return chemical_symbols[nearest]


def read_data_file(path: Path, mark: Any, names: TypeNames) -> Iterator[Item]:
    """The structure of a data file; a mark is [structures done].

    Raises:
        Exception: whatever ASE raises.
    """
    if mark is not None:
        return
    with opened(path, bounded=True) as stream:
        text = stream.file.read().decode("utf-8", "backslashreplace")
    lines = text.splitlines()
    found = re.search(r"units = (\w+)", lines[0] if lines else "")
    units = found[1] if found else "metal"
    if units not in UNITS:
        raise Damaged(f"its units {units!r} have no length in Å")
    sections = _sections(lines)
    said = next((int(line.split()[0]) for line in lines if re.fullmatch(r"\s*\d+\s+atoms\s*(#.*)?", line)), 0)
    rows = sections.get("Atoms", [])
    if len(rows) != said:
        raise Damaged(f"says {said} atoms, and has {len(rows)} rows of atoms")
    labels = {int(row[0]): row[1] for row in sections.get("Atom Type Labels", [])}
    masses = {int(row[0]): float(row[1]) for row in sections.get("Masses", []) if row[0].isdigit()}
    # ASE gets no elements: what it would make of the types is not asked.
    atoms = read_lammps_data(StringIO(text), units=units, Z_of_type=defaultdict(lambda: 1, {1: 1}))
    types = np.asarray(atoms.arrays["type"], np.int64)
    told = Told(kinds=_kinds_of_data(types, labels, masses, names), no_virtual=True)
    yield Item(str(path), 0, atoms, None, [1], 1.0, told=told)


def _sections(lines: list[str]) -> dict[str, list[list[str]]]:
    """The rows of each section by its name, in words."""
    out: dict[str, list[list[str]]] = {}
    rows: list[list[str]] | None = None
    for line in lines[1:]:
        bare = line.split("#")[0].strip()
        if SECTION.fullmatch(bare):
            rows = out.setdefault(bare, [])
        elif bare and rows is not None:
            rows.append(bare.split())
    return out


def _kinds_of_data(types: Any, labels: dict[int, str], masses: dict[int, float], names: TypeNames) -> Kinds:
    if names.by_number:
        return Kinds(_numbers(types), None)
    known = {*names.model, *dict(names.by_name)}
    if labels and (not masses or all(n in known or (n in atomic_numbers and n != "X") for n in labels.values())):
        table: dict[int, str] = labels
    elif masses:
        table = {k: element_by_mass(mass) for k, mass in masses.items()}
    else:
        return Kinds(_numbers(types), None)
    count = max(table, default=0)
    if count > MOST_TYPES:
        raise Damaged(f"type {count}: more than {MOST_TYPES} types are not believed")
    return Kinds(_numbers(types), tuple(table.get(k, f"type {k}") for k in range(1, count + 1)), numbered=False)
