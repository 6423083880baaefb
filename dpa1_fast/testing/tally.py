"""Sums of errors, for all of the data and for each system, element and kind."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]
QUANTITIES = {
    "e": "energy (eV)",
    "ea": "energy (eV/atom)",
    "f": "force (eV/Å)",
    "v": "virial (eV)",
    "va": "virial (eV/atom)",
    "s": "stress (eV/Å³)",
    "ae": "atomic energy (eV)",
}
"""DeePMD-kit's short names and what they are."""


@dataclass
class Sums:
    """Count, sum of magnitudes and sum of squares of one quantity's errors, and of squares of its labels."""

    count: int = 0
    magnitudes: float = 0.0
    squares: float = 0.0
    labels: float = 0.0

    def add(self, error: Array, label: Array) -> None:
        """Takes errors in, and the labels that they belong to."""
        self.count += error.size
        self.magnitudes += float(np.abs(error).sum())
        self.squares += float((error**2).sum())
        self.labels += float((label**2).sum())


@dataclass
class Tally:
    """Errors of one group of structures or atoms, by quantity."""

    structures: int = 0
    atoms: int = 0
    sums: dict[str, Sums] = field(default_factory=dict)

    def add(self, quantity: str, error: Array, label: Array) -> None:
        """Takes errors of a quantity in."""
        self.sums.setdefault(quantity, Sums()).add(np.asarray(error), np.asarray(label))

    def errors(self) -> dict[str, float]:
        """MAE and RMSE by DeePMD-kit's names (``mae_e``, ``rmse_ea``), and ``rms_f``: that of the labelled forces."""
        out = {}
        for name in QUANTITIES:
            if name in self.sums and self.sums[name].count:
                s = self.sums[name]
                out[f"mae_{name}"] = s.magnitudes / s.count
                out[f"rmse_{name}"] = math.sqrt(s.squares / s.count)
                if name == "f":
                    out["rms_f"] = math.sqrt(s.labels / s.count)
        return out

    def told(self) -> dict[str, Any]:
        """As JSON has it."""
        return {"structures": self.structures, "atoms": self.atoms, **self.errors()}


@dataclass
class Report:
    """Errors of all data and of its parts. An element's energies are those of the structures that it is in."""

    whole: Tally = field(default_factory=Tally)
    systems: dict[str, Tally] = field(default_factory=dict)
    elements: dict[str, Tally] = field(default_factory=dict)
    kinds: dict[str, Tally] = field(default_factory=dict)

    def groups(self, system: str, kind: str | None) -> Iterator[Tally]:
        """Where a structure of that system and kind counts, besides its elements."""
        yield self.whole
        yield self.systems.setdefault(system, Tally())
        if kind is not None:
            yield self.kinds.setdefault(kind, Tally())

    def told(self) -> dict[str, Any]:
        """As JSON has it."""
        parts = {"systems": self.systems, "elements": self.elements, "kinds": self.kinds}
        return {"all": self.whole.told()} | {k: {n: t.told() for n, t in v.items()} for k, v in parts.items() if v}
