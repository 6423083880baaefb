"""Which atoms can be neighbours at all: a grid of bins for each structure, and which bins lie within the cut-off.

Made on the host in numpy without a loop over atoms. It costs little beside the distances, and with it the host knows
how much there is to compute before the device has begun, so that nothing is read back for that.

A bin is as wide as the cut-off or wider; along a periodic axis that is shorter, one bin meets several of its images.
Only bins with atoms in them count. What does not suit a grid is left to ``neighbors.py`` (``Grid.left``): then the
list is as right, and made on the host.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..neighbors import CELLS_PER_ATOM, GRID_CELLS, _search_cell
from .rows import Array, Index, Mask, Rows

MARGIN = 1e-5
"""Bins are wider than the cut-off by this part of it: more than rounding does to the place of an atom."""

MOST_AWAY = 15
"""Cells that an atom may lie outside of its box, along periodic axes."""

FARTHEST = 1e6
"""Å from the origin; beyond it rounding might put an atom into a bin that is not next to its own."""

MOST_IMAGES = 2197
"""Bins around a bin. More are needed in cells much thinner than the cut-off."""

BINS_PER_ATOM = 2
"""More than these would be empty; they are made wider instead."""


@dataclass(frozen=True)
class Grid:
    """Candidates for neighbours: for each atom, the atoms of some bins, each bin through the faces of the cell.

    Attributes:
        atom (m,): the atoms of the batch in the order of their bins. away (m, 3): cells that each lies outside of its
            box, None where none does.
        first_pair, pairs (m,): for each of those atoms, which entries of the following.
        first, count (p,): atoms of one bin, in that order. shift (p, 3): through which images. home (p,): structure.
        candidates (m,): how many there are for each atom.
        low, wide (3,): all shifts between atoms lie in low … low + wide − 1.
        left (S,): structures that do not suit a grid; their atoms are not in it.
    """

    atom: Index
    away: Index | None
    first_pair: Index
    pairs: Index
    first: Index
    count: Index
    shift: Index
    home: Index
    candidates: Index
    low: Index
    wide: Index
    left: Mask


@dataclass(frozen=True)
class _Axes:
    """Of S structures, along each axis: bins and how many of them away neighbours can be; all (S, 3) but the first.

    fraction (m, 3): of each atom, in units of the cell. low, extent: along open axes, of the atoms. height: Å.
    """

    fraction: Array
    low: Array
    extent: Array
    height: Array
    bins: Index
    reach: Index


def make(rows: Rows, wanted: Mask, cutoff: float) -> Grid:
    """The grid of those structures that suit one.

    Args:
        wanted: (S,) structures that are to be in it; others count as left. cutoff: Å.
    """
    wanted = wanted & _bounded(rows)
    axes, atom, home = _axes(rows, wanted, cutoff)
    suited = wanted & _suited(rows, axes, atom, home, cutoff)
    if not np.array_equal(suited, wanted):
        axes, atom, home = _axes(rows, suited, cutoff)
    return _paired(axes, rows.pbc, atom, home, ~suited)


def _of_each(values: NDArray[Any], home: Index) -> NDArray[Any]:
    """Values of structures (S, …) as those of what belongs to structures ``home``; one structure's go for all."""
    return values if len(values) == 1 else values[home]


def _bounded(rows: Rows) -> Mask:
    if np.abs(rows.positions).max() <= FARTHEST:
        return np.ones(len(rows.cells), dtype=bool)
    far = np.maximum.reduceat(np.abs(rows.positions).max(axis=1), rows.offsets[:-1])
    return np.asarray(far <= FARTHEST)


def _cells(rows: Rows, wanted: Mask) -> Array:
    """(S, 3, 3) of full rank, see ``neighbors.py``; those that are not wanted get the unit cell."""
    full, periodic = rows.pbc.all(axis=1), rows.pbc.any(axis=1)
    cells = np.where((full & wanted)[:, None, None], rows.cells, np.eye(3))
    for k in np.flatnonzero(periodic & ~full & wanted).tolist():
        cells[k] = _search_cell(rows.at(k))
    return cells


def _axes(rows: Rows, wanted: Mask, cutoff: float) -> tuple[_Axes, Index, Index]:
    atom = np.flatnonzero(wanted[rows.home] & (rows.types >= 0))
    home = rows.home[atom]
    sizes = np.bincount(home, minlength=len(wanted))
    dual = np.linalg.inv(_cells(rows, wanted))
    height = 1.0 / np.linalg.norm(dual, axis=1)
    xyz = rows.positions[atom]
    each = _of_each(dual, home)
    fraction = xyz[:, :1] * each[..., 0, :] + xyz[:, 1:2] * each[..., 1, :] + xyz[:, 2:] * each[..., 2, :]
    low, high = np.zeros((len(wanted), 3)), np.zeros((len(wanted), 3))
    some = sizes > 0
    if some.any():
        start = (np.cumsum(sizes) - sizes)[some]
        low[some], high[some] = np.minimum.reduceat(fraction, start), np.maximum.reduceat(fraction, start)
    width = cutoff * (1.0 + MARGIN)
    length = np.where(rows.pbc, height, (high - low) * height)
    bins = np.maximum(np.floor(length / width), 1.0)
    most = BINS_PER_ATOM * sizes[:, None] + 8.0
    for _ in range(3):
        over = np.maximum(np.prod(bins, axis=1, keepdims=True) / most, 1.0)
        axes = np.maximum((bins > 1.0).sum(axis=1, keepdims=True), 1)
        bins = np.maximum(np.floor(bins / over ** (1.0 / axes)), 1.0)
    reach = np.where(rows.pbc, np.ceil(width * bins / height), np.where(bins > 1.0, 1.0, 0.0))
    small = np.minimum(reach, 1e6).astype(np.int64)
    return _Axes(fraction, low, high - low, height, bins.astype(np.int64), small), atom, home


def _suited(rows: Rows, axes: _Axes, atom: Index, home: Index, cutoff: float) -> Mask:
    """Which structures a grid suits, by the rule of ``neighbors.py`` with a margin, and not too thin or spread out."""
    sizes = np.bincount(home, minlength=len(rows.cells))
    cells = np.maximum(np.where(rows.pbc, axes.height, axes.extent * axes.height) / cutoff, 1.0)
    total = np.prod(cells, axis=1)
    coarser = np.cbrt(total / GRID_CELLS)
    even = (cells > 2.0 * (1.0 + MARGIN) * coarser[:, None]).all(axis=1)
    dense = (total * (1.0 + MARGIN) <= CELLS_PER_ATOM * (sizes + 64)) & ((coarser <= 1.0 - MARGIN) | even)
    few = np.prod((2 * axes.reach + 1).astype(np.float64), axis=1) <= MOST_IMAGES
    away = np.zeros(len(rows.cells), dtype=bool)
    outside = (axes.fraction < -MOST_AWAY) | (axes.fraction >= MOST_AWAY + 1)
    if outside.any():
        away[home[(outside & _of_each(rows.pbc, home)).any(axis=1)]] = True
    return np.asarray(dense & few & ~away)


def _paired(axes: _Axes, pbc: Mask, atom: Index, home: Index, left: Mask) -> Grid:
    bins, periodic = _of_each(axes.bins, home), _of_each(pbc, home)
    place = axes.fraction
    if not pbc.all():
        open_width = np.where(axes.extent > 0.0, axes.extent, 1.0)
        place = np.where(periodic, place, (place - _of_each(axes.low, home)) / _of_each(open_width, home))
    index = np.floor(place * bins).astype(np.int64)
    away = np.zeros((1, 3), dtype=np.int64)
    if ((index < 0) | (index >= bins)).any():
        away = np.where(periodic, np.floor_divide(index, bins), 0)
        index = np.where(periodic, index - away * bins, np.clip(index, 0, bins - 1))
    per_structure = np.prod(axes.bins, axis=1)
    base = np.cumsum(per_structure) - per_structure
    linear = _of_each(base, home) + (index[:, 0] * bins[:, 1] + index[:, 1]) * bins[:, 2] + index[:, 2]
    order = np.argsort(linear, kind="stable")
    linear = linear[order]
    new = np.flatnonzero(np.diff(linear, prepend=-1))  # the first atom of each bin
    count = np.diff(np.append(new, len(linear)))
    table = np.full(int(per_structure.sum()), -1, dtype=np.int64)
    table[linear[new]] = np.arange(len(new))
    owner, shift, partner = _around(axes, pbc, home[order[new]], index[order[new]], base, table)
    pairs = np.bincount(owner, minlength=len(new))
    candidates = np.bincount(owner, weights=count[partner], minlength=len(new)).astype(np.int64)
    bin_of = np.repeat(np.arange(len(new)), count)
    out = away[order] if len(away) == len(order) else away
    lows, highs = out.min(axis=0, initial=0), out.max(axis=0, initial=0)
    low = shift.min(axis=0, initial=0) + lows - highs
    wide = shift.max(axis=0, initial=0) + highs - lows - low + 1
    return Grid(
        atom=atom[order],
        away=out if len(out) == len(order) and out.any() else None,
        first_pair=(np.cumsum(pairs) - pairs)[bin_of],
        pairs=pairs[bin_of],
        first=new[partner],
        count=count[partner],
        shift=shift,
        home=home[order[new]][owner],
        candidates=candidates[bin_of],
        low=low,
        wide=wide,
        left=left,
    )


def _around(axes: _Axes, pbc: Mask, home: Index, index: Index, base: Index, table: Index) -> tuple[Index, Index, Index]:
    """For each bin (b,) those within reach that have atoms: whose, through which image (p, 3), and which."""
    reach, strides = _of_each(axes.reach, home), np.ones_like(axes.bins)
    strides[:, 1], strides[:, 0] = axes.bins[:, 2], axes.bins[:, 1] * axes.bins[:, 2]
    wide = np.broadcast_to(2 * reach + 1, index.shape)
    around = np.prod(wide, axis=1)
    owner = np.repeat(np.arange(len(home)), around)
    step = np.arange(len(owner)) - np.repeat(np.cumsum(around) - around, around)
    steps = [step // (wide[:, 1] * wide[:, 2])[owner], step // wide[owner, 2] % wide[owner, 1], step % wide[owner, 2]]
    whose = home[owner]
    inside, shifts, linear = np.ones(len(owner), dtype=bool), [], _of_each(base, whose)
    for k in range(3):
        bins = _of_each(axes.bins[:, k], whose)
        target = (index[:, k] - reach[:, k])[owner] + steps[k]
        through = np.floor_divide(target, bins)
        inside &= (through == 0) | _of_each(pbc[:, k], whose)
        shifts.append(through)
        linear = linear + (target - through * bins) * _of_each(strides[:, k], whose)
    partner = table[linear]
    keep = np.flatnonzero(inside & (partner >= 0))
    return owner[keep], np.stack(shifts, axis=1)[keep], partner[keep]
