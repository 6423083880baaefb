"""A batch of structures: flat atoms, edges as CSR, nothing padded; and the tiles that the formulas work on.

A *tile* gathers a few centre atoms of similar neighbour count into dense (B, N) arrays, N being the largest count in
the tile. DPA-1 is strictly local, so tiles know nothing of each other: the energy is the sum of theirs and forces are
put together from dE/dd of every edge.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, fields, replace
from typing import Any

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from torch import Tensor

from ..config import DPA1Config
from .neighbors import Edges, neighbor_edges
from .structure import Structure


@dataclass(frozen=True)
class Tile:
    """B centres with up to N neighbours each; see ``kernels/reference.py`` for how masked slots behave.

    Attributes:
        center_type (B,), neighbor_type (B, N), d (B, N, 3) Å float64, mask (B, N).
        n_empty_row (B,): slots of ``sel`` left empty, which carry −davg/dstd.
        n_empty_key (B,): slots that smooth attention sees as empty; excluded pairs count too.
        first_type (B,): type of the structure's first atom, which upstream's empty slots point at.
        fparam (B, F), aparam (B, A) or None.
    """

    center_type: Tensor
    neighbor_type: Tensor
    d: Tensor
    mask: Tensor
    n_empty_row: Tensor
    n_empty_key: Tensor
    first_type: Tensor
    fparam: Tensor | None
    aparam: Tensor | None

    def span(self, start: int, stop: int) -> Tile:
        """Centres [start, stop)."""
        values: dict[str, Tensor | None] = {f.name: getattr(self, f.name) for f in fields(self)}
        some: dict[str, Any] = {name: None if v is None else v[start:stop] for name, v in values.items()}
        return Tile(**some)


@dataclass(frozen=True)
class Batch:
    """Structures of any sizes, elements and periodicity, one after another.

    Attributes:
        types (n,): −1 is a virtual atom. structure (n,): which structure. offsets (S + 1,): its first atom.
        active (n,): atoms that have an energy of their own (real, and not in ``atom_exclude_types``).
        center, neighbor (e,), vector (e, 3) Å float64: edges sorted by centre. first_edge (n + 1,): CSR pointers.
        n_filled (n,): slots of ``sel`` that are filled, with or without interaction.
        fparam (S, F), aparam (n, A): float64 or None.
        over_sel: atoms with more than ``sel`` neighbours, and the largest count among them.
        ready: on a GPU the event after which all of it is there, None where whoever made it did not record one. Its
            tensors are not written to any more.
    """

    types: Tensor
    structure: Tensor
    offsets: Tensor
    active: Tensor
    center: Tensor
    neighbor: Tensor
    vector: Tensor
    first_edge: Tensor
    n_filled: Tensor
    nsel: int
    fparam: Tensor | None = None
    aparam: Tensor | None = None
    over_sel: tuple[int, int] = (0, 0)
    # What follows is of these very tensors: replace() drops it.
    ready: torch.cuda.Event | None = field(default=None, init=False, compare=False, repr=False)
    _closest: Tensor | None = field(default=None, init=False, compare=False, repr=False)

    def __getstate__(self) -> dict[str, Any]:
        """Copies and pickles go without the event, which is of this process."""
        return {k: v for k, v in vars(self).items() if k != "ready"}

    @property
    def n_atoms(self) -> int:
        """Atoms in all structures, virtual ones included."""
        return len(self.types)

    @property
    def n_structures(self) -> int:
        """Number of structures."""
        return len(self.offsets) - 1

    @property
    def counts(self) -> Tensor:
        """(n,) interacting neighbours of each atom."""
        return self.first_edge[1:] - self.first_edge[:-1]

    def to(self, device: torch.device | str, non_blocking: bool = False) -> Batch:
        """The same batch on another device."""
        if torch.device(device) == self.vector.device:
            return self
        moved: dict[str, Any] = {
            f.name: value.to(device, non_blocking=non_blocking)
            for f in fields(self)
            if f.init and isinstance(value := getattr(self, f.name), Tensor)
        }
        if all(value is getattr(self, name) for name, value in moved.items()):
            return self
        there = replace(self, **moved)
        if there.vector.is_cuda:
            ready = torch.cuda.Event()  # type: ignore[no-untyped-call]
            ready.record(torch.cuda.current_stream(there.vector.device))
            object.__setattr__(there, "ready", ready)
        return there

    def used_by(self, stream: Any) -> None:
        """Says that a CUDA stream reads the batch, other than that which it was made on: its memory is not given away
        before that stream came so far, whoever lets go of the batch, and when."""
        for f in fields(self):
            if isinstance(value := getattr(self, f.name), Tensor) and value.is_cuda:
                value.record_stream(stream)

    def pinned(self) -> Batch:
        """The same batch in memory that a GPU copies from on its own."""
        moved: dict[str, Any] = {
            f.name: value.pin_memory()
            for f in fields(self)
            if f.init and isinstance(value := getattr(self, f.name), Tensor)
        }
        return replace(self, **moved)

    def tiles(self, elements: int, cost_per_neighbor: int, atoms: Tensor | None = None) -> Iterator[Tensor]:
        """Index sets of atoms, sorted by neighbour count so that a tile wastes little.

        Args:
            elements: how many numbers a tile may hold at a time.
            cost_per_neighbor: numbers that each neighbour slot needs besides one per pair of slots.
            atoms: which ones; by default those that are active.
        """
        active = torch.nonzero(self.active).squeeze(-1) if atoms is None else atoms
        counts = self.counts[active]
        order = torch.argsort(counts, stable=True)
        active, sizes = active[order], counts[order].tolist()
        start = 0
        while start < len(sizes):
            stop = start + 1
            # Counts rise, so the last atom sets the width of the tile.
            while (
                stop < len(sizes) and (stop + 1 - start) * sizes[stop] * (sizes[stop] + cost_per_neighbor) <= elements
            ):
                stop += 1
            yield active[start:stop]
            start = stop

    def slots(self, atoms: Tensor) -> tuple[Tensor, Tensor]:
        """Edge index (B, N) of each neighbour slot of ``atoms`` and the mask of those that exist."""
        counts = self.counts[atoms]
        width = int(counts.max()) if len(atoms) else 0
        column = torch.arange(width, device=atoms.device)
        mask = column < counts.unsqueeze(-1)
        edge = torch.where(mask, self.first_edge[atoms].unsqueeze(-1) + column, 0)
        return edge, mask

    def tile(self, atoms: Tensor, edge: Tensor, mask: Tensor, d: Tensor, beyond: float) -> Tile:
        """Gathers ``atoms`` into a tile.

        Args:
            edge, mask: what ``slots`` gave. d: (B, N, 3) the vectors of those edges (masked slots: anything).
            beyond: Å, a length past the cut-off, for masked slots.
        """
        which = self.structure[atoms]
        d = torch.where(mask.unsqueeze(-1), d, beyond)
        if len(self.neighbor):
            neighbor_type = torch.where(mask, self.types[self.neighbor[edge]], 0)
        else:
            neighbor_type = torch.zeros_like(edge)
        return Tile(
            center_type=self.types[atoms],
            neighbor_type=neighbor_type,
            d=d,
            mask=mask,
            n_empty_row=self.nsel - self.n_filled[atoms],
            n_empty_key=self.nsel - self.counts[atoms],
            first_type=self.types[self.offsets[which]].clamp_min(0),
            fparam=None if self.fparam is None else self.fparam[which],
            aparam=None if self.aparam is None else self.aparam[atoms],
        )

    def forces(self, gradient: Tensor) -> Tensor:
        """F_i = Σ_(edges from i) g − Σ_(edges to i) g, with g = dE/dd per edge (e, 3), eV/Å. → (n, 3)."""
        out = gradient.new_zeros(self.n_atoms, 3)
        return out.index_add(0, self.center, gradient).index_add(0, self.neighbor, -gradient)

    def virials(self, gradient: Tensor) -> Tensor:
        """W = −Σ g ⊗ d over the edges of each structure, eV. → (S, 3, 3)."""
        start = self.first_edge[self.offsets].tolist()
        pieces = itertools.pairwise(start)
        return torch.stack([-(gradient[a:b].t() @ self.vector[a:b]) for a, b in pieces])

    def atomic_virials(self, gradient: Tensor) -> Tensor:
        """W_j = −Σ_(edges to j) g ⊗ d, booked on the neighbour as DeePMD-kit does, eV. → (n, 3, 3)."""
        outer = gradient.unsqueeze(-1) * self.vector.unsqueeze(-2)
        return gradient.new_zeros(self.n_atoms, 3, 3).index_add(0, self.neighbor, -outer)

    def sum_structures(self, per_atom: Tensor) -> Tensor:
        """Sums a per-atom quantity (n, …) over each structure. → (S, …)."""
        out = per_atom.new_zeros(self.n_structures, *per_atom.shape[1:])
        return out.index_add(0, self.structure, per_atom)

    def closest(self) -> Tensor:
        """(S,) Å: of each structure the distance of its two closest atoms that interact, infinite where none do."""
        if self._closest is not None:
            return self._closest
        length = torch.linalg.vector_norm(self.vector, dim=-1)
        ends = self.first_edge[self.offsets]
        return torch.segment_reduce(length, "min", offsets=ends, initial=torch.inf)

    def with_closest(self, closest: Tensor) -> Batch:
        """The same batch, from a search that has seen (S,) Å how close atoms are."""
        known = replace(self)
        object.__setattr__(known, "_closest", closest)
        return known


def sum_structures(per_atom: NDArray[np.float64], offsets: ArrayLike) -> NDArray[np.float64]:
    """As ``Batch.sum_structures``, of a quantity (n,) on the CPU, where the batch need not be. offsets: (S + 1,)."""
    first = np.asarray(offsets, dtype=np.int64)
    return np.asarray(np.add.reduceat(per_atom, first[:-1]))


@dataclass(frozen=True)
class Neighborhood:
    """A structure with the edges that the model sees: nearest ``sel``, exclusions gone."""

    structure: Structure
    edges: Edges
    n_filled: NDArray[np.int64]
    over_sel: tuple[int, int]


def neighborhood(config: DPA1Config, structure: Structure) -> Neighborhood:
    """Searches neighbours and applies what the model leaves out.

    More than ``sel`` neighbours: the nearest ``sel`` stay. ``pair_exclude_types`` frees the slot of a pair,
    ``exclude_types`` keeps the slot filled but silent (the two differ where davg is not zero).

    Raises:
        StructureError: see ``neighbor_edges``.
    """
    edges, n_filled, over_sel = visible(config, structure.types, neighbor_edges(structure, config.rcut))
    return Neighborhood(structure, edges, n_filled, over_sel)


def visible(
    config: DPA1Config, types: NDArray[np.int64], edges: Edges
) -> tuple[Edges, NDArray[np.int64], tuple[int, int]]:
    """What the model sees of all pairs within the cut-off, of one structure or of many in one row.

    Args:
        types: (n,). edges: sorted by centre.

    Returns:
        the edges that interact; (n,) filled slots of ``sel``; how many atoms have more than ``sel`` neighbours, and
        the largest count among them.
    """
    n = len(types)
    counts = np.bincount(edges.center, minlength=n)
    most, over_sel = int(counts.max(initial=0)), (0, 0)
    if most > config.nsel:
        over_sel = int((counts > config.nsel).sum()), most
        edges = _nearest(edges, counts, config.nsel)
        counts = np.minimum(counts, config.nsel)
    filled = _without(config, types, edges, config.pair_exclude_types)
    n_filled = counts if filled is edges else np.bincount(filled.center, minlength=n)
    return _without(config, types, filled, config.exclude_types), n_filled, over_sel


def _select(edges: Edges, keep: NDArray[np.bool_]) -> Edges:
    return edges if keep.all() else Edges(edges.center[keep], edges.neighbor[keep], edges.vector[keep])


def _nearest(edges: Edges, counts: NDArray[np.int64], nsel: int) -> Edges:
    distance = np.linalg.norm(edges.vector, axis=1)
    order = np.lexsort((distance, edges.center))
    rank = np.arange(len(order)) - np.repeat(np.cumsum(counts) - counts, counts)
    keep = np.zeros(len(order), dtype=bool)
    keep[order[rank < nsel]] = True
    return _select(edges, keep)


def _without(config: DPA1Config, types: NDArray[np.int64], edges: Edges, pairs: Sequence[tuple[int, int]]) -> Edges:
    """The edges that do not join two types of ``pairs``, either way round."""
    if not pairs:
        return edges
    table = np.ones((config.ntypes, config.ntypes), dtype=bool)
    for a, b in pairs:
        if 0 <= a < config.ntypes and 0 <= b < config.ntypes:
            table[a, b] = table[b, a] = False
    return _select(edges, table[types[edges.center], types[edges.neighbor]])


def _joined(arrays: Sequence[NDArray[Any]]) -> NDArray[Any]:
    """One after another; a single one is not copied, for its edges are most of what a batch holds."""
    return arrays[0] if len(arrays) == 1 else np.concatenate(arrays)


def collate(config: DPA1Config, parts: Sequence[Neighborhood]) -> Batch:
    """Puts structures one after another into a Batch of CPU tensors."""
    sizes = np.array([len(p.structure) for p in parts], dtype=np.int64)
    offsets = np.concatenate([[0], np.cumsum(sizes)])
    types = _joined([p.structure.types for p in parts])
    # Whoever keeps edges may have them narrower, and compiled code reads 64 bits: of one structure alone too.
    center, neighbor = (
        _joined([part + o if o else part for part, o in zip(ends, offsets, strict=False)]).astype(np.int64, copy=False)
        for ends in ([p.edges.center for p in parts], [p.edges.neighbor for p in parts])
    )
    first_edge = np.concatenate([[0], np.cumsum(np.bincount(center, minlength=len(types)))])
    fparams = [p.structure.fparam for p in parts if p.structure.fparam is not None]
    aparams = [p.structure.aparam for p in parts if p.structure.aparam is not None]
    batch = Batch(
        types=torch.from_numpy(types),
        structure=torch.from_numpy(np.repeat(np.arange(len(parts)), sizes)),
        offsets=torch.from_numpy(offsets),
        active=torch.from_numpy((types >= 0) & ~np.isin(types, config.atom_exclude_types)),
        center=torch.from_numpy(center),
        neighbor=torch.from_numpy(neighbor),
        vector=torch.from_numpy(_joined([p.edges.vector for p in parts])),
        first_edge=torch.from_numpy(first_edge),
        n_filled=torch.from_numpy(np.concatenate([p.n_filled for p in parts])),
        nsel=config.nsel,
        fparam=torch.from_numpy(np.stack(fparams)) if fparams else None,
        aparam=torch.from_numpy(np.concatenate(aparams)) if aparams else None,
        over_sel=(sum(p.over_sel[0] for p in parts), max((p.over_sel[1] for p in parts), default=0)),
    )
    closest = [p.edges.closest for p in parts if p.edges.closest is not None]
    return batch.with_closest(torch.tensor(closest, dtype=torch.float64)) if len(closest) == len(parts) else batch
