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
from contextlib import nullcontext
from dataclasses import dataclass
from functools import partial

import numpy as np
import torch

from .config import DPA1Config
from .cost import Array, Cost, features
from .errors import DPA1Warning, StructureError
from .kernels.outputs import Outputs
from .prefetch import prefetch
from .splitting import BYTES_PER_ATOM, BYTES_PER_EDGE, bytes_of, halves, merge_outputs
from .structures.batch import Batch, Neighborhood, collate, neighborhood
from .structures.on_device.rows import Rows
from .structures.on_device.search import DeviceSearch, expected_neighbors
from .structures.structure import Structure

Evaluator = Callable[[Batch], Outputs]
"""A backend."""

Part = Neighborhood | Structure | StructureError
"""What is to be evaluated: with its neighbours, or without, where the device finds them; or an error in its place."""

BUDGET = {"cpu": 1 << 27, "cuda": 1 << 31}
"""Bytes that a pack and its results may take, and on a GPU never more than a quarter of what is free."""

PACK_SECONDS = 0.1
"""Predicted work of a pack: long against what comes between packs, short against the patience of a progress bar."""

SEARCH_BYTES_PER_EDGE = 400
"""What a search on a GPU takes at most for each pair that it finds, with what it looked at for that."""

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

    parts: Sequence[Part]
    batch: Batch | None
    features: Array
    moved: Batch | None = None


class Scheduler:
    """Evaluates any number of structures in constant memory.

    Args:
        config: the model's. run: a backend. device: where it runs.
        budget: bytes for a pack with its results; by default chosen for the device.
        search: finds the neighbours of parts that come without; None: there are no such parts.
        run_hidden: as ``run``, giving ``OutputsWithHidden``; for callers that ask for it.
    """

    def __init__(
        self, config: DPA1Config, run: Evaluator, device: torch.device, budget: int | None = None,
        search: DeviceSearch | None = None, run_hidden: Evaluator | None = None,
    ) -> None:  # fmt: skip
        self._run_hidden = run_hidden or run
        self.config, self.run, self.device, self.search = config, run, device, search
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
        self, parts: Iterable[Part], gradient: bool = True, hidden: bool = False
    ) -> Iterator[tuple[Sequence[Part], Batch | None, Outputs | None]]:
        """Packs with their results, on the CPU, in the order of ``parts``; without ``gradient``, dE/dd is left out.

        ``parts`` is read, packed and sent on a thread of its own, and evaluated on another; where one pack holds all
        there is, none is needed and none is made.
        """
        packs = self._packs(parts)
        evaluate = partial(self._evaluate, gradient=gradient, hidden=hidden)
        first = next(packs, None)
        if first is None:
            return
        yield evaluate(first)
        second = next(packs, None)
        if second is None:
            return
        # Three stages: one pack is made, one evaluated, and the caller works on the results of one.
        yield from prefetch(map(evaluate, prefetch(_chained(second, packs))), depth=1)

    # --- packing --------------------------------------------------------------------------------------------------

    def outputs(self, batch: Batch, gradient: bool = True, hidden: bool = False) -> Outputs:
        """Of a whole batch, in as many pieces as fit; without ``gradient``, dE/dd is left out."""
        return self._within_memory(batch, gradient=gradient, hidden=hidden)

    def _packs(self, parts: Iterable[Part]) -> Iterator[Pack]:
        group: list[Part] = []
        size, seconds, kind = 0, 0.0, None
        for part in map(self._fitting, parts):
            if not isinstance(part, StructureError):
                own, work = self._size(part)
                other = kind not in (None, type(part))
                if group and (other or size + own > self.budget or seconds > PACK_SECONDS):
                    yield self._pack(group)
                    group, size, seconds = [], 0, 0.0
                size, seconds, kind = size + own, seconds + work, type(part)
            group.append(part)
        if group:
            yield self._pack(group)

    def _size(self, part: Neighborhood | Structure) -> tuple[int, float]:
        """Bytes and seconds that a part takes; before its neighbours are known, about."""
        if isinstance(part, Neighborhood):
            own = len(part.edges.center) * BYTES_PER_EDGE + len(part.structure) * BYTES_PER_ATOM
            return own, self.cost.of(features(part.n_filled))
        n, each = len(part), expected_neighbors(self.config, part)
        return int(n * (each * BYTES_PER_EDGE + BYTES_PER_ATOM)), self.cost.of(n * np.array([1.0, each, each * each]))

    def _fitting(self, part: Part) -> Part:
        """What is too large to be searched in the device's memory, with its neighbours."""
        if isinstance(part, Structure) and self.device.type == "cuda" and self._size(part)[0] > self.budget:
            needed = SEARCH_BYTES_PER_EDGE * len(part) * expected_neighbors(self.config, part)
            if needed > torch.cuda.mem_get_info(self.device)[0] / 2:
                return self._on_host(part)
        return part

    def _on_host(self, part: Part) -> Part:
        try:
            return neighborhood(self.config, part) if isinstance(part, Structure) else part
        except StructureError as error:
            return error

    def _pack(self, group: list[Part]) -> Pack:
        atoms = sum(len(p) for p in group if isinstance(p, Structure))
        if atoms and self.search is not None:
            try:
                if self.search.worth(atoms):
                    return self._searched(group, self.search)
            except (MemoryError, RuntimeError) as error:
                if not out_of_memory(error):
                    raise
            # Outside of the except block: its traceback holds on to what was allocated.
            group = [self._on_host(p) for p in group]
        good = [p for p in group if isinstance(p, Neighborhood)]
        if not good:
            return Pack(group, None, np.zeros(3))
        batch = collate(self.config, good)
        return Pack(group, batch, features(batch.counts.numpy()), self._sent(batch))

    def _searched(self, group: list[Part], search: DeviceSearch) -> Pack:
        """A pack whose batch is made on the device, beside what is running there."""
        with nullcontext() if self._copies is None else torch.cuda.stream(self._copies):
            while True:
                places = [k for k, p in enumerate(group) if isinstance(p, Structure)]
                if not places:
                    return Pack(group, None, np.zeros(3))
                found = search.batch(Rows.of([group[k] for k in places]))  # type: ignore[misc]
                if not found.errors:
                    moved = None if self._copies is None else found.batch
                    return Pack(group, found.batch, found.features, moved)
                group = list(group)
                for k, error in found.errors.items():
                    group[places[k]] = error

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

    def _evaluate(
        self, pack: Pack, gradient: bool, hidden: bool
    ) -> tuple[Sequence[Part], Batch | None, Outputs | None]:
        if pack.batch is None:
            return pack.parts, None, None
        began = time.perf_counter()
        if pack.moved is not None and self._copies is not None:
            current = torch.cuda.current_stream(self.device)
            current.wait_stream(self._copies)
            pack.moved.used_by(current)
        outputs = self._within_memory(pack.batch, pack.moved, gradient=gradient, hidden=hidden)
        self.cost.learn(pack.features, time.perf_counter() - began)
        self._calm += 1
        if self._calm >= REGROWN and self.budget < self._most:
            self._calm, self.budget = 0, min(self._most, 2 * self.budget)
        return pack.parts, pack.batch, outputs

    def _within_memory(self, batch: Batch, moved: Batch | None = None, *, gradient: bool, hidden: bool) -> Outputs:
        run = self._run_hidden if hidden else self.run
        pair = halves(batch) if bytes_of(batch) > self.budget else None
        if pair is None:
            try:
                return run(batch.to(self.device) if moved is None else moved).cpu(gradient)
            except (MemoryError, RuntimeError) as error:
                pair = halves(batch) if out_of_memory(error) else None
                if pair is None:
                    raise
                self._shrink(batch, error)
        # Outside of the except block: its traceback holds on to what was allocated.
        return merge_outputs(batch, *(self._within_memory(half, gradient=gradient, hidden=hidden) for half in pair))

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
