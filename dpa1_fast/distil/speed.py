"""How much faster one engine is than another on the same structures, timed in turns on the same machine."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from statistics import median
from typing import Any

from ..engine import Engine

ROUNDS = 7
ATOMS = 600
"""About so many are evaluated at a time."""


@dataclass(frozen=True)
class Speed:
    """Of a teacher and a student, in turns.

    Attributes:
        teacher, student: µs an atom, medians, wall time. gain: median over rounds of the one over the other.
        gain_processor: the same of processor time, which other programs disturb less.
    """

    teacher: float
    student: float
    gain: float
    gain_processor: float


def compared(teacher: Engine, student: Engine, structures: Sequence[Any]) -> dict[str, Speed]:
    """``model``: energies, forces and virials of structures whose neighbours are known, as in molecular dynamics;
    ``whole``: from structures to results, neighbours and all."""
    atoms = sum(map(len, structures))
    models = [partial(e.evaluate_batch, e.batch(structures), gradient=False) for e in (teacher, student)]
    wholes = [partial(e.evaluate, structures) for e in (teacher, student)]
    return {"model": _timed(models[0], models[1], atoms), "whole": _timed(wholes[0], wholes[1], atoms)}


def enough(structures: Sequence[Any]) -> list[Any]:
    """The first of them, one after another and again, until there are about ``ATOMS`` atoms."""
    out: list[Any] = []
    size = 0
    while size < ATOMS and structures:
        for atoms in structures:
            if size >= ATOMS:
                break
            out.append(atoms)
            size += len(atoms)
    return out


def _timed(first: Callable[[], object], second: Callable[[], object], atoms: int) -> Speed:
    for run in (first, second):
        run()
    rows = []
    for _ in range(ROUNDS):
        row: list[float] = []
        for run in (first, second):
            wall, processor = time.perf_counter(), time.process_time()
            run()
            row += [time.perf_counter() - wall, time.process_time() - processor]
        rows.append(row)
    each = 1e6 / atoms
    return Speed(
        median(r[0] for r in rows) * each,
        median(r[2] for r in rows) * each,
        median(r[0] / r[2] for r in rows),
        median(r[1] / max(r[3], 1e-9) for r in rows),
    )
