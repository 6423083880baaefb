"""Neighbours of one structure as a full list in CSR order, by vesin."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from vesin import NeighborList

from .errors import StructureError
from .structure import Structure

OVERLAP = 1e-3
"""Å. Two atoms closer than this are taken for the same atom written twice."""

MOST_IMAGES = 1_000_000
"""More periodic images of a cell than this within the cut-off mean a broken cell."""


@dataclass(frozen=True)
class Edges:
    """Pairs with r < rcut, sorted by centre and, for one centre, in the order that vesin found them.

    Attributes:
        center, neighbor: (e,) atom indices. vector: (e, 3) r_neighbor − r_center in Å, through the cell's faces.
    """

    center: NDArray[np.int64]
    neighbor: NDArray[np.int64]
    vector: NDArray[np.float64]


def _search_cell(structure: Structure) -> NDArray[np.float64]:
    """A cell of full rank: non-periodic axes get any vector outside the span of the periodic ones."""
    cell, pbc = structure.cell.copy(), structure.pbc
    _, _, basis = np.linalg.svd(np.where(pbc[:, None], cell, 0.0))
    cell[~pbc] = basis[int(pbc.sum()) :]
    return cell


def neighbor_edges(structure: Structure, rcut: float) -> Edges:
    """Every pair (i, j) with |r_j − r_i| < rcut, both ways, periodic images included, virtual atoms left out.

    Raises:
        StructureError: atoms on top of each other, or a cell so thin that the search would not end.
    """
    real = np.flatnonzero(structure.types >= 0)
    if len(real) == 0:
        none = np.zeros(0, dtype=np.int64)
        return Edges(none, none, np.zeros((0, 3)))
    cell = _search_cell(structure)
    if structure.pbc.any():
        heights = 1.0 / np.linalg.norm(np.linalg.inv(cell), axis=0)
        images = np.prod(np.where(structure.pbc, 2 * np.ceil(rcut / heights) + 1, 1))
        if images > MOST_IMAGES:
            raise StructureError(structure.name, f"singular cell: {images:.0f} periodic images within the cut-off")
    search = NeighborList(cutoff=rcut, full_list=True, sorted=True, n_threads=1)
    i, j, vector, distance = search.compute(
        points=structure.positions[real], box=cell, periodic=structure.pbc, quantities="ijDd"
    )
    if len(distance) and distance.min() < OVERLAP:
        e = int(distance.argmin())
        raise StructureError(
            structure.name, f"atoms {real[i[e]]} and {real[j[e]]} overlap: they are {distance[e]:.3g} Å apart"
        )
    center, neighbor = i.astype(np.int64), j.astype(np.int64)
    if len(real) < len(structure):
        center, neighbor = real[center], real[neighbor]
    return Edges(center, neighbor, vector)
