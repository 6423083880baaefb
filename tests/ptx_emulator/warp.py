"""The registers of 32 threads, and where these are."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from .number_types import LANE, REGISTERS, U32
from .parser import Program


class Warp:
    """One warp of a program.

    Attributes:
        index, bit: which, and that as a bit. r, d, p, h: registers, see ``REGISTERS``. thread: number of each thread.
        segment: where all threads are, or None; then ``apart``: segment → those of them that are there.
        waiting: at a barrier. done: has returned.
        started: products of warp groups that may still run, with the cells of shared memory that they read.
        committed: how many of them each group has, oldest first. fenced: when it last fenced shared memory.
        syncs: counts bar.warp.sync.
    """

    def __init__(self, index: int, program: Program) -> None:
        self.index, self.bit = index, U32(1 << index)
        self.r, self.d, self.p, self.h = (
            [np.zeros(32, dtype=t)] * program.registers.get(kind, 0) for kind, (_, t) in REGISTERS.items()
        )
        self.thread = (index * 32 + LANE).astype(U32)
        self.segment: int | None = 0
        self.apart: dict[int, np.ndarray] = {}
        self.waiting = self.done = False
        self.started: list[tuple[Callable[[], None], np.ndarray]] = []
        self.committed: list[int] = []
        self.fenced = 0
        self.syncs = 1

    def put(self, segment: int, threads: np.ndarray) -> None:
        """Some threads are at a segment."""
        self.apart[segment] = self.apart[segment] | threads if segment in self.apart else threads

    def meet(self) -> None:
        """Threads that are all at one place go on together."""
        if len(self.apart) == 1:
            ((segment, threads),) = self.apart.items()
            if threads.all():
                self.segment, self.apart = segment, {}
