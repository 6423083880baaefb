"""What a benchmark is, and the register of all of them.

A benchmark is made when it is wanted. Before it is timed it is judged: its results must be those of the float64
reference, or it has no speed. It depends on ``dpa1_fast`` and ``bench.cases`` alone, so that it can also time another
revision.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np

GROUPS = {
    "op": "operations, forward and backward",
    "evaluate": "one evaluation",
    "batch": "batches of structures",
    "md": "a step of a driver",
    "train": "a training step",
    "screen": "screening, end to end",
    "start": "start-up and memory, each in a process of its own",
    "control": "nothing of ours: what the machine does meanwhile",
}

FORCE = {"float64": 1e-9, "float32": 1e-4, "bfloat16": 2e-2, "tf32": 3e-3, "float16": 3e-3}
"""How far forces may be from the reference's, RMS over RMS, by precision."""


class Wrong(AssertionError):
    """Results that are not the reference's: such a benchmark has no speed."""


@dataclass(frozen=True)
class Benchmark:
    """One thing to time.

    Attributes:
        run: what is timed. check: raises ``Wrong`` where results are not right.
        atoms, neighbors: what one run works on; 0 where that says nothing.
        facts: precision, threads, hash of the model and the like.
    """

    run: Callable[[], Any]
    check: Callable[[], None]
    atoms: int = 0
    neighbors: int = 0
    facts: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Entry:
    """A benchmark that can be made. large: takes seconds a run, or gigabytes."""

    name: str
    make: Callable[[], Benchmark]
    large: bool = False

    @property
    def group(self) -> str:
        """Of ``GROUPS``."""
        return self.name.split("/")[0]


REGISTER: dict[str, Entry] = {}


def register(name: str, make: Callable[[], Benchmark], large: bool = False) -> None:
    """Adds a benchmark, ``group/what``."""
    entry = Entry(name, make, large)
    if name in REGISTER or entry.group not in GROUPS:
        raise ValueError(f"{name!r} is registered twice, or its group is not known")
    REGISTER[name] = entry


def load() -> dict[str, Entry]:
    """All benchmarks by name."""
    from . import evaluations, jobs, ops, steps  # noqa: F401 (they register)

    return REGISTER


def same(what: str, found: Any, expected: Any, bar: float) -> None:
    """Holds the RMS difference of arrays against the RMS of what is expected.

    Raises:
        Wrong: it is larger than ``bar``, or something is not finite.
    """
    found, expected = np.asarray(found, dtype=np.float64), np.asarray(expected, dtype=np.float64)
    if found.shape != expected.shape:
        raise Wrong(f"{what} have shape {found.shape} and not {expected.shape}: no speed")
    scale = float(np.sqrt(np.mean(expected**2))) or 1.0
    error = float(np.sqrt(np.mean((found - expected) ** 2))) / scale
    if not error <= bar:
        raise Wrong(f"{what} differ from the reference by {error:.1e} of their RMS, allowed are {bar:.0e}: no speed")
