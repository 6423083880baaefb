"""Which centres are evaluated together, and by whom: tiles of similar neighbour count, worker threads.

Tiles know nothing of each other and write to places of their own, so results do not depend on who does which when.
"""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import torch
from torch import Tensor

from .batch import Batch
from .kernels.dispatch import Evaluator

TILE_ELEMENTS = 4_000_000
"""Numbers that one tile may hold at a time; a few such tensors are alive at once."""

SMALLEST_TILE = 500_000
"""Numbers below which a tile is not cut further to give every thread its share: a tile costs milliseconds by itself."""

TILES_PER_THREAD = 3


class Scheduler:
    """Cuts batches into tiles and has them evaluated.

    Args:
        evaluate: a tile's energies and gradients; must be safe to call from several threads if ``threads`` > 1.
        by_type: whether a tile's centres must be of one type.
        cost_per_neighbor: numbers that a neighbour slot needs besides one per pair of slots.
        beyond: Å, a length past the cut-off, for slots without a neighbour.
        threads: worker threads, each with one intra-op thread; 1 works in the caller's.
    """

    def __init__(self, evaluate: Evaluator, by_type: bool, cost_per_neighbor: int, beyond: float, threads: int) -> None:
        self.evaluate, self.by_type, self.cost = evaluate, by_type, cost_per_neighbor
        self.beyond, self.threads = beyond, threads
        self._pool: ThreadPoolExecutor | None = None

    def run(self, batch: Batch) -> tuple[Tensor, Tensor]:
        """Atomic energies (n,) in eV and dE/dd of every edge (e, 3) in eV/Å, both float64."""
        energies = torch.zeros(batch.n_atoms, dtype=torch.float64, device=batch.vector.device)
        gradient = torch.zeros_like(batch.vector)

        def one(atoms: Tensor) -> None:
            edge, mask = batch.slots(atoms)
            vectors = batch.vector[edge] if edge.shape[1] else gradient.new_zeros(len(atoms), 0, 3)
            energy, g = self.evaluate(batch.tile(atoms, edge, mask, vectors, self.beyond))
            energies[atoms] = energy
            gradient[edge[mask]] = g[mask]

        tiles = list(batch.tiles(self._elements(batch), self.cost, self.by_type))
        if self.threads == 1 or len(tiles) < 2:
            for atoms in tiles:
                one(atoms)
            return energies, gradient
        if self._pool is None:
            # The number of intra-op threads is the calling thread's own: each worker sets it for itself.
            self._pool = ThreadPoolExecutor(self.threads, "dpa1-fast", torch.set_num_threads, (1,))
        for done in [self._pool.submit(one, atoms) for atoms in reversed(tiles)]:
            done.result()
        return energies, gradient

    def _elements(self, batch: Batch) -> int:
        """Numbers per tile: as many as fit, but every thread gets a few tiles where there is work for that."""
        if self.threads == 1:
            return TILE_ELEMENTS
        counts = batch.counts[batch.active]
        share = int((counts * (counts + self.cost)).sum()) // (self.threads * TILES_PER_THREAD) + 1
        return min(TILE_ELEMENTS, max(share, SMALLEST_TILE))
