"""The summary: a folder of Parquet files that every reader of Parquet takes for one table."""

from __future__ import annotations

import io
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from ..folder import SUMMARY, remove
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
    """

    name = NAME

    def __init__(self, folder: Path, schema: pa.Schema, provenance: dict[str, str]) -> None:
        self.target = folder / NAME
        self.parts = Parts(folder / f"{NAME}.partial", ".parquet")
        self.schema = schema.with_metadata({f"dpa1_fast.{k}": v for k, v in provenance.items()})

    def resume(self, state: Any) -> None:
        """See ``Sink``; the state is how many parts there are."""
        if not owned(self.target, state):
            self.parts.resume(state or 0)

    def append(self, block: Written) -> int:
        """See ``Sink``."""
        if self.target.exists():
            raise ChangedOutputError(self.target, "is finished, though the journal says that structures are left")
        columns = {name: [row.get(name) for row in block.rows] for name in self.schema.names}
        buffer = io.BytesIO()
        pq.write_table(pa.Table.from_pydict(columns, schema=self.schema), buffer)
        return self.parts.write(block.number, buffer.getvalue())

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
        for table in self._tables():
            if writer is None:
                writer = pq.ParquetWriter(folder / f"part-{number:05d}.parquet", self.schema)
                rows, number = 0, number + 1
            writer.write_table(table)
            rows += len(table)
            if rows >= ROWS:
                writer.close()
                writer = None
        if writer is not None:
            writer.close()
        for path in folder.iterdir():
            durable(path)

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
