"""A model's results beside labels, structure by structure."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ..engine import Engine, Result
from ..train.check import check_finite
from ..train.data import Frame, Sample, sample
from .tally import Report

Array = NDArray[np.float64]
AT_ONCE = 512
"""Structures that are given to the engine together."""
KINDS = ("kind", "config_type")
"""Keys of a structure that say which kind it is."""


@dataclass(frozen=True)
class Compared:
    """A structure's labels and results. kind: what its data calls its kind, or None."""

    sample: Sample
    system: str
    kind: str | None
    result: Result


def compared(engine: Engine, frames: Iterable[Frame]) -> Iterator[Compared]:
    """Evaluates structures in blocks.

    Raises:
        StructureError: one that cannot be evaluated, by its name. TrainingError: a label that is not finite.
    """
    block: list[tuple[Sample, str, str | None]] = []
    for frame in frames:
        kind = next((str(frame.atoms.info[k]) for k in KINDS if k in frame.atoms.info), None)
        labelled = sample(engine.config, frame, 0)
        check_finite(labelled)
        block.append((labelled, frame.system, kind))
        if len(block) == AT_ONCE:
            yield from _evaluated(engine, block)
            block = []
    if block:
        yield from _evaluated(engine, block)


def _evaluated(engine: Engine, block: list[tuple[Sample, str, str | None]]) -> Iterator[Compared]:
    results = engine.evaluate([s.structure for s, _, _ in block])
    for (s, system, kind), result in zip(block, results, strict=True):
        yield Compared(s, system, kind, result)


def count(report: Report, one: Compared, type_map: tuple[str, ...]) -> None:
    """Takes a structure's errors into the sums."""
    s, r, types = one.sample, one.result, one.sample.structure.types
    n = len(types)
    groups = list(report.groups(one.system, one.kind))
    present = {int(t): report.elements.setdefault(type_map[t], type(report.whole)()) for t in np.unique(types)}
    for tally in (*groups, *present.values()):
        tally.structures += 1
    for tally in groups:
        tally.atoms += n
    for t, tally in present.items():
        tally.atoms += int((types == t).sum())
    whole: list[tuple[str, Array, Array]] = []
    if s.energy is not None:
        label = np.array([s.energy])
        whole += [("e", r.energy - label, label), ("ea", (r.energy - label) / n, label / n)]
    if s.virial is not None:
        error = r.virial - s.virial
        whole += [("v", error, s.virial), ("va", error / n, s.virial / n)]
        if r.volume is not None:
            whole.append(("s", error / r.volume, s.virial / r.volume))
    for quantity, error, label in whole:
        for tally in (*groups, *present.values()):
            tally.add(quantity, error, label)
    for quantity, found, given in (("f", r.forces, s.force), ("ae", r.energies, s.atomic)):
        if given is not None:
            for tally in groups:
                tally.add(quantity, found - given, given)
            for t, tally in present.items():
                tally.add(quantity, (found - given)[types == t], given[types == t])
