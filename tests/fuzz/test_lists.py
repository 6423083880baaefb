"""Random batches, searched by torch operations: the host's edges, bit for bit, and its errors.

pytest tests/fuzz --fuzz-examples 100000      (make fuzz)
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from list_cases import BIG, assert_same, random_structure, several

from dpa1_fast.errors import StructureError
from dpa1_fast.structures.structure import make_structure


def test_batches_of_a_few_structures(fuzz_examples: int) -> None:
    for seed in range(fuzz_examples):
        rng = np.random.default_rng(seed)
        config = replace(BIG, sel=(int(rng.integers(2, 60)),)) if rng.random() < 0.4 else BIG
        if rng.random() < 0.3:
            config = replace(config, exclude_types=((0, 1),), pair_exclude_types=((1, 2), (0, 0)))
        batch = several(rng, config, int(rng.integers(1, 8)))
        assert_same(config, batch, candidates=int(rng.choice([50, 5_000, 1 << 20])))


def test_a_batch_of_a_thousand() -> None:
    """Grids, keys and places of very different structures side by side."""
    rng = np.random.default_rng(8)
    structures = []
    while len(structures) < 1000:
        try:
            structures.append(random_structure(rng, BIG, f"structure {len(structures)}"))
        except StructureError:
            continue
    assert_same(BIG, structures)


def test_large_structures(fuzz_examples: int) -> None:
    """Many bins along each axis, in skewed boxes of very different edges, atoms several cells away."""
    for seed in range(max(3, fuzz_examples // 20)):
        rng = np.random.default_rng(seed)
        n, density = int(rng.integers(500, 3000)), 10.0 ** rng.uniform(-2.3, -0.9)
        size = (n / density) ** (1 / 3) * rng.uniform(0.4, 2.5, 3)
        cell = np.diag(size) @ (np.eye(3) + rng.normal(scale=rng.choice([0.0, 0.3]), size=(3, 3)))
        away = (rng.random((n, 1)) < 0.2) * rng.integers(-4, 5, (n, 3)) * (rng.random() < 0.5)
        pbc = rng.random(3) < rng.choice([0.0, 0.5, 1.0])
        positions = (rng.uniform(0, 1, (n, 3)) + away) @ cell
        assert_same(BIG, [make_structure(BIG, "large", positions, rng.choice([0, 1, 2, -1], n), cell, pbc)])
