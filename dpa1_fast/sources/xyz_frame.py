"""One frame of (extended) XYZ as ``ase.Atoms``: exactly what ASE makes of it, at a third of the time where it is plain.

ASE's reader walks the comment character by character and makes a structured array. Here comments of well-formed
``key=value`` pairs are cut by a regular expression and columns become arrays directly. Everything else, and everything
that fails, is given to ASE, so ASE alone decides what is understood and what is wrong.
"""

from __future__ import annotations

import re
from functools import lru_cache
from io import StringIO
from itertools import chain
from operator import itemgetter
from typing import Any

import numpy as np
from ase import Atoms
from ase.calculators.calculator import all_properties
from ase.calculators.singlepoint import SinglePointCalculator
from ase.data import atomic_numbers
from ase.io.extxyz import key_val_str_to_dict, read_xyz

from .names import Kinds, kinds_of
from .reading import Damaged

PAIR = re.compile(r"""([A-Za-z_][\w.-]*)=(?:"([^"\\]+)"|([^\s"'{}\[\]\\=]+))(?:\s+|$)""")
PROMISED = re.compile(rb"""Properties\s*=\s*["'{\[]?([^\s"'}\]]*)""")
FLOAT = re.compile(r"[-+]?[0-9]+\.[0-9]*(?:[eE][-+]?[0-9]+)?", re.ASCII)
INTEGER = re.compile(r"[-+]?[0-9]{1,18}", re.ASCII)
PLAIN_PROPERTIES = "species:S:1:pos:R:3"

RESULTS_OF_FRAME = {"energy", "free_energy", "stress"}
"""What ASE moves from the comment to a calculator, and this file does too; of anything else in ``all_properties``, and
of columns with a meaning of their own, ASE takes care."""

MATRICES = ("stress", "virial")
"""Nine numbers that ASE takes for a matrix in Fortran's order, and nothing else."""

RESERVED = (set(all_properties) - {"forces"}) | {
    *("numbers", "symbols", "positions", "species", "pos", "Z", "charge", "initial_charges", "move_mask"),
}
CONVERTERS: dict[str, tuple[Any, Any]] = {"R": (float, "d"), "I": (int, "i"), "S": (str, object)}


class _Numbers(dict[str, int]):
    """Atomic number by symbol in any case, as ASE takes them."""

    def __missing__(self, symbol: str) -> int:
        self[symbol] = number = atomic_numbers[symbol.capitalize()]
        return number


NUMBERS = _Numbers()


def types_of_frame(lines: list[bytes], unusual: frozenset[str]) -> tuple[list[bytes], Kinds | None]:
    """The frame for ASE, and what it calls its atoms where some have names of types that are no chemical symbols.

    Args:
        unusual: such names.
    """
    properties = re.search(rb'Properties="?([^\s"]+)', lines[1])
    fields = (properties[1].decode("utf-8", "replace") if properties else PLAIN_PROPERTIES).split(":")
    if "species" not in fields[::3] or len(fields) % 3:
        return lines, None
    column = sum(int(n) for n in fields[2 : 3 * fields[::3].index("species") : 3] if n.isdigit())
    natoms = int(lines[0])
    rows = [line.split() for line in lines[2 : natoms + 2]]
    symbols = [row[column].decode("utf-8", "replace") if len(row) > column else "" for row in rows]
    if unusual.isdisjoint(symbols):
        return lines, None
    for k, symbol in enumerate(symbols):
        if symbol in unusual:
            rows[k][column] = b"X"
        else:  # ASE takes symbols in any case
            symbols[k] = symbol.capitalize()
    return [*lines[:2], *(b" ".join(row) + b"\n" for row in rows), *lines[natoms + 2 :]], kinds_of(symbols)


def parse_frame(lines: list[bytes]) -> Atoms:
    """The structure on these lines: count, comment, atoms, and VEC lines if any.

    Raises:
        Exception: whatever ASE raises for a frame that it does not understand.
    """
    _check_columns(lines)
    text = b"".join(lines).decode("utf-8").replace("\r\n", "\n")
    try:
        atoms = None if "\r" in text else _plain(text.split("\n"), int(lines[0]))
    except (ValueError, LookupError, TypeError, OverflowError, RuntimeError):
        atoms = None
    if atoms is None:
        try:
            atoms = next(iter(read_xyz(StringIO(text, newline=None), 0)))
        except KeyError as error:
            raise ValueError(f"{error} is not a chemical symbol") from None
    return atoms


def _check_columns(lines: list[bytes]) -> None:
    """Refuses a frame whose comment promises more columns than its longest line has characters, before anything is made
    for each.

    Raises:
        Damaged: it does.
    """
    most = max(map(len, lines), default=0)
    for properties in PROMISED.findall(lines[1] if len(lines) > 1 else b""):
        for digits in properties.split(b":")[2::3]:
            if len(digits.lstrip(b"+0_")) > len(str(most)):
                told = digits[:30].decode("utf-8", "replace")
                raise Damaged(f"its Properties promise {told} columns of one name; its lines have fewer")


def _plain(lines: list[str], natoms: int) -> Atoms | None:
    """The structure, or None where it isn't plain."""
    if natoms == 0 or len(lines) - (lines[-1] == "") != natoms + 2:
        return None
    info = _comment(lines[1].strip())
    columns = None if info is None else _columns(info.pop("Properties", PLAIN_PROPERTIES))
    if info is None or columns is None:
        return None
    width, extra = columns
    rows = [line.split() for line in lines[2 : natoms + 2]]
    if set(map(len, rows)) != {width}:
        return None
    cell = info.pop("Lattice", None)
    pbc = info.pop("pbc", None if cell is None else True)
    results = {key: info.pop(key) for key in RESULTS_OF_FRAME if key in info}
    atoms = Atoms(
        [NUMBERS[row[0]] for row in rows],
        positions=np.array(list(map(float, chain.from_iterable(map(itemgetter(1, 2, 3), rows))))).reshape(natoms, 3),
        cell=cell,
        pbc=pbc,
        info=info,
    )
    for name, kind, start, count in extra:
        convert, dtype = CONVERTERS[kind]
        values = [[convert(row[k]) for k in range(start, start + count)] for row in rows]
        array = np.array(values, dtype).reshape((natoms,) if count == 1 else (natoms, count))
        if name == "forces":
            results[name] = array
        else:
            atoms.new_array(name, array)
    if results:
        _set_results(atoms, results)
    return atoms


def _set_results(atoms: Atoms, results: dict[str, Any]) -> None:
    stress = results.get("stress")
    if stress is not None:  # 3 × 3: _value saw to that
        results["stress"] = stress[[0, 1, 2, 1, 0, 0], [0, 1, 2, 2, 2, 1]]
    atoms.calc = SinglePointCalculator(atoms, **results)


def _comment(line: str) -> dict[str, Any] | None:
    """The pairs of a comment line with ASE's values, ``Lattice`` as rows; None where there is more than pairs."""
    info: dict[str, Any] = {}
    at = 0
    while at < len(line):
        pair = PAIR.match(line, at)
        if pair is None:
            return None
        key, quoted, bare = pair.groups()
        value = bare if quoted is None else quoted
        if key in info or (key in all_properties and key not in RESULTS_OF_FRAME):
            return None
        if key == "Lattice":
            info[key] = np.array(list(map(float, value.replace(",", " ").split()))).reshape(3, 3)
        elif key == "Properties":
            info[key] = value
        elif key == "pbc":
            info[key] = _pbc(value)
        else:
            info[key] = _value(key, value)
        at = pair.end()
    return info


def _value(key: str, value: str) -> Any:
    """ASE's value of a pair. It decides itself but for plain numbers, which most values are."""
    parts = value.split()
    if key in MATRICES:
        if len(parts) == 9 and all(map(FLOAT.fullmatch, parts)):
            return np.array(list(map(float, parts))).reshape((3, 3), order="F")
    elif key.lower() != "uid":  # which ASE leaves a string
        if FLOAT.fullmatch(value):
            return np.float64(value)
        if INTEGER.fullmatch(value):
            return np.int64(value)
        if len(parts) > 1 and all(map(FLOAT.fullmatch, parts)):
            return np.array(list(map(float, parts)))
    return key_val_str_to_dict(f'{key}="{value}"')[key]


@lru_cache(maxsize=64)
def _pbc(value: str) -> Any:
    return key_val_str_to_dict(f'pbc="{value}"')["pbc"]


@lru_cache(maxsize=64)
def _columns(properties: str) -> tuple[int, tuple[tuple[str, str, int, int], ...]] | None:
    """How many columns there are, and for those after species and positions: name, kind, first column, how many."""
    if properties != PLAIN_PROPERTIES and not properties.startswith(PLAIN_PROPERTIES + ":"):
        return None
    fields = properties.split(":")[6:]
    if len(fields) % 3:
        return None
    extra, width, seen = [], 4, ["species", "pos0", "pos1", "pos2"]
    for name, kind, digits in zip(fields[::3], fields[1::3], fields[2::3], strict=True):
        count = int(digits)
        if not name or name in RESERVED or kind not in CONVERTERS or count < 1 or (name == "forces" and count != 3):
            return None
        extra.append((name, kind, width, count))
        width += count
        seen += [name] if count == 1 else [f"{name}{k}" for k in range(count)]
    return None if len(set(seen)) < len(seen) else (width, tuple(extra))
