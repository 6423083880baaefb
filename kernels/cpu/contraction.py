"""Contraction to the descriptor and its gradient. Formula: ``reference.contraction``."""

from __future__ import annotations

import torch
from torch import Tensor


def moments(g: Tensor, row: Tensor) -> Tensor:
    """Σ_j g_j ⊗ row_j (B, M, 4) from g (B, N, M) and row (B, N, 4)."""
    return torch.bmm(g.transpose(1, 2), row)


def moments_backward(dx: Tensor, g: Tensor, row: Tensor) -> tuple[Tensor, Tensor]:
    """dE/dg (B, N, M) and dE/drow (B, N, 4) from dE/dX (B, M, 4)."""
    return torch.bmm(row, dx.transpose(1, 2)), torch.bmm(g, dx)


def forward(x: Tensor, axis_neuron: int) -> Tensor:
    """D = X·X[:A]ᵀ flattened (B, M·A) from X (B, M, 4)."""
    return torch.bmm(x, x[:, :axis_neuron].transpose(1, 2)).flatten(1)


def backward(gd: Tensor, x: Tensor, axis_neuron: int) -> Tensor:
    """dE/dX (B, M, 4) from dE/dD (B, M·A): dX = gD·X[:A], and dX[:A] += gDᵀ·X."""
    gd = gd.view(x.shape[0], x.shape[1], axis_neuron)
    dx = torch.bmm(gd, x[:, :axis_neuron])
    dx[:, :axis_neuron] += torch.bmm(gd.transpose(1, 2), x)
    return dx
