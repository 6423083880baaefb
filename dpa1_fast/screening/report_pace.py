"""How fast a job went, from what its blocks tell: over the time that it was running, which leaves out interruptions."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from statistics import median
from typing import Any

STEPS = 150
"""Of the curve at most; shorter blocks are taken together."""


@dataclass
class Pace:
    """A job's speed.

    Attributes:
        edges: seconds of running. rates: structures per second between them. marks: where it was resumed.
        seconds: running in all. structures, atoms: done in that. away: seconds between runs.
    """

    edges: list[float] = field(default_factory=lambda: [0.0])
    rates: list[float] = field(default_factory=list)
    marks: list[float] = field(default_factory=list)
    seconds: float = 0.0
    structures: int = 0
    atoms: int = 0
    away: float = 0.0


def pace(blocks: Sequence[Mapping[str, Any]]) -> Pace:
    """The speed of a job.

    Args:
        blocks: each with ``time`` and ``began`` (unix seconds: when it was written, and when that run of the job
            began), ``structures`` and ``atoms``. Where ``began`` is missing, a block counts from the one before.
    """
    out = Pace()
    spent: list[float] = []
    new_run: list[bool] = []
    for k, block in enumerate(blocks):
        before = blocks[k - 1] if k else None
        began = block.get("began", before["time"] if before else block["time"])
        new_run.append(before is not None and block.get("began") != before.get("began"))
        since = began if before is None or new_run[-1] else before["time"]
        out.away += max(0.0, began - before["time"]) if before is not None and new_run[-1] else 0.0
        spent.append(max(0.0, block["time"] - since))
        if spent[-1] > 0:
            out.structures += block["structures"]
            out.atoms += block["atoms"]
    out.seconds = sum(spent)
    _steps(out, blocks, spent, new_run)
    return out


def _steps(out: Pace, blocks: Sequence[Mapping[str, Any]], spent: Sequence[float], new_run: Sequence[bool]) -> None:
    # Blocks that were ready together are written together: none of them alone says how fast it went.
    shortest = max(out.seconds / STEPS, median(spent) / 2) if spent else 0.0
    counts: list[int] = []
    time, done = 0.0, 0

    def close() -> None:
        nonlocal time, done
        first = not counts or out.edges[-1] in out.marks[-1:]  # of its run
        if time > 0 and (time >= shortest or first):
            out.edges.append(out.edges[-1] + time)
            counts.append(done)
        elif not first:  # what is left of a run is too short to stand alone
            out.edges[-1] += time
            counts[-1] += done
        time, done = 0.0, 0

    for block, seconds, new in zip(blocks, spent, new_run, strict=True):
        if new:
            close()
            out.marks.append(out.edges[-1])
        time, done = time + seconds, done + block["structures"]
        if time >= shortest:
            close()
    close()
    out.rates = [n / (b - a) for n, a, b in zip(counts, out.edges[:-1], out.edges[1:], strict=True)]
