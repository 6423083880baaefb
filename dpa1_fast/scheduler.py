"""What is evaluated together: packs of structures by memory and cost, prepared ahead, halved where they do not fit.

Work is counted in atoms and their neighbours, not in structures: a pack ends where its edges fill the memory budget or
its predicted cost is enough to keep a device busy. Inside of it a backend takes atoms by neighbour count across
structures. A pack that does not fit after all is cut in half until it does, a structure between its atoms if it must
be, and later packs are made no larger. Results do not depend on any of this.
"""

from __future__ import annotations

import time
import warnings
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch

from .config import DPA1Config
from .cost import Array, Cost, features
from .errors import DPA1Warning, StructureError
from .kernels.outputs import Outputs
from .prefetch import prefetch
from .splitting import BYTES_PER_ATOM, BYTES_PER_EDGE, bytes_of, halves, merge_outputs
from .structures.batch import Batch, Neighborhood, collate

Evaluator = Callable[[Batch], Outputs]
"""A backend."""

BUDGET = {"cpu": 1 << 27, "cuda": 1 << 31}
"""Bytes that a pack and its results may take, and on a GPU never more than a quarter of what is free."""

PACK_SECONDS = 0.1
"""Predicted work of a pack: long against what comes between packs, short against the patience of a progress bar."""

SMALLEST_BUDGET = 1 << 20
"""A budget is not halved below this: what is smaller and does not fit is cut when it comes."""
REGROWN = 64
"""After so many packs without trouble a halved budget is doubled: others may have freed what they took."""

OUT_OF_MEMORY = ("out of memory", "can't allocate memory", "not enough memory", "Failed to allocate", "bad_alloc")


def out_of_memory(error: BaseException) -> bool:
    """Whether an error means that something did not fit."""
    if isinstance(error, MemoryError | torch.OutOfMemoryError):
        return True
    return isinstance(error, RuntimeError) and any(words in str(error) for words in OUT_OF_MEMORY)


@dataclass(frozen=True)
class Pack:
    """Structures that go together, or errors in their places.

    Attributes:
        parts: in the caller's order. batch: of those that are no errors, None where all are. features: see ``cost``.
        moved: the batch on its way to the device, where that was begun early.
    """

    parts: Sequence[Neighborhood | StructureError]
    batch: Batch | None
    features: Array
    moved: Batch | None = None


class Scheduler:
    """Evaluates any number of structures in constant memory.

    Args:
        config: the model's. run: a backend. device: where it runs.
        budget: bytes for a pack with its results; by default chosen for the device.
    """

    def __init__(self, config: DPA1Config, run: Evaluator, device: torch.device, budget: int | None = None) -> None:
        self.config, self.run, self.device = config, run, device
        if budget is None:
            budget = BUDGET.get(device.type, BUDGET["cpu"])
            if device.type == "cuda":
                budget = min(budget, torch.cuda.mem_get_info(device)[0] // 4)
        self.budget = self._most = budget
        self._calm = 0
        self.cost = Cost(config)
        self._told = False
        self._copies = torch.cuda.Stream(device) if device.type == "cuda" else None  # type: ignore[no-untyped-call]

    def stream(
        self, parts: Iterable[Neighborhood | StructureError]
    ) -> Iterator[tuple[Sequence[Neighborhood | StructureError], Batch | None, Outputs | None]]:
        """Packs with their results, on the CPU, in the order of ``parts``.

        ``parts`` is read, packed and sent on a thread of its own, and evaluated on another; where one pack holds all
        there is, none is needed and none is made.
        """
        packs = self._packs(parts)
        first = next(packs, None)
        if first is None:
            return
        yield self._evaluate(first)
        second = next(packs, None)
        if second is None:
            return
        # Three stages: one pack is made, one evaluated, and the caller works on the results of one.
        yield from prefetch(map(self._evaluate, prefetch(_chained(second, packs))), depth=1)

    # --- packing --------------------------------------------------------------------------------------------------

    def outputs(self, batch: Batch) -> Outputs:
        """Of a whole batch, in as many pieces as fit."""
        return self._within_memory(batch)

    def _packs(self, parts: Iterable[Neighborhood | StructureError]) -> Iterator[Pack]:
        group: list[Neighborhood | StructureError] = []
        size, seconds = 0, 0.0
        for part in parts:
            if isinstance(part, Neighborhood):
                own = len(part.edges.center) * BYTES_PER_EDGE + len(part.structure) * BYTES_PER_ATOM
                if group and (size + own > self.budget or seconds > PACK_SECONDS):
                    yield self._pack(group)
                    group, size, seconds = [], 0, 0.0
                size += own
                seconds += self.cost.of(features(part.n_filled))
            group.append(part)
        if group:
            yield self._pack(group)

    def _pack(self, group: list[Neighborhood | StructureError]) -> Pack:
        good = [p for p in group if isinstance(p, Neighborhood)]
        if not good:
            return Pack(group, None, np.zeros(3))
        batch = collate(self.config, good)
        return Pack(group, batch, features(batch.counts.numpy()), self._sent(batch))

    def _sent(self, batch: Batch) -> Batch | None:
        """The batch on its way to a GPU, from pinned memory and beside what is running there."""
        if self._copies is None or bytes_of(batch) > self.budget:
            return None
        with torch.cuda.stream(self._copies):
            try:
                return batch.pinned().to(self.device, non_blocking=True)
            except torch.OutOfMemoryError:
                return None  # what is running may have taken it; it will be tried again when that is done

    # --- evaluating -----------------------------------------------------------------------------------------------

    def _evaluate(self, pack: Pack) -> tuple[Sequence[Neighborhood | StructureError], Batch | None, Outputs | None]:
        if pack.batch is None:
            return pack.parts, None, None
        began = time.perf_counter()
        outputs = self._within_memory(pack.batch, pack.moved)
        self.cost.learn(pack.features, time.perf_counter() - began)
        self._calm += 1
        if self._calm >= REGROWN and self.budget < self._most:
            self._calm, self.budget = 0, min(self._most, 2 * self.budget)
        return pack.parts, pack.batch, outputs

    def _within_memory(self, batch: Batch, moved: Batch | None = None) -> Outputs:
        pair = halves(batch) if bytes_of(batch) > self.budget else None
        if pair is None:
            try:
                if moved is not None and self._copies is not None:
                    torch.cuda.current_stream(self.device).wait_stream(self._copies)
                return self.run(batch.to(self.device) if moved is None else moved).cpu()
            except (MemoryError, RuntimeError) as error:
                pair = halves(batch) if out_of_memory(error) else None
                if pair is None:
                    raise
                self._shrink(batch, error)
        # Outside of the except block: its traceback holds on to what was allocated.
        return merge_outputs(batch, self._within_memory(pair[0]), self._within_memory(pair[1]))

    def _shrink(self, batch: Batch, error: BaseException) -> None:
        self._calm = 0
        self.budget = max(min(SMALLEST_BUDGET, self.budget), min(self.budget, bytes_of(batch)) // 2)
        if self.device.type == "cuda":
            torch.cuda.empty_cache()
        if not self._told:
            self._told = True
            warnings.warn(
                f"out of memory with {batch.n_atoms:,} atoms at a time ({' '.join(str(error).split())[:120]}); "
                "going on with half as many, results are the same (said once)",
                DPA1Warning,
                stacklevel=6,
            )


def _chained(first: Pack, rest: Iterator[Pack]) -> Iterator[Pack]:
    yield first
    yield from rest
