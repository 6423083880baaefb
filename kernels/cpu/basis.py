"""The coordinates in which the first attention layer sees its neighbours.

The embedding g of a neighbour depends on one number s and two types. For a given centre type and the types that are
around it, the curves g(s) span far fewer dimensions than M to any useful precision (water, M = 100: 30 to 1e-8, 56 to
1e-14). An orthonormal basis C of that span, cut where the singular values fall below ``TOLERANCE`` of the largest, gives
φ = Cᵀ g with g = C φ to the same precision, and every product over pairs of neighbours shrinks from M + 1 to r + 1.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

TOLERANCE = {torch.float64: 1e-14, torch.float32: 1e-8}
"""Singular values below this part of the largest are rounding."""

NEAREST = 0.4
"""Å. Neighbours closer than this were not sampled: their tile takes the full layer."""

SAMPLES = 1024
WORTH = 0.75
"""A basis is used where r + 1 is at most this part of M + 1."""


def sample_distances(rcut: float) -> Tensor:
    """Distances between ``NEAREST`` and the cut-off, denser towards both ends. (SAMPLES,) float64."""
    x = torch.linspace(0.0, torch.pi, SAMPLES, dtype=torch.float64)
    return NEAREST + (rcut - NEAREST) * (1.0 - torch.cos(x)) / 2.0


def find(embed: Callable[[int], Tensor], types: tuple[int, ...], dtype: torch.dtype) -> Tensor | None:
    """C (M, r) in float64 spanning ``embed(t)`` (SAMPLES, M) for every neighbour type t, or None where not worth it."""
    samples = torch.cat([embed(t) for t in types])
    u, size, _ = torch.linalg.svd(samples.t(), full_matrices=False)
    r = int((size > TOLERANCE[dtype] * size[0]).sum())
    return u[:, :r].contiguous() if r + 1 <= WORTH * (samples.shape[1] + 1) else None
