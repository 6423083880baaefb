"""Batches whose neighbour lists two ways of making them must agree on."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from conftest import BASE

from dpa1_fast.errors import StructureError
from dpa1_fast.structures.batch import Batch, collate, neighborhood
from dpa1_fast.structures.neighbors import neighbor_edges
from dpa1_fast.structures.on_device.rows import Rows
from dpa1_fast.structures.on_device.search import DeviceSearch, Found
from dpa1_fast.structures.structure import Structure, make_structure

BIG = replace(BASE, sel=(10_000,))


def on_device(config: Any, structures: Sequence[Structure], **options: Any) -> Found:
    return DeviceSearch(config, torch.device("cpu"), **options).batch(Rows.of(structures))


def on_host(config: Any, structures: Sequence[Structure]) -> tuple[Batch, dict[int, StructureError]]:
    """The same by the host; of structures with an error all atoms are virtual, so that indices stay."""
    parts, errors = [], {}
    for k, s in enumerate(structures):
        try:
            parts.append(neighborhood(config, s))
        except StructureError as error:
            errors[k] = error
            parts.append(neighborhood(config, replace(s, types=np.full(len(s), -1))))
    return collate(config, parts), errors


def in_order(batch: Batch) -> tuple[np.ndarray, ...]:
    """Edges by centre, neighbour and vector: vesin leaves open in which order those of one atom come."""
    center, neighbor, vector = batch.center.numpy(), batch.neighbor.numpy(), batch.vector.numpy()
    order = np.lexsort((*vector.T, neighbor, center))
    return center[order], neighbor[order], vector[order]


def assert_same(config: Any, structures: Sequence[Structure], **options: Any) -> Found:
    """Edges of the same bits, and all else that a batch says."""
    found = on_device(config, structures, **options)
    right, errors = on_host(config, structures)
    assert {k: str(e) for k, e in found.errors.items()} == {k: str(e) for k, e in errors.items()}
    for a, b in zip(in_order(found.batch), in_order(right), strict=True):
        assert np.array_equal(a, b)
    for name in ("structure", "offsets", "first_edge", "n_filled"):
        assert torch.equal(getattr(found.batch, name), getattr(right, name)), name
    bad = np.isin(right.structure.numpy(), list(errors))
    assert np.array_equal(found.batch.active.numpy()[~bad], right.active.numpy()[~bad])
    assert not found.batch.active.numpy()[bad].any()
    assert np.array_equal(found.batch.types.numpy()[~bad], right.types.numpy()[~bad])
    assert found.batch.over_sel == right.over_sel
    assert (found.batch.center.diff() >= 0).all()
    counts = found.batch.counts.double()
    if not (config.exclude_types or config.pair_exclude_types):
        assert found.features.tolist() == [len(counts), counts.sum().item(), counts.square().sum().item()]
    return found


def random_structure(rng: np.random.Generator, config: Any, name: str) -> Structure:
    """Gas to solid, one atom to hundreds, any cell and axes, atoms outside of the box, and now and then something
    that no grid suits."""
    n = int(rng.choice([1, 2, 5, 20, 80, 300], p=[0.1, 0.1, 0.2, 0.3, 0.2, 0.1]))
    size = (n / 10.0 ** rng.uniform(-2.5, -0.7)) ** (1 / 3) * rng.uniform(0.6, 1.7, 3)
    cell = np.diag(np.maximum(size, 0.9)) @ (np.eye(3) + rng.normal(scale=rng.choice([0.0, 0.25]), size=(3, 3)))
    cell *= rng.choice([-1.0, 1.0])
    pbc = rng.random(3) < rng.choice([0.0, 0.6, 1.0])
    fraction = rng.uniform(0, 1, (n, 3))
    if rng.random() < 0.3:
        fraction = np.round(fraction * 4) / 4 + rng.normal(scale=1e-3, size=(n, 3))  # near faces, far from random
    fraction += np.where(rng.random((n, 1)) < 0.3, rng.integers(-3, 4, (n, 3)), 0) * rng.choice([0, 1])
    positions = fraction @ cell
    types = rng.choice([0, 1, 2, -1], n, p=[0.4, 0.3, 0.25, 0.05])
    odd = rng.random()
    if odd < 0.05:
        positions[0] += rng.integers(-2000, 2000, 3) @ cell
    elif odd < 0.1:
        positions[-1] += 10.0 ** rng.uniform(1, 8)
    elif odd < 0.15:
        cell[rng.integers(3)] *= 10.0 ** rng.uniform(0.5, 3)
    elif odd < 0.2 and n > 1:
        positions[0] = positions[1] + 1e-4
    elif odd < 0.25:
        cell[~pbc] = 0.0
    return make_structure(config, name, positions, types, cell, pbc)


def tied(config: Any, s: Structure) -> bool:
    """Whether ``sel`` cuts between two that are equally far, as an atom's images on both sides of it are."""
    try:
        edges = neighbor_edges(s, config.rcut)
    except StructureError:
        return False
    distance = np.linalg.norm(edges.vector, axis=1)
    of_each = (np.sort(distance[edges.center == i]) for i in range(len(s)))
    return any(len(d) > config.nsel and d[config.nsel - 1] == d[config.nsel] for d in of_each)


def several(rng: np.random.Generator, config: Any, most: int) -> list[Structure]:
    out: list[Structure] = []
    while len(out) < most:
        try:
            s = random_structure(rng, config, f"structure {len(out)}")
        except StructureError:
            continue
        if config.nsel > 100 or not tied(config, s):
            out.append(s)
    return out
