"""Contraction to the descriptor and its gradient. Formula: ``reference.contraction``."""

from __future__ import annotations

import torch
from torch import Tensor


def forward(g: Tensor, row: Tensor, empty: Tensor | None, nsel: int, axis_neuron: int) -> tuple[Tensor, Tensor]:
    """D (B, M·A) and X (B, M, 4) from g (B, N, M), row (B, N, 4) and what empty slots add (B, M, 4)."""
    x = torch.bmm(g.transpose(1, 2), row)
    if empty is not None:
        x += empty
    x /= nsel
    return torch.bmm(x, x[:, :axis_neuron].transpose(1, 2)).flatten(1), x


def backward(gd: Tensor, x: Tensor, g: Tensor, row: Tensor, nsel: int, axis_neuron: int) -> tuple[Tensor, Tensor]:
    """dE/dg (B, N, M) and dE/drow (B, N, 4) from dE/dD (B, M·A).

    dX = gD·X[:A], dX[:A] += gDᵀ·X; then dg = row·dXᵀ/nsel and drow = g·dX/nsel.
    """
    b, m, _ = x.shape
    gd = gd.view(b, m, axis_neuron)
    dx = torch.bmm(gd, x[:, :axis_neuron])
    dx[:, :axis_neuron].baddbmm_(gd.transpose(1, 2), x)
    dx /= nsel
    return torch.bmm(row, dx.transpose(1, 2)), torch.bmm(g, dx)
