"""The coordinates in which the first attention layer sees its neighbours.

The embedding g of a neighbour depends on one number s and two types. For a given centre type and the types that are
around it, the curves g(s) span far fewer dimensions than M to any useful precision (water, M = 100: 30 to 1e-8, 51 to
1e-13). An orthonormal basis C of that span, cut where singular values fall below ``TOLERANCE`` of the largest, gives
φ = Cᵀ g with g = C φ to the same precision, and every product over pairs of neighbours shrinks from M + 1 to r + 1.
"""

from __future__ import annotations

import torch
from torch import Tensor

TOLERANCE = {torch.float64: 1e-13, torch.float32: 1e-8, torch.bfloat16: 1e-5}
"""Singular values below this part of the largest are rounding."""

NEAREST = 0.4
"""Å. Series and bases were not sampled for neighbours closer than this: their atom takes the net and the full layer."""

SAMPLES = 512
WORTH = 0.75
"""A basis is used where r + 1 is at most this part of M + 1."""


def sample_distances(rcut: float) -> Tensor:
    """Distances between ``NEAREST`` and the cut-off, denser towards both ends. (SAMPLES,) float64."""
    x = torch.linspace(0.0, torch.pi, SAMPLES, dtype=torch.float64)
    return NEAREST + (rcut - NEAREST) * (1.0 - torch.cos(x)) / 2.0


def find(samples: Tensor, dtype: torch.dtype) -> Tensor | None:
    """C (M, r) in float64 spanning the rows of ``samples`` (n, M), or None where it is not worth it.

    From the triangular factor of the samples, which has their singular values and is small.
    """
    u, size, _ = torch.linalg.svd(torch.linalg.qr(samples, mode="r")[1].t(), full_matrices=False)
    r = int((size > TOLERANCE[dtype] * size[0]).sum())
    return u[:, :r].contiguous() if r > 0 and r + 1 <= WORTH * (samples.shape[1] + 1) else None
