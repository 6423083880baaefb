"""The coordinates in which the first attention layer sees its neighbours.

The embedding g of a neighbour depends on one number s and two types. For a given centre type and the types that are
around it, the curves g(s) span far fewer dimensions than M to any useful precision (water, M = 100: 30 to 1e-8, 51 to
1e-13). An orthonormal basis C of that span, cut where singular values fall below ``TOLERANCE`` of the largest, gives
φ = Cᵀ g with g = C φ to the same precision, and every product over pairs of neighbours shrinks from M + 1 to r + 1.
"""

from __future__ import annotations

import torch
from torch import Tensor

from .radial import Series, derivative, polynomials, scaled
from .workspace import Workspace

TOLERANCE = {torch.float64: 1e-13, torch.float32: 1e-8}
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


def find(samples: Tensor, dtype: torch.dtype) -> Tensor | None:
    """C (M, r) in float64 spanning the rows of ``samples`` (n, M), or None where it is not worth it."""
    u, size, _ = torch.linalg.svd(samples.t(), full_matrices=False)
    r = int((size > TOLERANCE[dtype] * size[0]).sum())
    return u[:, :r].contiguous() if r + 1 <= WORTH * (samples.shape[1] + 1) else None


class Coordinates:
    """φ̂ = [φ, 1] as polynomials of s, and g = C φ from it.

    Args:
        span: C (M, r). series: of g for the neighbour types at hand, on which C was found.
        b_out: (M,) of the first attention layer, which g carries from here on.
    """

    def __init__(self, span: Tensor, series: Series, b_out: Tensor) -> None:
        dtype = b_out.dtype
        sets, types, terms, _ = series.c.shape
        c = series.c @ span
        one = torch.zeros(sets, types, terms, 1, dtype=torch.float64)
        one[0, :, 0] = 1.0
        self.series, self.shape = series, (sets, types, terms)
        self.c = torch.cat([c, one], dim=3).flatten(0, 2).to(dtype).contiguous()
        slope = derivative(terms) * (2.0 / (series.hi - series.lo))
        self.slope = (slope.t() @ c).flatten(0, 2).to(dtype).contiguous()
        self.gated = c[1].flatten(0, 1).to(dtype).contiguous() if series.gated else None
        self.span, self.b_out = span.to(dtype).contiguous(), b_out

    def forward(self, s: Tensor, slot: Tensor, sw: Tensor | None, ws: Workspace) -> tuple[Tensor, Tensor, Tensor]:
        """g + b_out (E, M), φ̂ (E, r + 1), and the columns that the backward needs, from s, fitted type and sw (E,)."""
        sets, types, terms = self.shape
        t = polynomials(scaled(s, self.series), terms, ws.take("coordinates.t", terms, s.shape[0]))
        columns = ws.take("coordinates.columns", sets, types, terms, s.shape[0])
        for k in range(types):
            torch.mul(t, (slot == k).to(s.dtype), out=columns[0, k])
        if self.gated is not None:
            assert sw is not None
            torch.mul(columns[0], sw, out=columns[1])
        columns = columns.view(-1, s.shape[0])
        phi = torch.mm(columns.t(), self.c, out=ws.take("phi", s.shape[0], self.c.shape[1]))
        out = ws.take("attention.g", s.shape[0], self.span.shape[0])
        return torch.addmm(self.b_out, phi[:, :-1], self.span.t(), out=out), phi, columns

    def backward(self, gg: Tensor, gphi: Tensor, columns: Tensor, ws: Workspace) -> tuple[Tensor, Tensor | None]:
        """dE/ds and, in smooth strip mode, dE/dsw (E,) from dE/dg (E, M) and dE/dφ̂ (E, r + 1)."""
        gphi = torch.addmm(gphi[:, :-1], gg, self.span)
        slope = torch.mm(columns.t(), self.slope, out=ws.take("coordinates.slope", *gphi.shape))
        grad_s = slope.mul_(gphi).sum(-1)
        if self.gated is None:
            return grad_s, None
        return grad_s, torch.mm(columns[: len(self.gated)].t(), self.gated).mul_(gphi).sum(-1)
