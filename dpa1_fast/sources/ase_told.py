"""What files of ASE's formats say and ASE's readers leave out: it is looked up in the file itself."""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
from ase import Atoms
from ase.data import atomic_numbers

from .base import Told
from .names import Kinds
from .reading import Damaged
from .streams import opened

EXPLICIT = {"traj", "json", "extxyz", "xyz", "gpw", "cjson", "gen", "turbomole", "xsf"}
"""Formats in which X is written by somebody, and not what a reader makes of a name that it does not know."""


def told_of(kind: str, path: Path, atoms: Atoms) -> Told:
    """What is to be said of a structure that ASE read from a file of this format.

    Raises:
        Damaged: the file says something that cannot be done.
    """
    look = LOOKS.get(kind)
    told = Told() if look is None else look(path, atoms)
    return told if kind in EXPLICIT else Told(told.occupants, told.kinds, told.constraints, told.free, no_virtual=True)


@lru_cache(maxsize=1)
def _read(path: Path, _size: int, _time: int) -> tuple[str, ...]:
    with opened(path, bounded=True) as stream:
        return tuple(stream.file.read().decode("utf-8", "backslashreplace").splitlines())


def _lines(path: Path) -> tuple[str, ...]:
    """The lines of a file that ASE holds as a whole too."""
    stat = path.stat()
    return _read(path, stat.st_size, stat.st_mtime_ns)


def _poscar(path: Path, atoms: Atoms) -> Told:
    """Flags as VASP takes them (``.FALSE.``, ``f``), and rows that the counts leave out."""
    lines = _lines(path)
    counts = 5 if lines[5].split()[0].isdigit() else 6
    selective = lines[counts + 1].strip()[:1] in ("s", "S")
    first = counts + (3 if selective else 2)
    after = lines[first + len(atoms)].split() if len(lines) > first + len(atoms) else []
    if len(after) >= 3 and all(map(_is_number, after[:3])):
        raise Damaged(f"has more rows of coordinates than the {len(atoms)} of its counts")
    if not selective:
        return Told()
    atoms.set_constraint()
    free = []
    for k, line in enumerate(lines[first : first + len(atoms)]):
        flags = [word.lstrip(".")[:1].upper() for word in line.split()[3:6]]
        if len(flags) < 3 or not set(flags) <= {"T", "F"}:
            raise Damaged(f"selective dynamics: the row of atom {k} has no three flags T or F")
        free.append([flag == "T" for flag in flags])
    return Told(free=free)


def _is_number(word: str) -> bool:
    try:
        float(word)
    except ValueError:
        return False
    return True


def _pdb(path: Path, _: Atoms) -> Told:
    """Places that are given twice (altLoc) or are not always taken. ASE leaves occupancies out where one is missing."""
    places: dict[str, str] = {}
    shares = []
    for line in _lines(path):
        if line.startswith("ENDMDL"):
            places.clear()
        elif line.startswith(("ATOM", "HETATM")):
            _element_is_said(line)
            share = line[54:60].strip()
            shares.append(float(share) if _is_number(share) else 1.0)
            label, where = line[16:17].strip(), line[12:16] + line[17:27]
            if label and places.setdefault(where, label) != label:
                name = " ".join(where.split())
                raise Damaged(f"disorder: atom {name} is given at places {places[where]} and {label}; keep one of them")
    if any(shares) and any(abs(share - 1) > 1e-6 for share in shares):
        k = next(k for k, share in enumerate(shares) if abs(share - 1) > 1e-6)
        raise Damaged(f"partial occupancy: atom {k} is there to {shares[k]:g}; give an ordered structure")
    return Told()


def _element_is_said(line: str) -> None:
    """Names without an element: " CA " is carbon, "CA  " is calcium, and ASE takes both for calcium.

    Raises:
        Damaged: it would be taken for another element.
    """
    name = line[12:16]
    two = name.strip()[:2].capitalize()
    if not line[76:78].strip() and name[:1] == " " and len(two) == 2 and two in atomic_numbers:
        raise Damaged(f"atom {name.strip()} has no element in columns 77 and 78, and its name may mean two")


def _shelx(path: Path, _: Atoms) -> Told:
    """Sites with a free variable or a share other than 1 (11.0 is 1, held there)."""
    occupants = []
    inside = False
    for line in _lines(path):
        words = line.split("!")[0].split()
        if not words:
            continue
        if words[0].upper() == "SFAC":
            inside = True
        elif words[0].upper() == "END":
            break
        elif inside and len(words) >= 6 and words[1].isdigit() and all(map(_is_number, words[2:6])):
            share = float(words[5])
            occupants.append((words[0], [(words[0], share - 10 if 10 <= share <= 11 else share)]))
    return Told(occupants)


def _castep_cell(path: Path, _: Atoms) -> Told:
    for line in _lines(path):
        if "MIXTURE" in line.upper():
            raise Damaged(f"partial occupancy: {line.strip()}; give an ordered structure")
    return Told()


def _gromacs(path: Path, atoms: Atoms) -> Told:
    said = _lines(path)[1].strip()
    if said != str(len(atoms)):
        raise Damaged(f"says {said} atoms, and has rows of {len(atoms)}")
    return Told()


def _numbered(_: Path, atoms: Atoms) -> Told:
    """LAMMPS's binary dumps, whose numbers of types ASE takes for atomic numbers."""
    types = atoms.arrays.get("type", atoms.numbers)
    return Told(kinds=Kinds(np.asarray(types, np.int64) - 1, None))


LOOKS: dict[str, Callable[[Path, Any], Told]] = {
    "vasp": _poscar,
    "proteindatabank": _pdb,
    "res": _shelx,
    "castep-cell": _castep_cell,
    "gromacs": _gromacs,
    "lammps-dump-binary": _numbered,
}
