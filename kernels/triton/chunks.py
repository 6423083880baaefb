"""Which atoms go together: the active atoms of a batch by rising neighbour count, cut into chunks.

What kernels read of each atom is gathered once a batch, in that order; a chunk is a slice of it and computes nothing of
its own before its first kernel. Where chunks are cut is settled on the host, by neighbour counts or by more than those
(``cuda_graph.py`` leaves slack): kernels read how many neighbours there really are on the device.
"""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import Any

import numpy as np
import torch
from torch import Tensor

STEP = 4
"""Chunks begin at multiples of this: slices then begin at multiples of 16 bytes, as the whole does, and Triton does not
compile a kernel once more for each way in which they don't."""

ROWS = 16
"""In a chunk's arrays each atom's neighbours begin at a multiple of this many rows: numbers of rows lie in such groups,
and blocks of products begin where memory is aligned."""

INACTIVE = 2**31 - 1
"""Stands for the neighbour count of an atom that is not evaluated; it comes last."""


@dataclass(frozen=True)
class Chunk:
    """Atoms ``start`` to ``stop`` of the order, ``edges`` rows for the edges of all and ``most`` edges of one atom."""

    start: int
    stop: int
    edges: int
    most: int


@dataclass(frozen=True)
class Atoms:
    """Atoms in the order of their neighbour counts, on the device.

    Attributes:
        first (B,): first edge in the batch.
        at (B,): first row among those of these atoms, a multiple of ``ROWS``; only differences count.
        count, center_type, first_type (B,) int32: neighbours, own type, type of the structure's first atom.
        n_key, n_row (B,): empty slots that the softmax sees, and that carry −davg/dstd.
        extras (B, X): what the energy net reads besides the descriptor. energy (B,) eV, float64: to be written.
    """

    first: Tensor
    at: Tensor
    count: Tensor
    center_type: Tensor
    first_type: Tensor
    n_key: Tensor
    n_row: Tensor
    extras: Tensor
    energy: Tensor

    def __len__(self) -> int:
        return len(self.count)

    def part(self, chunk: Chunk) -> Atoms:
        """A chunk's atoms: views of these."""
        return Atoms(*(getattr(self, f.name)[chunk.start : chunk.stop] for f in fields(self)))


@dataclass(frozen=True)
class Order:
    """All atoms of a batch, active ones first, by rising neighbour count. (n,) each; see ``INACTIVE``."""

    count: Tensor
    atom: Tensor


def by_neighbors(batch: Any) -> Order:
    """The order of a batch's atoms, on its device."""
    counts = batch.counts.to(torch.int32).masked_fill(~batch.active, INACTIVE)
    return Order(*torch.sort(counts, stable=True))


def near(vector: Tensor, nearest: float) -> Tensor:
    """Whether any of the edges (e, 3) is shorter than ``nearest``, both in Å; on the device, a single number."""
    return (vector.square().sum(1) < nearest**2).any()


def read(order: Order, *flags: Tensor) -> tuple[Any, ...]:
    """What the host needs to know of a batch, in one transfer: the neighbour counts in order, and flags (single
    numbers) as bool."""
    whole = torch.cat([order.count, *(x.to(order.count.dtype).view(1) for x in flags)]).cpu()
    return whole[: len(order.count)], *map(bool, whole[len(order.count) :].tolist())


def cut(sizes: Tensor, bytes_per_edge: int, bytes_per_atom: int, chunk_bytes: int) -> list[Chunk]:
    """Chunks of as many atoms as ``chunk_bytes`` hold, at least ``STEP``.

    Args:
        sizes: (n,) on the host, rising: how many edges each atom may have; ``INACTIVE`` for those to be left out.
    """
    counts = sizes.numpy().astype(np.int64)
    counts = counts[counts < INACTIVE]
    rows = -(-counts // ROWS) * ROWS
    ends = np.cumsum(rows * bytes_per_edge + bytes_per_atom)
    chunks: list[Chunk] = []
    start, n = 0, len(counts)
    while start < n:
        before = ends[start - 1] if start else 0
        fit = int(np.searchsorted(ends, before + chunk_bytes, side="right")) - start
        stop = n if start + fit >= n else min(n, start + max(STEP, fit // STEP * STEP))
        chunks.append(Chunk(start, stop, int(rows[start:stop].sum()), int(counts[stop - 1])))
        start = stop
    return chunks
