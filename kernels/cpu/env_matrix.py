"""Environment matrix and its gradient, in float64. Formula: ``reference.environment_matrix``."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from ..reference import NORM_EPS, switch


class Environment(NamedTuple):
    """Rows (B, N, 4), switch (B, N), directions (B, N, 3), and what the backward needs, all float64."""

    row: Tensor
    sw: Tensor
    direction: Tensor
    dsw: Tensor
    distance: Tensor
    q: Tensor
    d: Tensor
    inverse_std: Tensor
    length: Tensor


def forward(
    d: Tensor, mask: Tensor, davg: Tensor, dstd: Tensor, rcut_smth: float, rcut: float, protection: float
) -> Environment:
    """Rows, switch and unit directions; exactly zero where ``mask`` is.

    Args:
        d: (B, N, 3) Å. mask: (B, N) float64, 1 or 0. davg, dstd: (B, 1, 4).
    """
    distance = torch.linalg.vector_norm(d, dim=-1, keepdim=True)
    sw = switch(distance, rcut_smth, rcut)
    u = ((distance - rcut_smth) / (rcut - rcut_smth)).clamp_(0.0, 1.0)
    dsw = (u * (1.0 - u)).square_().mul_(-30.0 / (rcut - rcut_smth))
    q = distance + protection
    keep = mask.unsqueeze(-1)
    row = torch.cat([1.0 / q, d / q**2], dim=-1).mul_(sw).sub_(davg).div_(dstd).mul_(keep)
    length = torch.linalg.vector_norm(row[..., 1:], dim=-1, keepdim=True).clamp_min_(NORM_EPS)
    sw, dsw = sw.mul_(keep).squeeze(-1), dsw.mul_(keep).squeeze(-1)
    return Environment(row, sw, row[..., 1:] / length, dsw, distance, q, d, keep / dstd, length)


def backward(env: Environment, grad_row: Tensor, grad_sw: Tensor | None, grad_direction: Tensor | None) -> Tensor:
    """dE/dd (B, N, 3) from dE/drow (B, N, 4), dE/dsw (B, N) and dE/d(direction) (B, N, 3), all float64.

    With h = grad_row/dstd and r̂ = d/L:
    dE/dd = h[1:]·sw/q² + r̂·[h0·(sw'/q − sw/q²) + (h[1:]·d)·(sw'/q² − 2 sw/q³) + grad_sw·sw'].
    """
    if grad_direction is not None:
        # r̂ = v/|v|: dE/dv = (g − r̂ (r̂·g)) / |v|; below NORM_EPS the length is held and the second term is absent.
        along = (env.direction * grad_direction).sum(-1, keepdim=True)
        along = torch.where(env.length > NORM_EPS, along, 0.0)
        grad_row[..., 1:] += (grad_direction - env.direction * along) / env.length
    h = grad_row * env.inverse_std
    sw, dsw = env.sw.unsqueeze(-1), env.dsw.unsqueeze(-1)
    inverse = 1.0 / env.q
    inverse2 = inverse * inverse
    vector = h[..., 1:]
    radial = h[..., :1] * (dsw * inverse - sw * inverse2)
    radial += (vector * env.d).sum(-1, keepdim=True) * (dsw * inverse2 - 2.0 * sw * inverse2 * inverse)
    if grad_sw is not None:
        radial += grad_sw.unsqueeze(-1) * dsw
    return vector * (sw * inverse2) + env.d * (radial / env.distance)
