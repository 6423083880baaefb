"""Batches whose neighbour lists are made where they are evaluated.

The host sends atoms and a grid (``grid.py``), the device finds the pairs (``pairs.py``) and does what the model leaves
out, and one transfer tells the host how much there was: pairs, neighbour counts, whether atoms overlap. There is a
second transfer where atoms have more than ``sel`` neighbours and the model leaves pairs of types out, and where atoms
overlap. What the grid does not suit is searched on the host by ``neighbors.py`` and put in its place.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from ...config import DPA1Config
from ...errors import StructureError
from ..batch import Batch
from ..neighbors import Edges, neighbor_edges
from ..structure import Structure
from . import grid
from .pairs import CANDIDATES, TOO_CLOSE, Atoms, Near, Pairs, PairSearch, send
from .rows import Array, Mask, Rows

FEWEST, FEWEST_MOVING = 400, 900
"""Atoms below which the host is done sooner than a GPU has begun its hundred small operations: with a search, and with
looking through the list that ``Verlet`` keeps. From an H100's times for 192 and 1,536 atoms: 12.4 ms on the device for
either, 6.6 and 38.7 on the host; a step of moving atoms 8.3 ms, and 5.3 and 10.8."""


@dataclass(frozen=True)
class Found:
    """A batch on the device.

    Attributes:
        batch: of all structures; those with an error have no edge and no active atom in it.
        errors: of structures that cannot be evaluated, by their place.
        features (3,): atoms, Σ n, Σ n² over their counts n of neighbours, see ``cost.py``.
        transfers: how often the host waited for the device.
    """

    batch: Batch
    errors: dict[int, StructureError]
    features: Array
    transfers: int


@dataclass(frozen=True)
class _OnHost:
    """What was searched on the host, sent to the device: pairs, and how many each atom (n,) has."""

    pairs: Pairs
    counts: Tensor


class _Said(NamedTuple):
    """What the host reads: atoms over ``sel`` and the largest count; pairs that stay, and the sum of the squares of
    their counts; whether atoms overlap; pairs of each chunk."""

    over: int
    most: int
    kept: int
    squares: int
    too_close: bool
    totals: list[int]


class DeviceSearch:
    """Searches structures and makes batches of them.

    Args:
        config: the model's. device: where. candidates: pairs looked at at a time, by default as the device likes it.
        always: whether it is worth while however few atoms there are.
    """

    def __init__(
        self, config: DPA1Config, device: torch.device, candidates: int | None = None, always: bool = True
    ) -> None:
        self.config, self.device, self.always = config, device, always
        self.candidates = candidates or CANDIDATES.get(device.type, CANDIDATES["cpu"])
        table = np.ones((2, config.ntypes, config.ntypes), dtype=bool)
        for own, pairs in zip(table, (config.pair_exclude_types, config.exclude_types), strict=True):
            for a, b in pairs:
                if 0 <= a < config.ntypes and 0 <= b < config.ntypes:
                    own[a, b] = own[b, a] = False
        self._excludes = not table.all()
        self._seen = torch.from_numpy(table).to(device)

    def worth(self, atoms: int, moving: bool = False) -> bool:
        """Whether so many atoms are searched here sooner than on the host, where moving ones keep their lists."""
        return self.always or atoms >= (FEWEST_MOVING if moving else FEWEST)

    def batch(self, rows: Rows, broken: dict[int, StructureError] | None = None) -> Found:
        """The batch of structures.

        Args:
            broken: structures that are known not to be fit for a search.
        """
        errors = dict(broken or {})
        by_host: dict[int, Edges] = {}
        transfers = 0
        while True:
            wanted = np.ones(len(rows.structures), dtype=bool)
            wanted[[*errors, *by_host]] = False
            found, left, more = self._try(rows, wanted, errors, by_host)
            transfers += more
            if found is not None:
                return replace(found, transfers=transfers)
            for k in left:
                try:
                    by_host[k] = neighbor_edges(rows.at(k), self.config.rcut)
                except StructureError as error:
                    errors[k] = error

    def _try(
        self, rows: Rows, wanted: Mask, errors: dict[int, StructureError], by_host: dict[int, Edges]
    ) -> tuple[Found | None, Sequence[int], int]:
        """The batch; or None, and the structures that the host is to search. Last, how often the host waited."""
        where = grid.make(rows, wanted, self.config.rcut)
        left = np.flatnonzero(where.left & wanted).tolist()
        if left:
            return None, left, 0
        atoms, host = self._sent(rows, errors, by_host)
        search = PairSearch(where, atoms, self.config.rcut, self.candidates)
        if not search.countable:
            return None, np.flatnonzero(wanted).tolist(), 0
        near = search.near()
        counts = torch.zeros_like(atoms.home).index_put((search.atom,), near.counts)
        if host is not None:
            counts = counts + host.counts
        said = self._read(counts, near)
        pairs = search.found(near, said.totals)
        if said.too_close:
            close = (pairs.vector.square().sum(1) < 2.0 * TOO_CLOSE).nonzero().view(-1)
            return None, sorted(set(atoms.home[pairs.center[close]].tolist())), 2
        if host is not None:
            pairs = _merged(pairs, host)
        batch = self._batch(atoms, *self._nearest(pairs, counts, said), said)
        if self._excludes:
            batch = self._without_excluded(batch)
        features = np.array([len(rows.types), said.kept, said.squares], dtype=np.float64)
        return Found(batch, errors, features, 0), (), 1 + self._excludes

    def _sent(
        self, rows: Rows, errors: dict[int, StructureError], by_host: dict[int, Edges]
    ) -> tuple[Atoms, _OnHost | None]:
        """All that the device needs of the host, in one transfer."""
        active = (rows.types >= 0) & ~np.isin(rows.types, self.config.atom_exclude_types)
        if errors:
            active &= ~np.isin(rows.home, list(errors))
        arrays: dict[str, Any] = {
            "positions": rows.positions, "cells": rows.cells, "home": rows.home, "offsets": rows.offsets,
            "types": rows.types, "active": active.astype(np.int64), "fparam": rows.fparam, "aparam": rows.aparam,
        }  # fmt: skip
        if by_host:
            ordered = sorted(by_host)
            first = [int(rows.offsets[k]) for k in ordered]
            arrays["center"] = np.concatenate([by_host[k].center + o for k, o in zip(ordered, first, strict=True)])
            arrays["neighbor"] = np.concatenate([by_host[k].neighbor + o for k, o in zip(ordered, first, strict=True)])
            arrays["vector"] = np.concatenate([by_host[k].vector for k in ordered])
            arrays["counts"] = np.bincount(arrays["center"], minlength=len(rows.types))
        given = {name: x for name, x in arrays.items() if x is not None}
        there: dict[str, Any] = dict.fromkeys(arrays) | dict(
            zip(given, send(list(given.values()), self.device), strict=True)
        )
        there["active"] = there["active"].bool()
        host = None
        if by_host:
            host = _OnHost(Pairs(*(there.pop(x) for x in ("center", "neighbor", "vector"))), there.pop("counts"))
        return Atoms(**there, largest=int(np.diff(rows.offsets).max())), host

    def _read(self, counts: Tensor, near: Near) -> _Said:
        """What the host has to know, by one transfer. counts: (n,) of all atoms."""
        kept = counts.clamp(max=self.config.nsel)
        numbers = [(counts > kept).sum(), counts.max(), kept.sum(), kept.square().sum(), near.too_close.long()]
        over, most, total, squares, too_close, *totals = torch.stack([*numbers, *near.totals]).tolist()
        return _Said(over, most, total, squares, bool(too_close), totals)

    def _nearest(self, pairs: Pairs, counts: Tensor, said: _Said) -> tuple[Pairs, Tensor]:
        """The nearest ``sel`` of each atom, as ``batch.visible`` has them, and how many there are of each."""
        if not said.over:
            return pairs, counts
        square = pairs.vector.square()
        by_distance = torch.argsort(((square[:, 0] + square[:, 1]) + square[:, 2]).sqrt(), stable=True)
        order = by_distance[torch.argsort(pairs.center[by_distance], stable=True)]
        first = torch.cumsum(counts, 0) - counts
        rank = torch.arange(len(order), device=self.device) - first[pairs.center]
        keep = torch.zeros_like(order, dtype=torch.bool).scatter_(0, order, rank < self.config.nsel)
        place = torch.nonzero_static(keep, size=said.kept).view(-1)
        return pairs.take(place), counts.clamp(max=self.config.nsel)

    def _batch(self, atoms: Atoms, pairs: Pairs, counts: Tensor, said: _Said) -> Batch:
        return Batch(
            types=atoms.types,
            structure=atoms.home,
            offsets=atoms.offsets,
            active=atoms.active,
            center=pairs.center,
            neighbor=pairs.neighbor,
            vector=pairs.vector,
            first_edge=_starts(counts),
            n_filled=counts,
            nsel=self.config.nsel,
            fparam=atoms.fparam,
            aparam=atoms.aparam,
            over_sel=(said.over, said.most) if said.over else (0, 0),
        )

    def _without_excluded(self, batch: Batch) -> Batch:
        """Without the pairs of types that the model leaves out, as in ``batch.visible``. Waits for their number."""
        kinds = batch.types[batch.center], batch.types[batch.neighbor]
        filled = self._seen[0][kinds]
        visible = filled & self._seen[1][kinds]
        place = visible.nonzero().view(-1)
        pairs = Pairs(batch.center, batch.neighbor, batch.vector).take(place)

        def each(mask: Tensor) -> Tensor:
            return torch.diff(_starts(mask)[batch.first_edge])

        return replace(
            batch,
            center=pairs.center,
            neighbor=pairs.neighbor,
            vector=pairs.vector,
            first_edge=_starts(each(visible)),
            n_filled=each(filled),
        )


def _starts(counts: Tensor) -> Tensor:
    """Where each begins in a row of so many each, and where the last ends."""
    return torch.nn.functional.pad(torch.cumsum(counts, 0), (1, 0))


def _merged(pairs: Pairs, host: _OnHost) -> Pairs:
    """Both, sorted by centre."""
    both = Pairs(
        torch.cat([pairs.center, host.pairs.center]),
        torch.cat([pairs.neighbor, host.pairs.neighbor]),
        torch.cat([pairs.vector, host.pairs.vector]),
    )
    return both.take(torch.argsort(both.center, stable=True))


def expected_neighbors(config: DPA1Config, structure: Structure) -> float:
    """About how many neighbours an atom has, by the density or by what there may be at most."""
    n, most = len(structure), float(config.nsel)
    if not structure.pbc.any():
        return min(n - 1.0, most)
    if not structure.pbc.all():
        return most
    (a, b, c), (d, e, f), (g, h, i) = structure.cell.tolist()
    volume = abs(a * (e * i - f * h) - b * (d * i - f * g) + c * (d * h - e * g))
    return min(most, 4.2 * float(config.rcut**3) * n / float(volume))
