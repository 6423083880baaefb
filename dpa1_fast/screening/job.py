"""The job: read, evaluate in batches of many structures, write; a structure that fails takes nothing else down."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ..engine import Engine, Result
from ..errors import StructureError
from .sinks import Sinks, row_of
from .sources import Item

ATOMS_PER_BATCH = 4096
STRUCTURES_PER_BATCH = 512


@dataclass
class Tally:
    """How a job went: structures done and failed, and the rows worth showing."""

    done: int = 0
    failed: int = 0
    atoms: int = 0
    best: list[dict[str, Any]] = field(default_factory=list)
    failures: list[dict[str, Any]] = field(default_factory=list)

    @property
    def exit_code(self) -> int:
        """0 all done, 1 some failed, 2 nothing could be done."""
        return 2 if self.done == 0 else 1 if self.failed else 0

    def add(self, rows: list[dict[str, Any]], keep: int) -> None:
        """Counts rows and keeps the ``keep`` lowest in energy per atom and the first failures."""
        good = [r for r in rows if r["status"] == "ok"]
        bad = [r for r in rows if r["status"] != "ok"]
        self.done += len(good)
        self.failed += len(bad)
        self.atoms += sum(r["natoms"] for r in good)
        self.best = sorted(self.best + good, key=lambda r: r["energy_per_atom"])[:keep]
        self.failures = (self.failures + bad)[:keep]


def batches(items: Iterable[Item]) -> Iterator[list[Item]]:
    """Groups of items with about as many atoms as the engine likes at a time."""
    group: list[Item] = []
    atoms = 0
    for item in items:
        group.append(item)
        atoms += 0 if item.atoms is None else len(item.atoms)
        if atoms >= ATOMS_PER_BATCH or len(group) >= STRUCTURES_PER_BATCH:
            yield group
            group, atoms = [], 0
    if group:
        yield group


def run(
    engine: Engine,
    items: Iterable[Item],
    output: Path,
    provenance: dict[str, str],
    progress: Callable[[int, int], None] | None = None,
    keep: int = 10,
) -> Tally:
    """Screens every item into ``output``.

    Args:
        provenance: what to note in the table's metadata (model, version, precision …).
        progress: called after each batch with the structures done and failed so far.
        keep: how many of the best rows and of the failures the tally remembers.
    """
    tally = Tally()
    index = 0
    with Sinks(output, provenance) as sinks:
        for group in batches(items):
            rows, frames = _evaluate(engine, group, index)
            index += len(group)
            sinks.write(rows, frames)
            tally.add(rows, keep)
            if progress:
                progress(tally.done, tally.failed)
    return tally


def _evaluate(
    engine: Engine, group: list[Item], first: int
) -> tuple[list[dict[str, Any]], list[tuple[Any, Result, dict[str, Any]]]]:
    results = iter(engine.evaluate([i.atoms for i in group if i.atoms is not None], on_error="return"))
    rows: list[dict[str, Any]] = []
    frames = []
    for index, item in enumerate(group, start=first):
        outcome: Result | str
        if item.atoms is None:
            outcome = item.error or "failed"
        else:
            result = next(results)
            outcome = result.reason if isinstance(result, StructureError) else result
        row = row_of(index, item.source, item.frame, item.atoms, outcome)
        rows.append(row)
        if isinstance(outcome, Result):
            frames.append((item.atoms, outcome, row))
    return rows, frames
