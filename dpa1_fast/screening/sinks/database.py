"""Structures with energy, forces and stress as an ASE database (SQLite), a block a transaction."""

from __future__ import annotations

import os
import sqlite3
from contextlib import closing
from pathlib import Path
from typing import Any

from .base import Written, durable
from .extxyz import with_results

NAME = "results.db"


class DatabaseSink:
    """Args: folder: of the job."""

    name = NAME

    def __init__(self, folder: Path) -> None:
        self.target, self.partial = folder / NAME, folder / "results.partial.db"
        self._count = 0

    def _connect(self) -> Any:
        from ase.db import connect

        return connect(str(self.partial), type="db", use_lock_file=False)

    def resume(self, state: Any) -> None:
        """See ``Sink``; the state is how many rows there are, whose ids are 1 to that."""
        if self.target.exists():
            return
        self._count = state or 0
        if self._count == 0:
            for path in self.partial.parent.glob(f"{self.partial.name}*"):
                path.unlink()
            return
        from ase.db.sqlite import all_tables

        with closing(sqlite3.connect(self.partial)) as connection, connection:
            for table in all_tables:
                connection.execute(f"DELETE FROM {table} WHERE id > ?", (self._count,))
            # SQLite numbers on from the largest id that ever was; a block done again shall get the ids that it had.
            connection.execute("UPDATE sqlite_sequence SET seq = ? WHERE name = 'systems'", (self._count,))

    def append(self, block: Written) -> int:
        """See ``Sink``."""
        with self._connect() as db:
            for frame in block.frames:
                row = frame.row
                told = {k: row[k] for k in ("index", "frame", "source") if row.get(k) is not None}
                data = {"virial": frame.result.virial}
                if frame.descriptor is not None:
                    data["descriptor"] = frame.descriptor
                out = with_results(frame)
                out.info = {}
                db.write(out, key_value_pairs={f"input_{k}": v for k, v in told.items()}, data=data)
        self._count += len(block.frames)
        return self._count

    def finish(self) -> None:
        """See ``Sink``."""
        if self.partial.exists():
            durable(self.partial)
            os.replace(self.partial, self.target)
            durable(self.target.parent)
