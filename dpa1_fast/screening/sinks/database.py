"""Structures with energy, forces and stress as an ASE database (SQLite), a block a transaction."""

from __future__ import annotations

import errno
import json
import os
import re
import sqlite3
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

from ..folder import RESULTS
from ..folder import remove as remove_output
from ..own_keys import as_text
from .base import ChangedOutputError, Written, durable, owned
from .extxyz import with_results

NAME = RESULTS["db"]


class DatabaseSink:
    """Args: folder: of the job."""

    name = NAME

    def __init__(self, folder: Path) -> None:
        self.target, self.partial = folder / NAME, folder / f"{NAME}.partial"
        self._count = 0

    def _connect(self) -> Any:
        from ase.db import connect

        return connect(str(self.partial), type="db", use_lock_file=False)

    def resume(self, state: Any) -> None:
        """See ``Sink``; the state is how many rows there are, whose ids are 1 to that."""
        if owned(self.target, state):
            return
        self._count = state or 0
        if self._count == 0:
            for path in (self.partial, self.partial.with_name(f"{self.partial.name}-journal")):
                if path.exists():
                    remove_output(path)
            return
        from ase.db.sqlite import all_tables

        if not self.partial.exists():
            raise ChangedOutputError(self.partial, "is gone, though the journal says that it was written")
        with _as_os_errors(self.partial), closing(sqlite3.connect(self.partial)) as connection, connection:
            for table in all_tables:
                connection.execute(f"DELETE FROM {table} WHERE id > ?", (self._count,))
            # SQLite numbers on from the largest id that ever was; a block done again shall get the ids that it had.
            connection.execute("UPDATE sqlite_sequence SET seq = ? WHERE name = 'systems'", (self._count,))
            if connection.execute("SELECT count(*) FROM systems").fetchone()[0] != self._count:
                raise ChangedOutputError(self.partial, "lacks rows that the journal says were written")

    def append(self, block: Written) -> int:
        """See ``Sink``."""
        if self.target.exists():
            raise ChangedOutputError(self.target, "is finished, though the journal says that structures are left")
        if not block.frames and self.partial.exists():
            return self._count
        with _as_os_errors(self.partial), self._connect() as db:
            for frame in block.frames:
                row = frame.row
                told = {f"input_{k}": row[k] for k in ("index", "frame", "source")}
                for key, value in row["kept"].items():
                    told[_word(key)] = value
                data: dict[str, Any] = {"virial": frame.result.virial, **({"kept": row["kept"]} if row["kept"] else {})}
                if frame.descriptor is not None:
                    data["descriptor"] = frame.descriptor
                out = with_results(frame)
                out.info = {}
                db.write(out, key_value_pairs={k: _storable(v) for k, v in told.items()}, data=data)
        self._count += len(block.frames)
        return self._count

    def finish(self) -> None:
        """See ``Sink``."""
        if self.partial.exists():
            durable(self.partial)
            os.replace(self.partial, self.target)
            durable(self.target.parent)


def _word(key: str) -> str:
    """A key that ``ase.db`` takes."""
    from ase.db.core import reserved_keys

    key = re.sub("[^A-Za-z0-9_]", "_", key)
    return f"given_{key}" if key in reserved_keys or not re.match("[A-Za-z_]", key) else key


def _storable(value: Any) -> Any:
    """A value that ``ase.db`` takes: text that looks like a number or a flag is refused there, so it is quoted."""
    if isinstance(value, bool | int | float):
        return value
    text = as_text(value)
    try:
        float(text)
    except ValueError:
        return json.dumps(text) if text.lower() in ("true", "false", "none") else text
    whole = re.fullmatch("0|-?[1-9][0-9]{0,17}", text)
    return int(text) if whole else json.dumps(text)


@contextmanager
def _as_os_errors(path: Path) -> Iterator[None]:
    """SQLite's errors of the disk as Python's own, in SQLite's words; others are what they are."""
    try:
        yield
    except sqlite3.OperationalError as error:
        full = getattr(error, "sqlite_errorcode", None) == sqlite3.SQLITE_FULL
        raise OSError(errno.ENOSPC if full else errno.EIO, str(error), str(path)) from error
