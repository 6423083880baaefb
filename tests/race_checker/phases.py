"""What the threads of one program can do to one another between two barriers."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

KINDS = ("", "WAR", "RAW", "WAW")
"""A store to what was loaded, a load of what was stored, a store to what was stored. By 2·(first stores) + (second)."""


@dataclass(frozen=True)
class Access:
    """One load or store of a program.

    Attributes:
        number: counts the accesses of a launch. stores: or loads. line: number of the source line.
        cells (n,): what it touches. elements (n,): with which element of its tensor each. shape: of that tensor.
        origins: the loads that a stored element is computed from, the same element of each.
    """

    number: int
    stores: bool
    line: int
    cells: np.ndarray
    elements: np.ndarray
    shape: tuple[int, ...]
    origins: frozenset[int]


@dataclass(frozen=True)
class Conflict:
    """Two accesses of a cell, of which one stores.

    in_place: it stores what was computed from what the other loaded, with the same element of tensors of one shape.
    """

    kind: str
    in_place: bool
    cell: int
    earlier: int
    later: int
    count: int


def conflicts(phase: Sequence[Access], stored: np.ndarray) -> Iterator[Conflict]:
    """All conflicts of a phase, one for each pair of lines, with how many cells it concerns.

    Args:
        stored: (cells of the launch,) all False; used and given back so.
    """
    for x in phase:
        if x.stores:
            stored[x.cells] = True
            if len(np.unique(x.cells)) < len(x.cells):
                yield Conflict("WAW", False, int(x.cells[0]), x.line, x.line, len(x.cells) - len(np.unique(x.cells)))
    hits = [stored[x.cells] for x in phase]
    for x in phase:
        if x.stores:
            stored[x.cells] = False
    if not any(hit.any() for hit in hits):
        return
    cell = np.concatenate([x.cells[hit] for x, hit in zip(phase, hits, strict=True)])
    element = np.concatenate([x.elements[hit] for x, hit in zip(phase, hits, strict=True)])
    when = np.concatenate([np.full(int(hit.sum()), k) for k, hit in enumerate(hits)])
    order = np.lexsort((when, cell))
    cell, element, when = cell[order], element[order], when[order]
    stores, line = np.array([x.stores for x in phase]), np.array([x.line for x in phase])
    follows = np.array([[x.number in y.origins and x.shape == y.shape for y in phase] for x in phase])
    # All pairs of accesses of a cell, by how far apart they are in its sequence.
    for apart in range(1, len(phase)):
        a, b = np.arange(len(cell) - apart), np.arange(apart, len(cell))
        alike = cell[a] == cell[b]
        if not alike.any():
            return
        kind = 2 * stores[when[a]] + stores[when[b]]
        chosen = alike & (kind > 0)
        a, b, kind = a[chosen], b[chosen], kind[chosen]
        in_place = follows[when[a], when[b]] & (element[a] == element[b])
        pairs = np.stack([line[when[a]], line[when[b]], kind, in_place], axis=1)
        for (first, second, k, fine), at, n in zip(
            *np.unique(pairs, axis=0, return_index=True, return_counts=True), strict=True
        ):
            yield Conflict(KINDS[k], bool(fine), int(cell[a[at]]), int(first), int(second), int(n))
