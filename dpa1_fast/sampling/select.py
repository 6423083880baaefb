"""Which structures of a pool are worth labelling: the least certain, and of these such as are not alike.

One pass over the pool keeps the most uncertain ``CANDIDATES`` times as many as are wanted, whatever the pool's size; of
these alone descriptors are computed, and the farthest points among their means are taken.
"""

from __future__ import annotations

import heapq
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..engine import Engine
from ..errors import StructureError
from ..sources import Source
from .farthest import Rows, Scale, Taken, farthest
from .pool import Failures, Member, evaluated, members
from .trust import CANDIDATE, Bounds, Verdict, judge

CANDIDATES = 10
"""Times as many as are wanted stay in the running."""
MOST = 20_000
"""Of them at most, unless more are wanted."""


@dataclass(frozen=True)
class Chosen:
    """A structure that was taken.

    Attributes:
        rank: among all candidates of the pool, by uncertainty, from 1. taken: how far it is from those before it.
    """

    member: Member
    verdict: Verdict
    rank: int
    taken: Taken

    @property
    def reason(self) -> str:
        """Why it was taken, in words."""
        v, t = self.verdict, self.taken
        unseen = [flag.replace("_", " ") for flag in v.flags if flag.startswith("unseen")]
        sure = f"has an {' and an '.join(unseen)}" if unseen else f"its forces deviate by {v.force:.3g} eV/Å"
        place = f"{sure} (number {self.rank} by uncertainty)"
        if np.isinf(t.distance):
            return f"{place}, the least certain of the pool"
        other = "a known one" if t.nearest < 0 else f"number {t.nearest}"
        return f"{place}; of the candidates the farthest from those before it, {t.distance:.3g} from {other}"


@dataclass
class Selection:
    """What came of a pool.

    Attributes:
        kinds: how many structures are ``accurate``, ``candidate`` and ``failed`` by the bounds. considered: candidates
            that descriptors were compared of. alike: whether it ended because all that are left are copies.
    """

    chosen: list[Chosen] = field(default_factory=list)
    kinds: Counter[str] = field(default_factory=Counter)
    considered: int = 0
    alike: bool = False

    @property
    def structures(self) -> int:
        """Structures that could be evaluated."""
        return self.kinds.total()


Entry = tuple[bool, float, int, Member, Verdict]
"""A candidate in the order of uncertainty; of equal ones the earlier comes first."""


def select(
    engines: Sequence[Engine],
    sources: Sequence[Source],
    count: int,
    folder: Path,
    bounds: Bounds | None = None,
    known: Sequence[Source] = (),
) -> tuple[Selection, Failures]:
    """Chooses structures; failures are written to the folder as they are found.

    Args:
        engines: one of a calibrated model, or several. known: structures that have labels already.

    Raises:
        UncertaintyError: one model that was not calibrated.
    """
    out, verdicts = Selection(), judge(engines)
    keep = max(2 * count, min(CANDIDATES * count, MOST))
    heap: list[Entry] = []
    with Failures(folder) as failures:
        for member, verdict in evaluated(members(sources), verdicts):
            if isinstance(verdict, StructureError):
                failures.add(member, verdict.reason)
                continue
            kind = CANDIDATE if bounds is None else bounds.of(verdict)
            out.kinds[kind] += 1
            if kind != CANDIDATE:
                continue
            entry = (verdict.unseen, verdict.force, -member.index, member, verdict)
            if len(heap) < keep:
                heapq.heappush(heap, entry)
            else:
                heapq.heappushpop(heap, entry)
    heap.sort(key=lambda e: e[:3], reverse=True)
    out.considered = len(heap)
    if heap:
        rows = np.stack([_mean(x) for x in engines[0].stream_features(e[3].item.atoms for e in heap)])
        scale = Scale.of(rows)
        taken = farthest(scale(rows), count, _known(engines[0], known, scale))
        out.chosen = [Chosen(heap[t.row][3], heap[t.row][4], t.row + 1, t) for t in taken]
        out.alike = len(taken) < min(count, len(heap))
    return out, failures


def _known(engine: Engine, sources: Sequence[Source], scale: Scale) -> Iterator[Rows]:
    """Mean descriptors of structures; those that cannot be done are not known."""
    for _, found in evaluated(members(sources), engine.stream_features):
        if not isinstance(found, StructureError):
            yield scale(_mean(found))


def _mean(found: Any) -> NDArray[np.float32]:
    if isinstance(found, StructureError):  # it could be evaluated before
        raise found
    real = np.any(found.descriptor != 0, axis=1)
    mean: NDArray[np.float32] = found.descriptor[real].sum(0).astype(np.float32) / max(int(real.sum()), 1)
    return mean
