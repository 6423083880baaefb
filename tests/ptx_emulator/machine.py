"""Runs the programs of one launch: warps, one at a time, until all wait at a barrier."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from torch import Tensor

from .global_memory import GlobalMemory
from .number_types import U32, Type
from .races import Findings
from .shared_memory import SharedMemory
from .translator import EXIT, Translator
from .warp import Warp
from .wgmma import GroupProducts

MOST_STEPS = 6
"""Segments that a warp runs before another one's turn may come, in random order."""


@dataclass(frozen=True)
class Schedule:
    """Which warp goes first between two barriers: "ascending", "descending" or "random", where they change places at
    every access to memory. late: see ``GroupProducts``."""

    order: str = "ascending"
    seed: int = 0
    late: bool = False


SCHEDULES = (Schedule(), Schedule("descending", late=True), Schedule("random", 1))
"""First come first served, the other way round, and all mixed up."""


class Machine:
    """A multiprocessor that runs one program of a launch after the other.

    Args:
        parameters: addresses and numbers. grid: how many programs. shared: bytes. tensors: by their names.
    """

    def __init__(
        self, code: Translator, parameters: Sequence[int], grid: tuple[int, int, int], shared: int,
        tensors: Mapping[str, Tensor], schedule: Schedule,
    ) -> None:  # fmt: skip
        self.code, self.program, self.parameters, self.schedule = code, code.program, parameters, schedule
        self.nctaid = [np.full(32, x, dtype=U32) for x in grid]
        self.ctaid = self.nctaid
        self.findings = Findings(self.program.instructions)
        self.global_memory = GlobalMemory(tensors, self.findings)
        self.shared_memory = SharedMemory(shared, self.findings)
        self.group_products = GroupProducts(self.shared_memory, self.findings, late=schedule.late)
        self.random = np.random.default_rng(schedule.seed)

    def run(self, at: tuple[int, int, int]) -> None:
        """One program."""
        self.findings.done["programs"] += 1
        self.ctaid = [np.full(32, x, dtype=U32) for x in at]
        self.shared_memory.begin()
        warps = [Warp(k, self.program) for k in range(self.program.threads // 32)]
        order = warps[::-1] if self.schedule.order == "descending" else warps
        while not all(warp.done for warp in warps):
            ready = [warp for warp in order if not (warp.waiting or warp.done)]
            if not ready:
                self._meet(warps)
            elif self.schedule.order == "random":
                self._run(ready[int(self.random.integers(len(ready)))], int(self.random.integers(1, MOST_STEPS)))
            else:
                self._run(ready[0], None)
        self.global_memory.shadow.clear()
        self.shared_memory.shadow.clear()
        if any(warp.started for warp in warps):
            self.findings.note("wgmma that was never waited for")

    def _meet(self, warps: Sequence[Warp]) -> None:
        """All warps have come to a barrier."""
        self.findings.done["barriers"] += 1
        if any(warp.done for warp in warps):
            self.findings.note("a barrier that not all warps come to")
        self.global_memory.shadow.clear()
        self.shared_memory.shadow.clear()
        for warp in warps:
            warp.waiting = False
            for _, cells in warp.started:
                self.shared_memory.shadow.keeps_reading(warp, cells)

    def _run(self, warp: Warp, steps: int | None) -> None:
        """A warp up to its next barrier, or so many segments of it."""
        while not (warp.waiting or warp.done) and steps != 0:
            self._step(warp)
            steps = None if steps is None else steps - 1

    def _step(self, warp: Warp) -> None:
        """A segment of a warp, or of those of its threads that are furthest behind."""
        if warp.segment is not None:
            following = self.code.segment(warp.segment, False)(warp, self, None)
            if following == EXIT:
                warp.done = True
            elif following is not None:
                warp.segment = following
            return
        first = min(warp.apart)
        threads = warp.apart.pop(first)
        self.findings.done["divergent segments"] += 1
        following = self.code.segment(first, True)(warp, self, threads)
        if following == EXIT:
            raise NotImplementedError("threads that return one by one")
        if following is not None:
            warp.put(following, threads)
        warp.meet()

    # --- what generated code calls ------------------------------------------------------------------------------------

    def parameter(self, k: int, t: Type) -> np.ndarray:
        """A parameter of the kernel, for every thread."""
        return np.full(32, self.parameters[k] & ((1 << 8 * np.dtype(t).itemsize) - 1), dtype=t)

    def branch(
        self, warp: Warp, taken: np.ndarray, target: int, following: int, threads: np.ndarray | None
    ) -> int | None:
        """Where a conditional branch leads; None where it leads threads apart."""
        some = taken if threads is None else taken[threads]
        if some.all():
            return target
        if not some.any():
            return following
        everyone = np.ones(32, dtype=bool) if threads is None else threads
        warp.segment = None
        self.findings.done["divergent branches"] += 1
        warp.put(target, everyone & taken)
        warp.put(following, everyone & ~taken)
        return None

    def leave(self, warp: Warp, taken: np.ndarray, following: int, threads: np.ndarray | None) -> int:
        """A conditional return, of all threads or none."""
        if threads is not None or taken.any() != taken.all():
            raise NotImplementedError("threads that return one by one")
        return EXIT if taken.all() else following

    def at_barrier(self, warp: Warp, following: int, threads: np.ndarray | None, i: int) -> int:
        """A warp waits."""
        if threads is not None and not threads.all():
            self.findings.note("a barrier that part of a warp comes to", later=i)
        warp.waiting = True
        return following


def programs(grid: Sequence[int]) -> list[tuple[int, int, int]]:
    """The places of all programs of a grid."""
    x, y, z = (*grid, 1, 1)[:3]
    return [(i, j, k) for k in range(z) for j in range(y) for i in range(x)]
