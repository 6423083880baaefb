"""The summary: a folder of Parquet files that every reader of Parquet takes for one table."""

from __future__ import annotations

import io
import json
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from ..folder import SUMMARY, remove
from ..kept import kind_of, type_of, typed
from .base import ChangedOutputError, Parts, Written, durable, owned

NAME = SUMMARY
ROWS = 1_000_000
"""Rows of a file of the finished summary."""
GROUP = 4_096
"""Rows that are read and written at a time."""


class SummarySink:
    """Parts while the job runs; files of up to a million rows when it is done, in one rename.

    Args:
        folder: of the job. schema: see ``rows.schema``. provenance: goes into the metadata of every file.
        kept: columns of what structures bring along; those that are False only where there is something in them.
    """

    name = NAME

    def __init__(
        self, folder: Path, schema: pa.Schema, provenance: dict[str, str], kept: Mapping[str, bool] | None = None
    ) -> None:
        self.target = folder / NAME
        self.parts = Parts(folder / f"{NAME}.partial", ".parquet")
        self.schema = schema.with_metadata({f"dpa1_fast.{k}": v for k, v in provenance.items()})
        self.kept = dict(kept or {})
        self.kinds: dict[str, list[str]] = {}

    def resume(self, state: Any) -> None:
        """See ``Sink``; the state is how many parts there are, and what kinds of values are kept in each column."""
        self.kinds = {} if state is None else {k: list(v) for k, v in state["kinds"].items()}
        if not owned(self.target, state):
            self.parts.resume(0 if state is None else state["parts"])

    def append(self, block: Written) -> dict[str, Any]:
        """See ``Sink``."""
        if self.target.exists():
            raise ChangedOutputError(self.target, "is finished, though the journal says that structures are left")
        columns = {name: [row.get(name) for row in block.rows] for name in self.schema.names}
        for name in self.kept:
            values = [row.get("kept", {}).get(name) for row in block.rows]
            columns[name] = [None if v is None else json.dumps(v) for v in values]
            kinds = {kind_of(v) for v in values if v is not None} | set(self.kinds.get(name, ()))
            if kinds:
                self.kinds[name] = sorted(kinds)
        buffer = io.BytesIO()
        pq.write_table(pa.Table.from_pydict(columns, schema=self.schema), buffer)
        parts = self.parts.write(block.number, buffer.getvalue())
        return {"parts": parts, "kinds": {k: list(v) for k, v in self.kinds.items()}}

    def finish(self) -> None:
        """See ``Sink``."""
        if not self.target.exists():
            whole = self.target.with_name(f"{NAME}.whole")
            remove(whole)
            whole.mkdir()
            self._gather(whole)
            os.replace(whole, self.target)
            durable(self.target.parent)
        self.parts.remove()

    def _gather(self, folder: Path) -> None:
        writer, rows, number = None, 0, 0
        schema = self._finished()
        for table in self._tables():
            if writer is None:
                writer = pq.ParquetWriter(folder / f"part-{number:05d}.parquet", schema)
                rows, number = 0, number + 1
            writer.write_table(self._typed(table, schema))
            rows += len(table)
            if rows >= ROWS:
                writer.close()
                writer = None
        if writer is not None:
            writer.close()
        for path in folder.iterdir():
            durable(path)

    def _finished(self) -> pa.Schema:
        """The columns of the finished summary: those of ids that nothing has are left out, the others have a type."""
        fields = [
            field if field.name not in self.kept else field.with_type(type_of(self.kinds.get(field.name, ())))
            for field in self.schema
            if self.kept.get(field.name, True) or field.name in self.kinds
        ]
        return pa.schema(fields, self.schema.metadata)

    def _typed(self, table: pa.Table, schema: pa.Schema) -> pa.Table:
        arrays = [typed(table[f.name].to_pylist(), f.type) if f.name in self.kept else table[f.name] for f in schema]
        return pa.Table.from_arrays(arrays, schema=schema)

    def _tables(self) -> Iterator[pa.Table]:
        """The parts' rows in larger groups; one without rows where there are none."""
        waiting: list[pa.Table] = [self.schema.empty_table()]
        for path in self.parts.all():
            waiting.append(pq.read_table(path, schema=self.schema, use_threads=False))
            if sum(map(len, waiting)) >= GROUP:
                yield pa.concat_tables(waiting)
                waiting = []
        if waiting:
            yield pa.concat_tables(waiting)
