"""Where results go."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import pyarrow as pa

from ..folder import RESULTS
from .base import Frame, Sink, Written
from .summary import SummarySink

FORMATS = tuple(RESULTS)
"""What ``--write`` may name besides the summary, which is always written."""

__all__ = ["FORMATS", "Frame", "Sink", "Written", "sinks_for"]


def sinks_for(
    folder: Path,
    schema: pa.Schema,
    formats: Sequence[str],
    descriptor: bool,
    provenance: dict[str, str],
    kept: Mapping[str, bool],
) -> list[Sink]:
    """The outputs of a job. ``kept``: columns of what structures bring along, and which are there in any case."""
    out: list[Sink] = [SummarySink(folder, schema, provenance, kept)]
    if "extxyz" in formats:
        from .extxyz import ExtxyzSink

        out.append(ExtxyzSink(folder))
    if "hdf5" in formats:
        from .hdf5 import Hdf5Sink

        out.append(Hdf5Sink(folder, descriptor, provenance, list(kept)))
    if "db" in formats:
        from .database import DatabaseSink

        out.append(DatabaseSink(folder))
    return out
