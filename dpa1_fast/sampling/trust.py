"""How far to trust what models say of a structure, by the deviation of its forces, and DP-GEN's bounds on it."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Any

from ..engine import Engine, Result
from ..errors import DPA1Error, StructureError, UncertaintyError
from ..screening.deviation import deviation

AT_ONCE = 256
"""Structures that an ensemble is given together."""
UNSEEN = ("unseen_element", "unseen_pair")
"""Flags of structures whose deviation calibration knows nothing of."""
ACCURATE, CANDIDATE, FAILED = "accurate", "candidate", "failed"


class BoundsError(DPA1Error, ValueError):
    """Trust bounds that contradict each other."""


@dataclass(frozen=True)
class Verdict:
    """What models say of one structure.

    Attributes:
        force: eV/Å, over atoms the largest standard deviation of a force (the length of its three components').
        energy: eV, of the structure's energy. flags: see ``uncertainty.FLAGS``; an ensemble knows none.
    """

    force: float
    energy: float
    flags: tuple[str, ...] = ()

    @property
    def unseen(self) -> bool:
        """Whether an element or a pair of them was never in training."""
        return any(flag in UNSEEN for flag in self.flags)


@dataclass(frozen=True)
class Bounds:
    """DP-GEN's trust levels of the force deviation, eV/Å; what is unseen is never accurate."""

    lower: float = 0.0
    upper: float = math.inf

    def __post_init__(self) -> None:
        if not 0 <= self.lower < self.upper:
            raise BoundsError(f"--lower {self.lower:g} and --upper {self.upper:g}: give 0 ≤ lower < upper, in eV/Å")

    def of(self, verdict: Verdict) -> str:
        """``accurate`` below the lower one, ``failed`` from the upper one on, else ``candidate``."""
        if not verdict.force < self.upper:
            return FAILED
        return ACCURATE if verdict.force < self.lower and not verdict.unseen else CANDIDATE


Judge = Callable[[Iterator[Any]], Iterator[Verdict | StructureError]]


def judge(engines: Sequence[Engine]) -> Judge:
    """Verdicts of structures, in order: from one calibrated model, or from the deviation of several.

    Raises:
        UncertaintyError: one model that was not calibrated.
    """
    if len(engines) > 1:
        return lambda structures: _ensemble(engines, structures)
    try:
        engines[0].uncertainty  # noqa: B018
    except UncertaintyError as error:
        raise UncertaintyError(f"{error}; or give several models: --models A B C D") from None
    return lambda structures: _single(engines[0], structures)


def _single(engine: Engine, structures: Iterator[Any]) -> Iterator[Verdict | StructureError]:
    for result in engine.stream(structures, uncertainty=True):
        if isinstance(result, StructureError):
            yield result
            continue
        u = result.uncertainty
        assert u is not None
        yield Verdict(math.sqrt(3.0) * float(u.force_std.max(initial=0.0)), u.energy_std, u.flags)


def _ensemble(engines: Sequence[Engine], structures: Iterator[Any]) -> Iterator[Verdict | StructureError]:
    while block := list(islice(structures, AT_ONCE)):
        for results in zip(*(engine.stream(block) for engine in engines), strict=True):
            error = next((r for r in results if isinstance(r, StructureError)), None)
            good = [r for r in results if isinstance(r, Result)]
            if error is not None:
                yield error
            elif not len(good[0].forces):
                yield Verdict(0.0, 0.0)
            else:
                found = deviation(good)
                yield Verdict(found["max_devi_f"], found["devi_e"] * len(good[0].forces))
