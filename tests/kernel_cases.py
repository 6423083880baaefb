"""Models with random weights, and batches in which a few atoms with chosen neighbour counts are evaluated.

Nothing here decides whether Triton's kernels are interpreted or compiled.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import torch
from ase import Atoms

from dpa1_fast import DPA1, DPA1Config
from dpa1_fast.kernels.outputs import Outputs
from dpa1_fast.kernels.triton import chunks
from dpa1_fast.kernels.triton.evaluator import TritonEvaluator
from dpa1_fast.structures.batch import Batch, collate, neighborhood
from dpa1_fast.structures.structure import from_ase

NEAREST, FARTHEST = 0.9, 3.9
"""Å between an atom that is evaluated and its neighbours."""


def random_model(config: DPA1Config) -> DPA1:
    """Random weights, and statistics that are neither 0 nor 1."""
    torch.manual_seed(11)
    model = DPA1(config).set_dtype(torch.float64)
    model.dstd.uniform_(0.3, 0.6)
    model.dstd[:, 1:] = model.dstd[:, 1:2]
    model.out_bias.normal_()
    return model


def one_center_each(model: DPA1, neighbors: Sequence[int]) -> Batch:
    """A batch in which the first atom of each structure is evaluated, with so many neighbours."""
    structures = []
    for k, n in enumerate(neighbors):
        rng = np.random.default_rng(100 * k + n)
        directions = rng.normal(size=(n, 3))
        directions /= np.linalg.norm(directions, axis=1, keepdims=True)
        positions = np.concatenate([np.zeros((1, 3)), directions * rng.uniform(NEAREST, FARTHEST, size=(n, 1))])
        structures.append(Atoms(rng.choice(list(model.config.type_map), n + 1), positions=positions))
    batch = collate(model.config, [neighborhood(model.config, from_ase(model.config, a, "x")) for a in structures])
    active = torch.zeros(len(batch.types), dtype=torch.bool)
    active[batch.offsets[:-1]] = True
    assert batch.counts[batch.offsets[:-1]].tolist() == list(neighbors)
    return replace(batch, active=active)


def run(evaluator: TritonEvaluator, batch: Batch) -> Outputs:
    """An evaluation for which it does not matter that atoms that are not evaluated are close to one another."""
    order = chunks.by_neighbors(batch)
    (sizes,) = chunks.read(order)
    return evaluator.run(batch, order, evaluator.chunks(sizes), near=False)
