"""Batch after batch of the same atoms, as in molecular dynamics: captured once and replayed as a CUDA graph.

A graph does what it did when it was captured, on the memory that it had. So everything that changes from step to step
(edges, neighbour counts, parameters) stands in buffers that never move, with room for more edges than there are, and
whatever the host decides (chunks, grids, memory) is decided by the room and not by the step. ``TritonEvaluator.run``
reads nothing back from the device and is captured as it is.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, Protocol

import torch
from torch import Tensor

from ..outputs import Outputs
from . import chunks
from .evaluator import TritonEvaluator

SLACK = 1.15
"""Room for edges over those of the step that was captured."""
ROOM_STEP = 16
"""Room of one atom is a multiple of this, the fewest rows of a tile."""


class Capture(Protocol):
    """Captures what a function runs on the device."""

    def __call__(self, run: Callable[[], Outputs]) -> tuple[Callable[[], None], Outputs]:
        """What does it again, and the tensors that hold its results after that."""


class CudaCapture:
    """Captures on the current CUDA device."""

    def __call__(self, run: Callable[[], Outputs]) -> tuple[Callable[[], None], Outputs]:
        """See ``Capture``. Runs once before: kernels are compiled and loaded then, which a capture can't do."""
        stream = torch.cuda.Stream()  # type: ignore[no-untyped-call]
        stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(stream):
            run()
        torch.cuda.current_stream().wait_stream(stream)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph, stream=stream, capture_error_mode="thread_local"):
            out = run()
        return graph.replay, out


@dataclass(frozen=True)
class _Atoms:
    """Which batches are of the same atoms: types, active and offsets, where the batch has them, and all shapes."""

    types: Tensor
    active: Tensor
    offsets: Tensor
    shapes: tuple[Any, ...]

    @classmethod
    def of(cls, batch: Any) -> _Atoms:
        """A batch's."""
        return cls(batch.types.clone(), batch.active.clone(), batch.offsets.clone(), _shapes(batch))

    def alike(self, batch: Any) -> bool:
        """Whether a batch may be of these, by what the host knows of it."""
        return self.shapes == _shapes(batch)

    def same(self, batch: Any) -> Tensor:
        """Whether a batch that is alike is of these: a number, where the batch is."""
        pairs = ((self.types, batch.types), (self.active, batch.active), (self.offsets, batch.offsets))
        return torch.stack([(a == b).all() for a, b in pairs]).all()


@dataclass(frozen=True)
class _Captured:
    """A capture. room (B,): how many neighbours the atoms may have, rising, on the host. batch: the buffers that
    ``replay`` reads. out: what it writes."""

    room: Tensor
    batch: Any
    replay: Callable[[], None]
    out: Outputs

    def fits(self, batch: Any, counts: Tensor) -> bool:
        """Whether there is room for a batch's edges. counts: (B,) on the host, rising."""
        return len(batch.neighbor) <= len(self.batch.neighbor) and bool((counts <= self.room).all())


class GraphedEvaluator:
    """Evaluates like ``TritonEvaluator``, fast for batches of the same atoms one after another.

    A batch of other atoms than the last (types, activity or structures differ) is evaluated as ever. The next one of
    the same atoms is captured, with room for 15 % more edges, and further ones are replayed; one that has too many
    edges for the room is captured anew. A capture takes as long as two evaluations and holds the memory of its chunks
    until other atoms come.

    Args:
        evaluator: what is captured. capture: ``CudaCapture()``, or what stands in for it.

    Attributes:
        captures, replays: how many there were.
    """

    def __init__(self, evaluator: TritonEvaluator, capture: Capture) -> None:
        self.evaluator, self.capture = evaluator, capture
        self.captures = self.replays = 0
        self._last: _Atoms | None = None
        self._captured: _Captured | None = None

    def __call__(self, batch: Any) -> Outputs:
        """See ``TritonEvaluator``; the batch may be on the host or on the device."""
        with self.evaluator.on_device():
            if self._last is None or not self._last.alike(batch):
                return self._other(batch)
            order = chunks.by_neighbors(batch)
            sizes, near, same = chunks.read(order, self.evaluator.near(batch), self._last.same(batch))
            if not same:
                return self._other(batch)
            if near and self.evaluator.model.sampled:
                return self._plain(batch, order, sizes, near=True)
            counts = sizes[sizes < chunks.INACTIVE]
            if self._captured is None or not self._captured.fits(batch, counts):
                self._captured = None  # its memory serves the next
                self._captured = self._record(batch, counts)
            _fill(self._captured.batch, batch)
            self._captured.replay()
            self.replays += 1
            energy, gradient, forces, virials = self._captured.out
            return Outputs(energy.clone(), gradient[: len(batch.neighbor)].clone(), forces.clone(), virials.clone())

    def _other(self, batch: Any) -> Outputs:
        """A batch of atoms that were not the last ones."""
        self._captured, self._last = None, _Atoms.of(batch)
        return self.evaluator(batch)

    def _plain(self, batch: Any, order: chunks.Order, sizes: Tensor, *, near: bool) -> Outputs:
        """Without a graph. What the host knows of a batch on the device is not read again."""
        if batch.vector.device.type != self.evaluator.device.type:
            return self.evaluator(batch)
        return self.evaluator.run(batch, order, self.evaluator.chunks(sizes), near=near)

    def _record(self, batch: Any, counts: Tensor) -> _Captured:
        room = (counts * SLACK + 1).div(ROOM_STEP).ceil().long() * ROOM_STEP
        cut = self.evaluator.chunks(room)
        static = _buffers(batch, self.evaluator.device)
        _fill(static, batch)  # the warm-up runs on these numbers
        replay, out = self.capture(lambda: self.evaluator.run(static, chunks.by_neighbors(static), cut))
        self.captures += 1
        return _Captured(room, static, replay, out)


def _buffers(batch: Any, device: torch.device) -> Any:
    """A batch with the same atoms on the device, in memory of its own, with room for more edges."""
    edges = int(len(batch.neighbor) * SLACK) + ROOM_STEP

    def own(x: Tensor) -> Tensor:
        return torch.empty(x.shape, dtype=x.dtype, device=device).copy_(x)

    names = ("types", "structure", "offsets", "active", "first_edge", "n_filled", "fparam", "aparam")
    parts = {k: own(x) for k in names if (x := getattr(batch, k)) is not None}
    neighbor = torch.empty(edges, dtype=torch.int64, device=device)
    vector = torch.empty(edges, 3, dtype=torch.float64, device=device)
    return replace(batch, **parts, center=neighbor[:0], neighbor=neighbor, vector=vector)


def _fill(static: Any, batch: Any) -> None:
    """Copies a batch's numbers into the buffers."""
    edges = len(batch.neighbor)
    static.vector[:edges].copy_(batch.vector, non_blocking=True)
    static.neighbor[:edges].copy_(batch.neighbor, non_blocking=True)
    static.neighbor[edges:].fill_(batch.n_atoms)
    for name in ("first_edge", "n_filled", "fparam", "aparam"):
        if getattr(batch, name) is not None:
            getattr(static, name).copy_(getattr(batch, name), non_blocking=True)


def _shapes(batch: Any) -> tuple[Any, ...]:
    shapes = tuple(None if x is None else x.shape for x in (batch.fparam, batch.aparam))
    return batch.types.shape, batch.offsets.shape, batch.types.device, *shapes
