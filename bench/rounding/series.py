"""The embedding as a series in the first layer's coordinates, as ``kernels/triton/ops/series.py`` has it."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from bench.rounding.products import Kept, Products, TimesWeight
from dpa1_fast.kernels.triton.coordinates import Coordinates


class Chebyshev(torch.autograd.Function):
    """T_k (…, terms) at x (…,), doubled up as the kernels do; back by T_k' = k U_(k−1)."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, terms: int) -> Tensor:
        """terms: a power of two."""
        t, u = torch.ones_like(x).unsqueeze(-1), torch.zeros_like(x).unsqueeze(-1)
        t_s, u_s = x.unsqueeze(-1), torch.ones_like(x).unsqueeze(-1)
        square = ((1.0 - x) * (1.0 + x)).unsqueeze(-1)
        while t.shape[-1] < terms:
            t, u = torch.cat([t, t * t_s - square * u * u_s], -1), torch.cat([u, u * t_s + t * u_s], -1)
            t_s, u_s = 2.0 * t_s * t_s - 1.0, 2.0 * t_s * u_s
        ctx.slopes = u * torch.arange(terms).to(x)
        return t

    @staticmethod
    def backward(ctx: Any, *d_t: Tensor) -> tuple[Tensor, None]:
        """dE/dx."""
        return (d_t[0] * ctx.slopes).sum(-1), None


class RoundedSeries:
    """φ of neighbours from s and the switch.

    Args:
        found: what the kernels read. dot: products of the series. kept: those that read φ.
    """

    def __init__(self, found: Coordinates, dot: Products, kept: Products) -> None:
        self.series, self.ranges = found.series.to(dot.dtype), found.ranges.to(dot.dtype)
        self.dot, self.kept = dot, kept

    def __call__(self, s: Tensor, sw: Tensor, mask: Tensor, center: Tensor, neighbor: Tensor) -> Tensor:
        """(B, N, r) from s, sw, mask and types of neighbours (B, N), and of centres (B,)."""
        scale, shift = self.ranges[center].unsqueeze(1).unbind(-1)
        t = Chebyshev.apply(torch.where(mask, s * scale + shift, 0.0), self.series.shape[-2])
        phi = torch.zeros((), dtype=t.dtype)
        for j in range(self.series.shape[1]):
            own = torch.where((neighbor == j).unsqueeze(-1), t, 0.0)
            for k, factor in enumerate((None, sw.unsqueeze(-1))[: self.series.shape[2]]):
                term = own if factor is None else own * factor
                phi = phi + TimesWeight.apply(term, self.series[center, j, k], self.dot)
        return Kept.apply(phi, self.kept)
