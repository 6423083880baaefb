"""Neighbour lists that last while structures move: searched with a skin, filtered at every step for all at once.

A pair (i, j, S) is a candidate if it was closer than rcut + skin when its structure was last searched. As long as no
structure has moved too far since, every pair within rcut is a candidate, and a step computes

    images = r_j + S·cell for every distinct (j, S),   d = image − r_i,   |d| < rcut

in a few numpy calls for the whole batch. *Too far* is decided such that no pair is ever missed. Let A map the cell of
the search onto today's (A = 1 for a fixed cell), and u_i = r_i − r_i⁰·A be what an atom moved besides. A pair of today
had d⁰ = (d − u_j + u_i)·A⁻¹ then, so |d⁰| ≤ |A⁻¹| (|d| + 2 max|u|), where |A⁻¹| ≤ 1 / (1 − |A − 1|) in the Frobenius
norm. A structure is searched again unless

    rcut + 2 max|u| ≤ (rcut + skin) (1 − |A − 1|),

which for a fixed cell is the usual max|u| ≤ skin / 2. Atoms that are wrapped into the cell have moved far.

Candidates are sorted by (i, j, S): what a step gives depends on positions and cells, never on when lists were made.
A fresh list (``neighbors.py``) holds the same pairs in the same order; vectors may differ in their last bits.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from ..config import DPA1Config
from ..errors import StructureError
from ..kernels.cpu import library, neighbors
from .batch import Batch, visible
from .cell import SMALLEST_HEIGHT
from .neighbors import OVERLAP, Edges, Lattice, check_images, grid_does, overlap, search
from .structure import Structure, moved

SKIN = 0.8
"""Å. Wider: fewer searches, more candidates in vain."""

MARGIN = 1e-9
"""Å. What rounding may do to a distance."""

Array = NDArray[np.float64]
Index = NDArray[np.int64]


@dataclass(frozen=True)
class Candidates:
    """The pairs of one structure that were closer than rcut + skin when it was searched.

    Attributes:
        positions (n, 3), cell (3, 3): Å, then. dual (3, 3): the pseudo-inverse of the periodic vectors.
        height: Å, the least distance of lattice planes. counts (n,): candidates of each atom.
        image (e,): index into atom (g,) and shift (g, 3), the distinct (j, S).
    """

    positions: Array
    cell: Array
    dual: Array
    height: float
    counts: Index
    image: Index
    atom: Index
    shift: Array

    @cached_property
    def row(self) -> tuple[int, ...]:
        """As compiled code reads it."""
        return neighbors.row(self.counts, self.image, self.atom, self.shift)


def _nothing(n: int) -> Candidates:
    """For a structure that could not be searched: infinitely far from wherever it is, so that it is tried again."""
    none = np.zeros(0, dtype=np.int64)
    inf = np.full((n, 3), np.inf)
    return Candidates(inf, np.zeros((3, 3)), np.zeros((3, 3)), np.inf, np.zeros(n, np.int64), none, none, inf[:0])


def find_candidates(structure: Structure, cutoff: float) -> Candidates:
    """Searches a structure.

    Raises:
        StructureError: a cell so thin that the search would not end, or atoms too many cells apart to count.
    """
    n, lattice = len(structure), Lattice.of(structure)
    height = 1.0 / float(lattice.planes.max()) if len(lattice.planes) else np.inf
    now = structure.positions, structure.cell, lattice.dual, height
    real = structure.types >= 0
    if not real.any():
        none = _nothing(n)
        return Candidates(*now, none.counts, none.image, none.atom, none.shift)
    check_images(structure, lattice.planes, cutoff)
    found = None
    if grid_does(structure, cutoff):
        found = neighbors.search(structure.positions, real, lattice.vectors, lattice.dual, cutoff)
    return Candidates(*now, *(found or _by_cells(structure, cutoff)))


def _by_cells(structure: Structure, cutoff: float) -> tuple[Index, Index, Index, Array]:
    """``counts``, ``image``, ``atom`` and ``shift`` of a structure of any size."""
    n = len(structure)
    i, j, shift = search(structure, cutoff, "ijS")
    shift = shift.astype(np.int64)
    low = shift.min(axis=0, initial=0)
    wide = [int(x) for x in shift.max(axis=0, initial=0) - low + 1]
    cells = wide[0] * wide[1] * wide[2]
    if n * n * cells >= 1 << 62:
        raise StructureError(structure.name, "its atoms lie too many cells apart: wrap them")
    image = j * cells + (shift - low) @ np.array([wide[1] * wide[2], wide[2], 1])
    image = image[np.argsort(i * (n * cells) + image)]
    distinct, index = np.unique(image, return_inverse=True)
    packed = distinct % cells
    places = np.stack([packed // (wide[1] * wide[2]), packed // wide[2] % wide[1], packed % wide[2]], axis=1)
    return np.bincount(i, minlength=n), index, distinct // cells, (places + low).astype(float)


class _Compiled:
    """The lists of all structures where compiled code reads them."""

    def __init__(self, every: Sequence[Candidates], offsets: Index) -> None:
        self.every, self.offsets = every, offsets
        self.table = np.array([c.row for c in every], dtype=np.int64)
        self.most = sum(len(c.image) for c in every)

    def edges(self, positions: Array, cells: Array, cutoff: float) -> tuple[Edges, Index, float]:
        """As ``Verlet._edges``."""
        first_edge, edges, least = neighbors.near_edges(self.table, self.most, self.offsets, positions, cells, cutoff)
        return Edges(*edges), first_edge, least


class _Plain:
    """The lists of all structures one after another: what a step takes of them where nothing was compiled."""

    def __init__(self, every: Sequence[Candidates], offsets: Index) -> None:
        images = np.array([len(c.atom) for c in every], dtype=np.int64)
        pairs = np.array([len(c.image) for c in every], dtype=np.int64)
        self.counts = np.concatenate([c.counts for c in every])
        self.first = np.concatenate([[0], np.cumsum(self.counts)])
        self.image = np.concatenate([c.image for c in every]) + np.repeat(np.cumsum(images) - images, pairs)
        self.atom = np.concatenate([c.atom for c in every]) + np.repeat(offsets[:-1], images)
        self.shift = np.concatenate([c.shift for c in every])
        self.home = np.repeat(np.arange(len(every)), images)

    def edges(self, positions: Array, cells: Array, cutoff: float) -> tuple[Edges, Index, float]:
        """As ``Verlet._edges``."""
        images = positions[self.atom] + np.einsum("gi,gij->gj", self.shift, cells[self.home])
        vector = np.take(images, self.image, axis=0)
        vector -= np.repeat(positions, self.counts, axis=0)
        squared = np.einsum("ei,ei->e", vector, vector)
        inside = squared < cutoff**2
        first_edge = np.concatenate([[0], np.cumsum(inside)])[self.first]
        keep = np.flatnonzero(inside)
        center = np.repeat(np.arange(len(positions)), np.diff(first_edge))
        neighbor = np.take(self.atom, np.take(self.image, keep))
        edges = Edges(center, neighbor, np.take(vector, keep, axis=0))
        return edges, first_edge, float(squared.min(initial=np.inf))


class Verlet:
    """Neighbour lists of a set of structures that move, and the batch of the whole set at every step.

    Args:
        config: the model's. skin: Å.

    Attributes:
        structures: the set, in order; positions and cells are those of when each came in.
        offsets: (S + 1,) the first atom of each structure. pbc: (S, 3) which axes are periodic.
        searches: how many searches there were, for whoever wants to know what the skin is worth.
    """

    def __init__(self, config: DPA1Config, skin: float = SKIN) -> None:
        if not skin >= 0.0:
            raise ValueError(f"skin is {skin} Å; it must not be negative")
        self.config, self.skin = config, skin
        self.structures: list[Structure] = []
        self.searches = 0
        self._candidates: list[Candidates] = []

    def select(self, members: Sequence[int | Structure]) -> None:
        """Changes the set: an integer keeps that structure of the present set with its list, a Structure is new."""
        before = list(zip(self.structures, self._candidates, strict=True))
        now = [before[m] if isinstance(m, int) else (m, _nothing(len(m))) for m in members]
        self.structures, self._candidates = [m[0] for m in now], [m[1] for m in now]
        config, sizes = self.config, [len(s) for s in self.structures]
        self._sizes = np.array(sizes, dtype=np.int64)
        self.offsets = np.concatenate([[0], np.cumsum(self._sizes)])
        self._types = np.concatenate([s.types for s in self.structures])
        self._home = np.repeat(np.arange(len(sizes)), sizes)
        self.pbc = np.stack([s.pbc for s in self.structures])
        self._active = (self._types >= 0) & ~np.isin(self._types, config.atom_exclude_types)
        fparams = [s.fparam for s in self.structures if s.fparam is not None]
        aparams = [s.aparam for s in self.structures if s.aparam is not None]
        kept = {"types": self._types, "structure": self._home, "offsets": self.offsets}
        self._tensors = {name: torch.from_numpy(x) for name, x in kept.items()}
        self._fparam = torch.from_numpy(np.stack(fparams)) if fparams else None
        self._aparam = torch.from_numpy(np.concatenate(aparams)) if aparams else None
        self._line_up()

    def batch(self, positions: Array, cells: Array) -> tuple[Batch, dict[int, StructureError]]:
        """The set as a batch, and which structures cannot be evaluated; those have no edge and no active atom in it.

        Args:
            positions: (n, 3) Å of all structures, one after another. cells: (S, 3, 3) Å, rows are lattice vectors.
        """
        positions, cells = (np.ascontiguousarray(x, dtype=np.float64) for x in (positions, cells))
        errors: dict[int, StructureError] = {}
        stale = np.flatnonzero(self._stale(positions, cells)).tolist()
        for k in stale:
            here = slice(self.offsets[k], self.offsets[k + 1])
            try:
                self._candidates[k] = self._search(self.structures[k], positions[here], cells[k])
            except StructureError as error:
                errors[k], self._candidates[k] = error, _nothing(int(self._sizes[k]))
        self._renew(stale)
        edges, first_edge, least = self._edges(positions, cells)
        if least < OVERLAP**2:
            too_close = self._too_close(edges)
            errors |= too_close
            for k in too_close:
                self._candidates[k] = _nothing(int(self._sizes[k]))
            self._renew(list(too_close))
            edges, first_edge, _ = self._edges(positions, cells)
        active = self._active & ~np.isin(self._home, list(errors)) if errors else self._active
        return self._assemble(edges, first_edge, active), errors

    def serves(self, k: int, positions: Array, cell: Array) -> bool:
        """Whether the list of structure k is still good for these positions (n, 3) and this cell (3, 3)."""
        c = self._candidates[k]
        one = (c.positions, c.cell[None], c.dual[None], np.array([c.height]), self.pbc[k : k + 1])
        start, home = np.zeros(1, dtype=np.int64), np.zeros(len(positions), dtype=np.int64)
        return not self._moved_far(positions, cell[None], one, start, home)[0]

    # --- when to search ---------------------------------------------------------------------------------------------

    def _stale(self, positions: Array, cells: Array) -> NDArray[np.bool_]:
        return self._moved_far(positions, cells, self._then, self.offsets[:-1], self._home)

    def _moved_far(
        self, positions: Array, cells: Array, then: tuple[NDArray[Any], ...], start: Index, home: Index
    ) -> NDArray[np.bool_]:
        """Which structures (S,) moved too far for their lists, by the rule at the top; NaN is too far."""
        old, old_cells, dual, height, pbc = then
        reach = self.config.rcut + self.skin
        with np.errstate(invalid="ignore", over="ignore"):
            strain = np.zeros(len(cells))
            if not np.array_equal(cells, old_cells):
                change = dual @ np.where(pbc[:, :, None], cells - old_cells, 0.0)
                strain = np.linalg.norm(change, axis=(1, 2)) + np.where(
                    np.isfinite(cells).all(axis=(1, 2)), 0.0, np.nan
                )
                old = old + np.einsum("ni,nij->nj", old, change[home])
            moved = positions - old
            furthest = np.sqrt(np.maximum.reduceat(np.einsum("ni,ni->n", moved, moved), start))
            near = self.config.rcut + 2.0 * furthest <= reach * (1.0 - strain) - MARGIN
            # Closer planes than this are looked at by check_cell, which is part of a search.
            return ~(near & (height * (1.0 - strain) > SMALLEST_HEIGHT))

    def _search(self, structure: Structure, positions: Array, cell: Array) -> Candidates:
        self.searches += 1
        # A copy: callers move atoms in place, and the list must remember where they were.
        return find_candidates(moved(structure, positions.copy(), cell.copy()), self.config.rcut + self.skin)

    # --- a step -----------------------------------------------------------------------------------------------------

    def _line_up(self) -> None:
        """Puts what all structures were at their searches one after another."""
        every = self._candidates
        self._then = (
            np.concatenate([c.positions for c in every]),
            np.stack([c.cell for c in every]),
            np.stack([c.dual for c in every]),
            np.array([c.height for c in every]),
            self.pbc,
        )
        self._lists: _Compiled | _Plain | None = None

    def _renew(self, members: Sequence[int]) -> None:
        """Takes notice of new lists."""
        positions, cell, dual, height, _ = self._then
        for k in members:
            c = self._candidates[k]
            positions[self.offsets[k] : self.offsets[k + 1]] = c.positions
            cell[k], dual[k], height[k] = c.cell, c.dual, c.height
        if members:
            self._lists = None

    def _edges(self, positions: Array, cells: Array) -> tuple[Edges, Index, float]:
        """The candidates that are closer than rcut, where each atom's begin, and the least square of a distance, Å²."""
        if self._lists is None:
            make: Any = _Compiled if library.available() else _Plain
            self._lists = make(self._candidates, self.offsets)
        return self._lists.edges(positions, cells, self.config.rcut)

    def _too_close(self, edges: Edges) -> dict[int, StructureError]:
        """What overlaps, for each structure in which something does."""
        squared = np.einsum("ei,ei->e", edges.vector, edges.vector)
        found: dict[int, StructureError] = {}
        for e in np.flatnonzero(squared < OVERLAP**2)[::-1].tolist():
            k = int(self._home[edges.center[e]])
            i, j = int(edges.center[e] - self.offsets[k]), int(edges.neighbor[e] - self.offsets[k])
            found[k] = overlap(self.structures[k], i, j, float(np.sqrt(squared[e])))
        return found

    def _assemble(self, edges: Edges, first_edge: Index, active: NDArray[np.bool_]) -> Batch:
        seen, n_filled, over_sel = visible(self.config, self._types, edges)
        if seen is not edges:
            first_edge = np.concatenate([[0], np.cumsum(np.bincount(seen.center, minlength=len(self._types)))])
        return Batch(
            **self._tensors,
            active=torch.from_numpy(active),
            center=torch.from_numpy(seen.center),
            neighbor=torch.from_numpy(seen.neighbor),
            vector=torch.from_numpy(seen.vector),
            first_edge=torch.from_numpy(first_edge),
            n_filled=torch.from_numpy(n_filled),
            nsel=self.config.nsel,
            fparam=self._fparam,
            aparam=self._aparam,
            over_sel=over_sel,
        )
