"""Cuts a batch into tiles for a backend that evaluates one tile at a time.

Tiles know nothing of each other and write to places of their own, so results do not depend on how a batch is cut.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from .kernels.outputs import Outputs
from .structures.batch import Batch, Tile

TILE_ELEMENTS = 2_000_000
"""Numbers that one tile may hold at a time; a few such tensors are alive at once."""


class TiledEvaluator:
    """Evaluates batches by tiles of similar neighbour count.

    Args:
        evaluate: a tile's energies (B,) and gradients (B, N, 3).
        cost_per_neighbor: numbers that a neighbour slot needs besides one per pair of slots.
        beyond: Å, a length past the cut-off, for slots without a neighbour.
    """

    def __init__(
        self, evaluate: Callable[[Tile], tuple[Tensor, Tensor]], cost_per_neighbor: int, beyond: float
    ) -> None:
        self.evaluate, self.cost, self.beyond = evaluate, cost_per_neighbor, beyond

    def __call__(self, batch: Batch) -> Outputs:
        """Atomic energies (n,) in eV, dE/dd of every edge (e, 3) and forces (n, 3) in eV/Å, virials (S, 3, 3) in eV."""
        energies = torch.zeros(batch.n_atoms, dtype=torch.float64, device=batch.vector.device)
        gradient = torch.zeros_like(batch.vector)
        for atoms in batch.tiles(TILE_ELEMENTS, self.cost):
            edge, mask = batch.slots(atoms)
            vectors = batch.vector[edge] if edge.shape[1] else gradient.new_zeros(len(atoms), 0, 3)
            energy, g = self.evaluate(batch.tile(atoms, edge, mask, vectors, self.beyond))
            energies[atoms] = energy
            gradient[edge[mask]] = g[mask]
        return Outputs(energies, gradient, batch.forces(gradient), batch.virials(gradient))
