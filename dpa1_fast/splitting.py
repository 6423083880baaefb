"""A batch in two halves, and results put together again: for what does not fit in memory.

DPA-1 is strictly local, so a batch can be cut between structures, and a structure between its centres: the energy and
dE/dd of an edge belong to one centre, and forces and virials of pieces add up.
"""

from __future__ import annotations

from dataclasses import replace

import torch

from .kernels.outputs import Outputs, OutputsWithHidden
from .structures.batch import Batch

BYTES_PER_EDGE = 112
"""Two indices, d and dE/dd, and what sorting them by neighbour takes."""
BYTES_PER_ATOM = 256


def bytes_of(batch: Batch) -> int:
    """What a batch and its results take, about; a backend's own chunk not counted."""
    return len(batch.neighbor) * BYTES_PER_EDGE + batch.n_atoms * BYTES_PER_ATOM


def structures(batch: Batch, a: int, b: int) -> Batch:
    """The structures from a to b alone."""
    i, j = int(batch.offsets[a]), int(batch.offsets[b])
    e, f = int(batch.first_edge[i]), int(batch.first_edge[j])
    return replace(
        batch,
        types=batch.types[i:j],
        structure=batch.structure[i:j] - a,
        offsets=batch.offsets[a : b + 1] - i,
        active=batch.active[i:j],
        center=batch.center[e:f] - i,
        neighbor=batch.neighbor[e:f] - i,
        vector=batch.vector[e:f],
        first_edge=batch.first_edge[i : j + 1] - e,
        n_filled=batch.n_filled[i:j],
        fparam=None if batch.fparam is None else batch.fparam[a:b],
        aparam=None if batch.aparam is None else batch.aparam[i:j],
    )


def centers(batch: Batch, i: int, j: int) -> Batch:
    """All atoms, of which those from i to j alone have neighbours and an energy."""
    e, f = int(batch.first_edge[i]), int(batch.first_edge[j])
    index = torch.arange(batch.n_atoms, device=batch.active.device)
    return replace(
        batch,
        active=batch.active & (index >= i) & (index < j),
        center=batch.center[e:f],
        neighbor=batch.neighbor[e:f],
        vector=batch.vector[e:f],
        first_edge=batch.first_edge.clamp(e, f) - e,
    )


def halves(batch: Batch) -> tuple[Batch, Batch] | None:
    """Two batches of about as many edges each, or None where there is one atom."""
    if batch.n_structures > 1:
        starts = batch.first_edge[batch.offsets[1:-1]]
        cut = 1 + int((starts - len(batch.neighbor) // 2).abs().argmin())
        return structures(batch, 0, cut), structures(batch, cut, batch.n_structures)
    own = torch.nonzero(batch.active).squeeze(-1)
    if len(own) < 2:
        return None
    first, stop = int(own[0]), int(own[-1]) + 1
    inside = batch.first_edge[first + 1 : stop]
    middle = (int(batch.first_edge[first]) + int(batch.first_edge[stop])) // 2
    cut = first + 1 + int((inside - middle).abs().argmin())
    return centers(batch, 0, cut), centers(batch, cut, batch.n_atoms)


def merge_outputs(batch: Batch, one: Outputs, two: Outputs) -> Outputs:
    """The results of a batch from those of its halves."""
    if batch.n_structures > 1:
        merged = Outputs(*(torch.cat(pair) for pair in zip(one, two, strict=True)))
    else:
        merged = Outputs(
            one.energies + two.energies,
            torch.cat([one.gradient, two.gradient]),
            one.forces + two.forces,
            one.virials + two.virials,
        )
    if not isinstance(one, OutputsWithHidden) or not isinstance(two, OutputsWithHidden):
        return merged
    hidden = torch.cat([one.hidden, two.hidden]) if batch.n_structures > 1 else one.hidden + two.hidden
    return OutputsWithHidden.of(merged, hidden)
