"""What a model's networks see and think of each atom: descriptor, and the energy net's last hidden layer."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from .errors import StructureError
from .model import DPA1
from .structures.batch import Batch, Neighborhood, collate
from .tiled import TILE_ELEMENTS

AT_ONCE = 256
"""Atoms of small structures that are evaluated together."""


class Features(NamedTuple):
    """Of one structure: descriptor (n, D) and last hidden layer (n, H), float64, 0 for virtual atoms."""

    descriptor: NDArray[np.float64]
    hidden: NDArray[np.float64]


def features(model: DPA1, part: Neighborhood) -> Features:
    """By the reference formulas; atoms of ``atom_exclude_types`` have features too.

    Args:
        model: with parameters in float64. part: a structure with its neighbours.
    """
    batch = collate(model.config, [part])
    real = torch.nonzero(batch.types >= 0).squeeze(-1)
    return Features(*(x.numpy() for x in of_batch(model, batch, real)))


def streamed(model: DPA1, parts: Iterable[Neighborhood | StructureError]) -> Iterator[Features | StructureError]:
    """As ``features``, of any number of structures in constant memory, small ones together; errors are passed on."""
    group: list[Neighborhood | StructureError] = []
    atoms = 0
    for part in parts:
        group.append(part)
        atoms += 1 if isinstance(part, StructureError) else len(part.structure)
        if atoms >= AT_ONCE:
            yield from _group(model, group)
            group, atoms = [], 0
    yield from _group(model, group)


def _group(model: DPA1, group: list[Neighborhood | StructureError]) -> Iterator[Features | StructureError]:
    good = [p for p in group if not isinstance(p, StructureError)]
    if good:
        batch = collate(model.config, good)
        descriptor, hidden = of_batch(model, batch, torch.nonzero(batch.types >= 0).squeeze(-1))
    start = 0
    for part in group:
        if isinstance(part, StructureError):
            yield part
            continue
        stop = start + len(part.structure)
        yield Features(descriptor[start:stop].numpy(), hidden[start:stop].numpy())
        start = stop


def of_batch(model: DPA1, batch: Batch, real: Tensor) -> tuple[Tensor, Tensor]:
    """Descriptors (n, D) and last hidden layers (n, H) of atoms ``real``, zero for others; float64, on the model's
    device."""
    config, device = model.config, batch.vector.device
    descriptor = torch.zeros(batch.n_atoms, config.dim_descrpt, dtype=torch.float64, device=device)
    hidden = torch.zeros(batch.n_atoms, model.dim_hidden, dtype=torch.float64, device=device)
    with torch.no_grad():
        for atoms in batch.tiles(TILE_ELEMENTS, model.cost_per_neighbor, real):
            edge, mask = batch.slots(atoms)
            vectors = batch.vector[edge] if edge.shape[1] else batch.vector.new_zeros(len(atoms), 0, 3)
            tile = batch.tile(atoms, edge, mask, vectors, 2 * config.rcut)
            descriptor[atoms] = model.descriptor(tile)
            hidden[atoms] = model.hidden(descriptor[atoms], tile)
    return descriptor, hidden
