"""What a finished summary says on the whole: read from its files in constant memory, so it does not matter how many
times the job was interrupted."""

from __future__ import annotations

import csv
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.dataset as ds

from .rows import OURS, TOO_CLOSE

LITTLE: dict[str, Any] = {"batch_size": 8192, "batch_readahead": 1, "fragment_readahead": 1, "use_threads": False}
"""How a summary is read where it may be of any size: a little at a time."""


@dataclass
class SummaryStatistics:
    """How a job went.

    Attributes:
        ok, failed: structures. atoms: in those that are ok. not_converged: relaxations that ran out of steps.
        best: rows with the smallest ``by``. failures: the first rows that failed. reasons: how often each kind of
            reason came up. flags: how many structures have each of ``uncertainty.FLAGS``, None where nobody asked.
        flagged: structures that have any. too_close: structures with atoms closer than ``rows.TOO_CLOSE``.
    """

    ok: int = 0
    failed: int = 0
    atoms: int = 0
    not_converged: int = 0
    best: list[dict[str, Any]] = field(default_factory=list)
    failures: list[dict[str, Any]] = field(default_factory=list)
    reasons: Counter[str] = field(default_factory=Counter)
    flags: Counter[str] | None = None
    flagged: int = 0
    too_close: int = 0

    @property
    def exit_code(self) -> int:
        """0 all done, 1 some failed, 2 nothing could be done."""
        return 2 if self.ok == 0 else 1 if self.failed else 0


def summarize(summary: Path, by: str, top: int, failures: int = 10) -> SummaryStatistics:
    """Reads a summary.

    Args:
        summary: its folder. by, top: so many rows with the smallest such column. failures: how many to remember.
    """
    out = SummaryStatistics()
    data = ds.dataset(summary, format="parquet")
    columns = list(dict.fromkeys(["index", "natoms", "status", by]))
    columns += [name for name in ("converged", "flags", "closest") if name in data.schema.names]
    out.flags = Counter() if "flags" in columns else None
    best = np.zeros((0, 2))  # value and index
    for batch in data.to_batches(columns=columns, **LITTLE):
        ok = batch.column("status").to_numpy(zero_copy_only=False) == "ok"
        out.ok += int(ok.sum())
        out.failed += int((~ok).sum())
        out.atoms += int(batch.column("natoms").to_numpy(zero_copy_only=False)[ok].sum())
        if "converged" in columns:
            out.not_converged += sum(x is False for x in batch.column("converged").to_pylist())
        if "closest" in columns:  # summaries of before have none
            out.too_close += int((batch.column("closest").to_numpy(zero_copy_only=False) < TOO_CLOSE).sum())
        if out.flags is not None:
            for text in filter(None, batch.column("flags").to_pylist()):
                out.flagged += 1
                out.flags.update(text.split())
        value = np.array(batch.column(by).to_numpy(zero_copy_only=False), dtype=np.float64)
        index = batch.column("index").to_numpy(zero_copy_only=False)
        keep = ok & ~np.isnan(value)
        best = np.concatenate([best, np.column_stack([value[keep], index[keep]])])
        best = best[np.lexsort((best[:, 1], best[:, 0]))[:top]]
    wanted = best[:, 1].astype(int).tolist()
    if wanted:
        shown = [name for name in data.schema.names if name not in ("forces", "descriptor", "stress", "force_std")]
        rows = data.to_table(columns=shown, filter=ds.field("index").isin(wanted), **LITTLE).to_pylist()
        place = {index: k for k, index in enumerate(wanted)}
        out.best = sorted(rows, key=lambda r: place[r["index"]])
    for row in failed_rows(summary):
        if len(out.failures) < failures:
            out.failures.append(row)
        out.reasons[kind_of(row["error"])] += 1
    return out


def failed_rows(summary: Path) -> Iterator[dict[str, Any]]:
    """The rows that failed, in order."""
    columns = ["index", "source", "frame", "formula", "natoms", "error"]
    columns += [n for n in ds.dataset(summary, format="parquet").schema.names if n not in OURS]
    for batch in ds.dataset(summary, format="parquet").to_batches(
        columns=columns, filter=ds.field("status") != "ok", **LITTLE
    ):
        yield from batch.to_pylist()


def kind_of(reason: str) -> str:
    """A reason without its numbers, so that equal ones are counted together."""
    return " ".join("…" if any(c.isdigit() for c in word) else word for word in reason.split())[:100]


def write_failures(summary: Path, target: Path) -> int:
    """Writes the failures as a table for people; none, no file. Returns how many there are."""
    rows = failed_rows(summary)
    first = next(rows, None)
    if first is None:
        target.unlink(missing_ok=True)
        return 0
    partial = target.with_name(f"{target.name}.partial")
    count = 1
    with partial.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, list(first))
        writer.writeheader()
        writer.writerow(first)
        for row in rows:
            writer.writerow(row)
            count += 1
    partial.replace(target)
    return count
