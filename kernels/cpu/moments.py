"""X = Σ_j g_j ⊗ row_j without the embedding net, for models without attention. See ``radial.py``.

With Φ_k = T_k(x_j) and one set of columns per neighbour type t, Y = Φ·(row ⊗ onehot_t) and X = Σ_t C_tᵀ Y_t. In smooth
strip mode g = g_s·(1 + g_type·sw), so that a second set of columns carries row·sw and coefficients C_t·g_type.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from .radial import Series, derivative, polynomials, scaled
from .workspace import Workspace


class Saved(NamedTuple):
    """What the backward needs: polynomials (terms, B, N), columns (B, N, sets, T, 4) as masks, row, switch."""

    t: Tensor
    mask: Tensor
    row: Tensor
    sw: Tensor | None


class Moments:
    """Moments of one centre type with the neighbour types that ``series`` was fitted for.

    Args:
        series: of the embedding net, float64. dtype: of the products.
    """

    def __init__(self, series: Series, dtype: torch.dtype) -> None:
        self.series = series
        sets, types, terms, m = series.c.shape
        # Columns of Y come as (sets, types) with 4 entries each; rows of C follow that order.
        self.c = series.c.reshape(-1, m).to(dtype).contiguous()
        slope = derivative(terms) * (2.0 / (series.hi - series.lo))
        self.slope = slope.t().to(dtype).contiguous()
        self.shape = (sets, types, terms)

    def forward(self, s: Tensor, slot: Tensor, row: Tensor, sw: Tensor | None, ws: Workspace) -> tuple[Tensor, Saved]:
        """X (B, M, 4) from s (B, N), which of the fitted types each neighbour is (B, N), row (B, N, 4), sw (B, N)."""
        sets, types, terms = self.shape
        b, n = s.shape
        t = polynomials(scaled(s.flatten(), self.series), terms, ws.take("moments.t", terms, b * n)).view(terms, b, n)
        mask = (slot.unsqueeze(-1) == torch.arange(types)).to(row.dtype)
        columns = mask.unsqueeze(-1) * row.unsqueeze(-2)
        if self.series.gated:
            assert sw is not None
            columns = torch.stack([columns, columns * sw.view(b, n, 1, 1)], dim=2)
        y = torch.bmm(t.permute(1, 0, 2), columns.reshape(b, n, -1))
        y = y.view(b, terms, sets * types, 4).permute(0, 3, 2, 1).reshape(b * 4, -1)
        x = torch.mm(y, self.c).view(b, 4, -1).transpose(1, 2)
        return x, Saved(t, mask, row, sw)

    def backward(self, dx: Tensor, saved: Saved) -> tuple[Tensor, Tensor, Tensor | None]:
        """dE/drow (B, N, 4), dE/ds (B, N), and dE/dsw (B, N) in smooth strip mode, from dE/dX (B, M, 4)."""
        sets, types, terms = self.shape
        t, mask, row, sw = saved
        b, n = mask.shape[:2]
        dy = torch.mm(dx.transpose(1, 2).reshape(b * 4, -1), self.c.t())
        dy = dy.view(b, 4, sets * types, terms).permute(0, 3, 2, 1).reshape(b, terms, -1)
        both = torch.cat([dy, torch.matmul(self.slope, dy)], dim=2)
        p = torch.bmm(t.permute(1, 2, 0), both).view(b, n, 2, sets, types, 4)
        p = (p * mask.view(b, n, 1, 1, types, 1)).sum(4) if types > 1 else p.squeeze(4) * mask.view(b, n, 1, 1, 1)
        if not self.series.gated:
            return p[:, :, 0, 0], (p[:, :, 1, 0] * row).sum(-1), None
        assert sw is not None
        gate = sw.unsqueeze(-1)
        grad_sw = (p[:, :, 0, 1] * row).sum(-1)
        plain = p[:, :, :, 0] + p[:, :, :, 1] * gate.unsqueeze(-1)
        return plain[:, :, 0], (plain[:, :, 1] * row).sum(-1), grad_sw
