"""Neighbours of one structure as a full list in CSR order: compiled, by vesin where nothing was compiled, or by a k-d
tree where a grid would not do."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from vesin import NeighborList

from ..errors import StructureError
from ..kernels.cpu import neighbors as compiled
from . import sparse_search
from .structure import Structure

OVERLAP = 1e-3
"""Å. Two atoms closer than this are taken for the same atom written twice."""

GRID_CELLS = 100_000
"""vesin's grid has no more cells than this; where there are to be more, it makes all axes coarser alike."""

CELLS_PER_ATOM = 64
"""With more cells than this an atom is mostly alone, and a grid spends its time on empty ones."""

ANY_GRID = 200
"""So few atoms are searched soon wherever they lie, all in one cell if it must be."""

FAR = 1000
"""Cells. An atom further outside of a periodic box is wrapped before the search: vesin counts in 32 bits."""

MOST_IMAGES = 1_000_000
"""More periodic images of a cell than this within the cut-off mean a broken cell."""


@dataclass(frozen=True)
class Edges:
    """Pairs with r < rcut, sorted by centre and, for one centre, by neighbour and the faces that they are seen through.

    Attributes:
        center, neighbor: (e,) atom indices. vector: (e, 3) r_neighbor − r_center in Å, through the cell's faces.
        closest: Å, the shortest of all, infinite where there is none; None where nobody has looked.
    """

    center: NDArray[np.int64]
    neighbor: NDArray[np.int64]
    vector: NDArray[np.float64]
    closest: float | None = None


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
    images = math.prod(2 * math.ceil(cutoff * n) + 1 for n in planes.tolist())
    if images > MOST_IMAGES:
        raise StructureError(structure.name, f"singular cell: {images} periodic images within the cut-off")


@dataclass(frozen=True)
class Lattice:
    """The periodic vectors of a structure.

    Attributes:
        vectors: (3, 3) Å, zero rows along axes that are not periodic. dual: (3, 3) its pseudo-inverse.
        planes: 1/Å, how many lattice planes there are along each periodic axis.
    """

    vectors: NDArray[np.float64]
    dual: NDArray[np.float64]
    planes: NDArray[np.float64]

    @classmethod
    def of(cls, structure: Structure) -> Lattice:
        """Of a structure whose cell was checked."""
        pbc = structure.pbc
        if not pbc.any():
            return cls(np.zeros((3, 3)), np.zeros((3, 3)), np.zeros(0))
        vectors = np.where(pbc[:, None], structure.cell, 0.0)
        dual = np.linalg.inv(vectors) if pbc.all() else np.linalg.pinv(vectors)
        return cls(vectors, dual, np.sqrt(np.square(dual[:, pbc]).sum(axis=0)))


def grid_does(structure: Structure, cutoff: float) -> bool:
    """Whether a grid of cells finds a structure's pairs soon: not where atoms lie far apart, or the cell is thin."""
    if len(structure) <= ANY_GRID:
        return True
    real = structure.types >= 0
    return _grid_does(structure.positions[real], _search_cell(structure), structure.pbc, cutoff)


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
    points, wrapped = structure.positions[real], None
    dense = _grid_does(points, cell, structure.pbc, cutoff)
    outside = _cells_away(points, cell, structure.pbc)
    if np.abs(outside).max(initial=0.0) > (FAR if dense else 0):
        wrapped = outside.astype(np.int64)
        points = points - outside @ cell
    if dense:
        letters = quantities if "S" in quantities and {"i", "j"} <= set(quantities) else quantities + "ijS"
        found = NeighborList(cutoff=cutoff, full_list=True, sorted=True, n_threads=1).compute(
            points=points, box=cell, periodic=structure.pbc, quantities=quantities if wrapped is None else letters
        )
        by_letter = dict(zip(letters, found, strict=False))
    else:
        by_letter = dict(zip("ijSD", sparse_search.pairs(points, cell, structure.pbc, cutoff), strict=True))
        by_letter["d"] = np.linalg.norm(by_letter["D"], axis=1)
    if wrapped is not None:
        by_letter["S"] = by_letter["S"] + wrapped[by_letter["i"]] - wrapped[by_letter["j"]]
    return [real[by_letter[q]] if q in "ij" else by_letter[q] for q in quantities]


def _cells_away(points: NDArray[np.float64], cell: NDArray[np.float64], pbc: NDArray[np.bool_]) -> NDArray[np.float64]:
    """(n, 3) whole cells that each atom lies outside of the box, along periodic axes."""
    return np.where(pbc, np.floor(points @ np.linalg.inv(cell)), 0.0)


def _grid_does(points: NDArray[np.float64], cell: NDArray[np.float64], pbc: NDArray[np.bool_], cutoff: float) -> bool:
    """Whether a grid of cells as large as the cut-off suits these atoms: not too empty, not too long and thin."""
    dual = np.linalg.inv(cell)
    heights = 1.0 / np.linalg.norm(dual, axis=0)
    extent = np.ptp(points @ dual, axis=0) * heights
    cells = np.maximum(np.where(pbc, heights, extent) / cutoff, 1.0)
    total = float(np.prod(cells))
    coarser = (total / GRID_CELLS) ** (1 / 3)
    return total <= CELLS_PER_ATOM * (len(points) + 64) and (coarser <= 1.0 or bool((cells > 2.0 * coarser).all()))


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
        return Edges(none, none, np.zeros((0, 3)), np.inf)
    found = None
    if grid_does(structure, rcut):
        lattice = Lattice.of(structure)
        check_images(structure, lattice.planes, rcut)
        real = structure.types >= 0
        found = compiled.edges(structure.positions, real, lattice.vectors, lattice.dual, rcut)
    if found is None:
        center, neighbor, vector = search(structure, rcut, "ijD")
        closest = float(lengths(vector).min(initial=np.inf))
    else:
        center, neighbor, vector, closest = found
    if closest < OVERLAP:
        e = int(lengths(vector).argmin())
        raise overlap(structure, int(center[e]), int(neighbor[e]), closest)
    return Edges(center, neighbor, vector, closest)


def lengths(vector: NDArray[np.float64]) -> NDArray[np.float64]:
    """(e,) of vectors (e, 3), with the bits of the compiled search: two multiply-adds and a root."""
    length: NDArray[np.float64] = torch.linalg.vector_norm(torch.from_numpy(vector), dim=-1).numpy()
    return length
