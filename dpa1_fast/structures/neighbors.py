"""Neighbours of one structure as a full list in CSR order, by vesin."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from vesin import NeighborList

from ..errors import StructureError
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
    if pbc.all():
        return cell
    if not pbc.any():
        return np.eye(3)
    _, _, basis = np.linalg.svd(np.where(pbc[:, None], cell, 0.0))
    cell[~pbc] = basis[int(pbc.sum()) :]
    return cell


def check_images(structure: Structure, planes: NDArray[np.float64], cutoff: float) -> None:
    """Refuses a cell so thin that a search would not end.

    Args:
        planes: 1/Å, how many lattice planes there are along each periodic axis. cutoff: Å.

    Raises:
        StructureError: saying how many images there would be.
    """
    images = np.prod(2 * np.ceil(cutoff * planes) + 1)
    if images > MOST_IMAGES:
        raise StructureError(structure.name, f"singular cell: {images:.0f} periodic images within the cut-off")


def search(structure: Structure, cutoff: float, quantities: str) -> list[NDArray[Any]]:
    """What vesin finds of all pairs |r_j − r_i + S·cell| < cutoff, both ways round, sorted by i and then j.

    Virtual atoms are left out; i and j count all atoms.

    Args:
        cutoff: Å. quantities: vesin's letters: i, j, S (cell shifts), D (vectors), d (distances).

    Raises:
        StructureError: a cell so thin that the search would not end.
    """
    real = np.flatnonzero(structure.types >= 0)
    cell = _search_cell(structure)
    if structure.pbc.any():
        check_images(structure, np.linalg.norm(np.linalg.inv(cell)[:, structure.pbc], axis=0), cutoff)
    found = NeighborList(cutoff=cutoff, full_list=True, sorted=True, n_threads=1).compute(
        points=structure.positions[real], box=cell, periodic=structure.pbc, quantities=quantities
    )
    return [real[x] if q in "ij" else x for q, x in zip(quantities, found, strict=True)]


def overlap(structure: Structure, i: int, j: int, distance: float) -> StructureError:
    """What to say of two atoms that are too close to each other to be two."""
    return StructureError(structure.name, f"atoms {i} and {j} overlap: they are {distance:.3g} Å apart")


def neighbor_edges(structure: Structure, rcut: float) -> Edges:
    """Every pair (i, j) with |r_j − r_i| < rcut, both ways, periodic images included, virtual atoms left out.

    Raises:
        StructureError: atoms on top of each other, or a cell so thin that the search would not end.
    """
    if not (structure.types >= 0).any():
        none = np.zeros(0, dtype=np.int64)
        return Edges(none, none, np.zeros((0, 3)))
    center, neighbor, vector = search(structure, rcut, "ijD")
    square = np.einsum("ea,ea->e", vector, vector)
    if len(square) and square.min() < OVERLAP**2:
        e = int(square.argmin())
        raise overlap(structure, int(center[e]), int(neighbor[e]), float(np.sqrt(square[e])))
    return Edges(center, neighbor, vector)
