"""All pairs closer than the cut-off, from a grid, by torch operations on any device.

The vector of a pair is (r_j − r_i) + S·cell with S·cell = (s₀ a + s₁ b) + s₂ c, its square (x² + y²) + z², one rounded
operation after another as in vesin: the same bits, and so the same pairs, however close to the cut-off.

Candidates are looked at in chunks of bounded memory, twice: first to say which are pairs, and after the one transfer
that tells the host how many, to write those down. A pair becomes one integer of centre, neighbour and image, so that
sorting integers puts pairs in their order (i, j, S), which nothing of grid or chunks is seen in.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ..neighbors import OVERLAP
from .grid import Grid

CANDIDATES = {"cuda": 1 << 22, "cpu": 1 << 20}
"""Candidates of a chunk; each takes about 150 bytes while they are looked at."""

TOO_CLOSE = OVERLAP**2 * (1.0 + 1e-9)
"""Å². What is closer is looked at by ``neighbors.py``, which says what is wrong."""

LARGEST_KEY = 1 << 62


def send(arrays: Sequence[np.ndarray[Any, Any]], device: torch.device) -> list[Tensor]:
    """Arrays of 8-byte numbers on a device, by one transfer."""
    flat = [np.ascontiguousarray(x).reshape(-1).view(np.int64) for x in arrays]
    whole = torch.from_numpy(np.concatenate(flat))
    if device.type == "cuda":
        whole = whole.pin_memory().to(device, non_blocking=True)
    parts = torch.split(whole, [len(x) for x in flat])  # type: ignore[no-untyped-call]
    kinds = {"f": torch.float64, "i": torch.int64}
    return [p.view(kinds[x.dtype.kind]).view(x.shape) for p, x in zip(parts, arrays, strict=True)]


@dataclass(frozen=True)
class Atoms:
    """A batch's atoms on the device; names as in ``Rows``. largest: atoms of the largest structure."""

    positions: Tensor
    cells: Tensor
    home: Tensor
    offsets: Tensor
    types: Tensor
    active: Tensor
    fparam: Tensor | None
    aparam: Tensor | None
    largest: int


@dataclass(frozen=True)
class _Chunk:
    """Atoms ``start`` to ``stop`` of the grid, with ``rows`` bins around them and ``size`` candidates in those."""

    start: int
    stop: int
    rows: int
    size: int


@dataclass(frozen=True)
class Near:
    """Which candidates are pairs.

    Attributes:
        masks: for each chunk, (candidates,). counts (m,): neighbours of each atom of the grid.
        totals: pairs of each chunk, on the device. too_close: whether any two atoms are, on the device.
    """

    masks: list[Tensor]
    counts: Tensor
    totals: list[Tensor]
    too_close: Tensor


@dataclass(frozen=True)
class Pairs:
    """center, neighbor (e,): atoms of the batch. vector (e, 3) Å; sorted by centre, neighbour and image."""

    center: Tensor
    neighbor: Tensor
    vector: Tensor

    def take(self, place: Tensor) -> Pairs:
        """Those at these places."""
        return Pairs(self.center[place], self.neighbor[place], self.vector[place])


class PairSearch:
    """Finds the pairs of a grid.

    Args:
        grid: where to look. atoms: of the batch. cutoff: Å. candidates: how many at a time.
    """

    def __init__(self, grid: Grid, atoms: Atoms, cutoff: float, candidates: int) -> None:
        self.grid, self.atoms, self.square = grid, atoms, cutoff * cutoff
        self.device = atoms.positions.device
        self.chunks = _chunks(grid, candidates)
        away = np.zeros((0, 3), dtype=np.int64) if grid.away is None else grid.away
        grids = (grid.atom, grid.first_pair, grid.pairs, grid.first, grid.count, grid.shift, grid.home)
        self.atom, self.first_pair, self.pairs, self.first, self.count, self.shift, home, *rest = send(
            [*grids, np.cumsum(grid.candidates), away, grid.low], self.device
        )
        self.ends, self.away, self.low = rest
        self.here = atoms.positions[self.atom]
        self.through = self._image(self.shift, home)
        self.inside = (self.shift == 0).all(dim=1)

    @property
    def countable(self) -> bool:
        """Whether centre, neighbour and image fit in one integer."""
        return len(self.atoms.home) * self.atoms.largest * float(np.prod(self.grid.wide.astype(float))) < LARGEST_KEY

    def _image(self, shift: Tensor, home: Tensor) -> Tensor:
        """S·cell, (k, 3) Å, of shifts (k, 3) in structures (k,)."""
        s, cell = shift.to(torch.float64), self.atoms.cells
        if len(cell) == 1:
            a, b, c = cell[0]
        else:
            a, b, c = (cell[:, k][home] for k in range(3))
        image: Tensor = (s[:, :1] * a + s[:, 1:2] * b) + s[:, 2:] * c
        return image

    def _rows(self, chunk: _Chunk) -> tuple[Tensor, Tensor, Tensor]:
        """Of each bin around each atom of a chunk: the atom, the entry of the bin, and how many atoms it has."""
        pairs = self.pairs[chunk.start : chunk.stop]
        local = torch.repeat_interleave(pairs, output_size=chunk.rows)
        begin = self.first_pair[chunk.start : chunk.stop] - (torch.cumsum(pairs, 0) - pairs)
        entry = begin[local] + torch.arange(chunk.rows, device=self.device)
        return local + chunk.start, entry, self.count[entry]

    def _vector(self, i: Tensor, j: Tensor, entry: Tensor) -> Tensor:
        """(k, 3) Å, of atoms of the grid and the bin that the second was found in."""
        d = self.here[j] - self.here[i]
        if self.away.numel() == 0:
            return d + self.through[entry]
        return d + self._image(self._shift(i, j, entry), self.atoms.home[self.atom[i]])

    def _shift(self, i: Tensor, j: Tensor, entry: Tensor) -> Tensor:
        shift = self.shift[entry]
        return shift if self.away.numel() == 0 else shift + self.away[i] - self.away[j]

    def near(self) -> Near:
        """Says which candidates are pairs. Reads nothing back."""
        masks, totals = [], []
        counts = torch.zeros(len(self.atom), dtype=torch.int64, device=self.device)
        too_close = torch.zeros((), dtype=torch.bool, device=self.device)
        for chunk in self.chunks:
            atom, entry, length = self._rows(chunk)
            row = torch.repeat_interleave(length, output_size=chunk.size)
            begin = self.first[entry] - (torch.cumsum(length, 0) - length)
            j = begin[row] + torch.arange(chunk.size, device=self.device)
            i, entry = atom[row], entry[row]
            d = self._vector(i, j, entry)
            square = d.square()
            r2 = (square[:, 0] + square[:, 1]) + square[:, 2]
            mask = (r2 < self.square) & ~((i == j) & self.inside[entry])
            too_close |= (mask & (r2 < TOO_CLOSE)).any()
            so_far = torch.nn.functional.pad(torch.cumsum(mask, 0), (1, 0))
            before = 0 if chunk.start == 0 else self.ends[chunk.start - 1]
            ends = torch.nn.functional.pad(self.ends[chunk.start : chunk.stop] - before, (1, 0))
            counts[chunk.start : chunk.stop] = torch.diff(so_far[ends])
            masks.append(mask)
            totals.append(so_far[-1])
        return Near(masks, counts, totals, too_close)

    def found(self, near: Near, totals: Sequence[int]) -> Pairs:
        """The pairs, where ``totals`` are those of ``near``, read by the host."""
        w0, w1, w2 = (int(x) for x in self.grid.wide)
        keys = [torch.zeros(0, dtype=torch.int64, device=self.device)]
        for chunk, mask, total in zip(self.chunks, near.masks, totals, strict=True):
            if not total:
                continue
            atom, entry, length = self._rows(chunk)
            place = torch.nonzero_static(mask, size=total).view(-1)
            ends = torch.cumsum(length, 0)
            row = torch.searchsorted(ends, place, right=True)
            i, entry = atom[row], entry[row]
            j = self.first[entry] + place - (ends - length)[row]
            s = self._shift(i, j, entry) - self.low
            center, neighbor = self.atom[i], self.atom[j]
            own = neighbor - self.atoms.offsets[self.atoms.home[center]]
            keys.append(((center * self.atoms.largest + own) * w0 + s[:, 0]) * (w1 * w2) + s[:, 1] * w2 + s[:, 2])
        key = torch.sort(torch.cat(keys)).values
        pair, packed = key // (w0 * w1 * w2), key % (w0 * w1 * w2)
        center = pair // self.atoms.largest
        home = self.atoms.home[center]
        neighbor = pair % self.atoms.largest + self.atoms.offsets[home]
        shift = torch.stack([packed // (w1 * w2), packed // w2 % w1, packed % w2], dim=1)
        shift = shift + self.low
        vector = (self.atoms.positions[neighbor] - self.atoms.positions[center]) + self._image(shift, home)
        return Pairs(center, neighbor, vector)


def _chunks(grid: Grid, most: int) -> list[_Chunk]:
    """The atoms of a grid in pieces of about ``most`` candidates; atoms without any cost nothing."""
    ends, rows = np.cumsum(grid.candidates), np.cumsum(grid.pairs)
    chunks, start, n = [], 0, len(ends)
    while start < n:
        before, above = (int(ends[start - 1]), int(rows[start - 1])) if start else (0, 0)
        stop = min(n, max(start + 1, int(np.searchsorted(ends, before + most, side="right"))))
        chunks.append(_Chunk(start, stop, int(rows[stop - 1]) - above, int(ends[stop - 1]) - before))
        start = stop
    return chunks
