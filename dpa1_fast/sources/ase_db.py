"""Databases of ``ase.db``: SQLite files row by row, and JSON files.

Files are opened read-only and decoded here: ASE's own reader fetches all rows at once, and makes tables where there are
none. Of ``data``, words, numbers and flags are kept.
"""

from __future__ import annotations

import json
import os
import re
import sqlite3
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any
from urllib.parse import quote

import numpy as np
from ase import Atoms
from ase.calculators.singlepoint import SinglePointCalculator

from .base import Item, Told
from .ids import keep_scalars
from .json_structures import from_ase_dict, structure
from .reading import Damaged, reason
from .streams import opened

OLDEST, NEWEST = 5, 9
"""Versions of ASE's tables whose columns are these."""

COLUMNS = "id, numbers, positions, cell, pbc, energy, free_energy, forces, stress, key_value_pairs, constraints, data"


def read_sqlite(path: Path, mark: Any) -> Iterator[Item]:
    """The rows of an SQLite database in the order of their ids; a mark is [structure, last id].

    Raises:
        Damaged: no database of ``ase.db``, or a version that isn't known.
        sqlite3.Error: the file is damaged.
    """
    done, last = (0, 0) if mark is None else mark
    address = f"file:{quote(os.fsencode(path.resolve()))}?mode=ro"
    with closing(sqlite3.connect(address, uri=True, check_same_thread=False)) as connection:
        connection.execute("PRAGMA trusted_schema = OFF")
        _check_version(connection)
        largest = connection.execute("SELECT max(id) FROM systems").fetchone()[0] or 1
        rows = connection.execute(f"SELECT {COLUMNS} FROM systems WHERE id > ? ORDER BY id", (last,))
        for frame, row in enumerate(rows, start=done):
            atoms, told, error = None, None, None
            try:
                atoms = _atoms_of_row(row[:10])
                told = Told(constraints=json.loads(row[10]) if row[10] else None)
                keep_scalars(atoms.info, _data(row[11]))
            except (TypeError, ValueError, LookupError) as fault:
                error = f"row {row[0]} cannot be read: {reason(fault)}"
            yield Item(str(path), frame, atoms, error, [frame + 1, row[0]], row[0] / largest, told=told)


def _check_version(connection: sqlite3.Connection) -> None:
    try:
        found = connection.execute("SELECT value FROM information WHERE name = 'version'").fetchone()
        connection.execute(f"SELECT {COLUMNS} FROM systems LIMIT 0")
        version = int(found[0])
    except (sqlite3.OperationalError, TypeError, ValueError):
        raise Damaged("is an SQLite file, but no database of ase.db") from None
    if not OLDEST <= version <= NEWEST:
        raise Damaged(f"is a database of ase.db in version {version}; versions {OLDEST} to {NEWEST} are read")


def _atoms_of_row(row: tuple[Any, ...]) -> Atoms:
    _, numbers, positions, cell, pbc, energy, free_energy, forces, stress, pairs = row
    atoms = Atoms(
        np.frombuffer(numbers, "<i4"),
        positions=np.frombuffer(positions, "<f8").reshape(-1, 3),
        cell=None if cell is None else np.frombuffer(cell, "<f8").reshape(3, 3),
        pbc=[bool(int(pbc or 0) & bit) for bit in (1, 2, 4)],
    )
    keep_scalars(atoms.info, json.loads(pairs or "{}"))
    results: dict[str, Any] = {k: v for k, v in (("energy", energy), ("free_energy", free_energy)) if v is not None}
    if forces is not None:
        results["forces"] = np.frombuffer(forces, "<f8").reshape(-1, 3)
    if stress is not None:
        results["stress"] = np.frombuffer(stress, "<f8")
    if results:
        atoms.calc = SinglePointCalculator(atoms, **results)
    return atoms


def _data(stored: Any) -> Any:
    """What a row's ``data`` says in JSON; its arrays are kept beside it (ASE's version 9) or in ASE's wrapping."""
    if isinstance(stored, bytes):
        start = int.from_bytes(stored[:8], "little")
        stored = stored[start:] if 8 <= start < len(stored) else ""
    return json.loads(stored) if stored else None


def is_ase_json(text: bytes) -> bool:
    """Whether a JSON file begins as a database of ``ase.db`` does."""
    return re.match(rb'\{\s*"(\d+|ids|nextid)"\s*:', text) is not None


def read_json_db(path: Path, mark: Any) -> Iterator[Item]:
    """The rows of a JSON database, which is held in memory as a whole, as its format requires; a mark is [structure].

    Raises:
        Damaged: no database of ``ase.db``.
        ValueError: no JSON.
    """
    with opened(path) as stream:
        document = json.load(stream.file)
    try:
        ids = document.get("ids") or sorted((k for k in document if k.isdigit()), key=int)
        rows = [document[str(k)] for k in ids]
    except (LookupError, TypeError):
        raise Damaged("is JSON like a database of ase.db, but lacks rows that it lists") from None
    done = 0 if mark is None else int(mark[0])
    for frame, row in enumerate(rows[done:], start=done):
        atoms, told, error = None, None, None
        try:
            if "numbers" in row:
                atoms, told = from_ase_dict(row, periodic=False)
                keep_scalars(atoms.info, row.get("key_value_pairs"))
                keep_scalars(atoms.info, row.get("data"))
            else:  # structures by ids that are numbers
                atoms, told = structure(row)
                atoms.info.setdefault("id", ids[frame])
        except (Damaged, TypeError, ValueError, LookupError, AttributeError) as fault:
            error = f"row {ids[frame]} cannot be read: {reason(fault)}"
        yield Item(str(path), frame, atoms, error, [frame + 1], (frame + 1) / len(rows), told=told)
