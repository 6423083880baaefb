"""Whether the atoms of a crystal see each other along all three axes, or are a gas, chains or layers to the model."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import csr_matrix
from scipy.sparse.csgraph import breadth_first_order, connected_components

from ..structures.neighbors import neighbor_edges
from ..structures.structure import Structure

Array = NDArray[np.int64]


def connected(structure: Structure, rcut: float) -> bool:
    """Whether one net of neighbours within ``rcut`` (Å) holds all real atoms, and runs on along three vectors.

    Walks round closed loops of neighbours end in another cell; the cells that they reach span the net's directions.

    Raises:
        StructureError: see ``neighbor_edges``.
    """
    n = len(structure.types)
    edges = neighbor_edges(structure, rcut)
    a, b = edges.center, edges.neighbor
    if not len(a):
        return False
    crossed = edges.vector - (structure.positions[b] - structure.positions[a])
    shift = np.rint(crossed @ np.linalg.inv(structure.cell)).astype(np.int64)
    graph = csr_matrix((np.ones(len(a)), (a, b)), (n, n))
    part = connected_components(graph, directed=False)[1][structure.types >= 0]
    if (part != part[0]).any():
        return False
    cell = _cells_along_a_tree(graph, a, b, shift)
    loops = np.unique(cell[a] + shift - cell[b], axis=0)
    return int(np.linalg.matrix_rank(loops)) == 3


def _cells_along_a_tree(graph: csr_matrix, a: Array, b: Array, shift: Array) -> Array:
    """(n, 3): the cell in which a walk along a spanning tree finds each atom."""
    n = graph.shape[0]
    pairs, first = np.unique(a * n + b, return_index=True)
    order, before = breadth_first_order(graph, a[0])
    cell = np.zeros((n, 3), np.int64)
    for atom in order[1:]:
        edge = first[np.searchsorted(pairs, before[atom] * n + atom)]
        cell[atom] = cell[before[atom]] + shift[edge]
    return cell
