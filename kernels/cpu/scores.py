"""The attention weights of one layer and their gradient. Formula: ``reference.attention_weights`` and the gate.

One form serves all options. With a_q = scale·sw_q/|q|, a_k = sw_k/|k| (sw = 1 for the hard softmax, lengths = 1 without
``normalize``), x = (q kᵀ)·a_q·a_k + 20·sw_q·sw_k and n_empty as in the reference,

    w = e^x / (Σ_real e^x + n_empty) · (u_q·u_k)/|v_k|,   u = r̂·sw, or sw alone without ``attn_dotr``.

The length of v stands here so that v itself is never divided. Everything that scales rows or columns is folded into two
outer products, which costs less than touching q, k and v.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from ..reference import ATTENTION_SHIFT
from .workspace import Workspace


class Gate(NamedTuple):
    """What all layers of a tile share, in the arithmetic of the nets.

    Attributes:
        mask (B, N): 1 or 0. padded: whether any slot is masked. u (B, N, U): gating vectors, zero where masked.
        sw (B, N) and n_empty (B, 1) for smooth attention, else None.
    """

    mask: Tensor
    padded: bool
    u: Tensor
    sw: Tensor | None
    n_empty: Tensor | None


class Lengths(NamedTuple):
    """|q|, |k|, |v| (B, N), never zero."""

    q: Tensor
    k: Tensor
    v: Tensor


class Scores(NamedTuple):
    """What the backward needs of one layer's weights ``w`` (B, N, N)."""

    w: Tensor
    e: Tensor
    x: Tensor
    scale: Tensor
    z: Tensor
    alpha: Tensor
    beta: Tensor
    lengths: Lengths | None


class ScoreGradient(NamedTuple):
    """dE/d(q kᵀ) (B, N, N); factors with which q, k and v themselves enter their gradients through their lengths
    (B, N, 1), or None without ``normalize``; dE/du (B, N, U); dE/dsw (B, N) or None."""

    logits: Tensor
    c_q: Tensor | None
    c_k: Tensor | None
    c_v: Tensor | None
    u: Tensor
    sw: Tensor | None


def forward(q: Tensor, k: Tensor, lengths: Lengths | None, gate: Gate, scale: float, ws: Workspace, tag: str) -> Scores:
    """Weights from q and k (B, N, D), which may be views with any row stride."""
    b, n, _ = q.shape
    x = torch.bmm(q, k.transpose(1, 2), out=ws.take(f"{tag}.x", b, n, n))
    a_q = torch.full_like(gate.mask, scale) if lengths is None else scale / lengths.q
    a_k = gate.mask if lengths is None else gate.mask / lengths.k
    if gate.sw is not None:
        a_q, a_k = a_q * gate.sw, a_k * gate.sw
    outer = torch.mul(a_q.unsqueeze(-1), a_k.unsqueeze(-2), out=ws.take(f"{tag}.scale", b, n, n))
    x.mul_(outer)
    if gate.sw is not None:
        x.addcmul_(gate.sw.unsqueeze(-1), gate.sw.unsqueeze(-2), value=ATTENTION_SHIFT)
    e = ws.take(f"{tag}.e", b, n, n)
    empty = gate.n_empty
    if lengths is None:
        top = _top(x, gate)
        torch.exp(torch.sub(x, top, out=e).clamp_max_(0.0), out=e)
        empty = None if empty is None else empty * torch.exp(-top.squeeze(-1))
    else:
        torch.exp(x, out=e)  # |x| is at most scale + 20: no shift is needed
    if gate.padded:
        e.mul_(gate.mask.unsqueeze(-2))
    z = e.sum(-1)
    if empty is not None:
        z += empty
    z = torch.where(z > 0, z, 1.0)  # a centre without neighbours has nothing to weigh
    alpha = gate.u / z.unsqueeze(-1)
    beta = gate.u if lengths is None else gate.u / lengths.v.unsqueeze(-1)
    w = torch.bmm(alpha, beta.transpose(1, 2), out=ws.take(f"{tag}.w", b, n, n)).mul_(e)
    return Scores(w, e, x, outer, z, alpha, beta, lengths)


def _top(x: Tensor, gate: Gate) -> Tensor:
    """Largest real x of each row (B, N, 1), at least that of an empty slot where there is one."""
    top = x.masked_fill(gate.mask.unsqueeze(-2) == 0, -torch.inf).amax(-1, keepdim=True)
    return top.clamp_min(0.0) if gate.sw is not None else torch.where(torch.isfinite(top), top, 0.0)


def backward(dw: Tensor, s: Scores, gate: Gate, ws: Workspace) -> ScoreGradient:
    """From dE/dw (B, N, N), which is overwritten.

    With G = (u_q·u_k)/(Z_q|v_k|), w = e·G: dG = dw·e and dx = dw·w − e·(Σ_k dw·w)/Z.
    """
    tmp = torch.mul(dw, s.e, out=ws.take("scores.tmp", *dw.shape))
    d_alpha, d_beta = torch.bmm(tmp, s.beta), torch.bmm(tmp.transpose(1, 2), s.alpha)
    dx = dw.mul_(s.w)
    dx.addcmul_(s.e, (dx.sum(-1) / s.z).unsqueeze(-1), value=-1.0)
    du = d_alpha / s.z.unsqueeze(-1)
    if s.lengths is None:
        du += d_beta
    else:
        du.addcdiv_(d_beta, s.lengths.v.unsqueeze(-1))
    c_q = c_k = c_v = grad_sw = None
    if s.lengths is not None or gate.sw is not None:
        torch.mul(dx, s.x, out=tmp)
        r_q, r_k = tmp.sum(-1), tmp.sum(-2)
        if gate.sw is not None:
            # x is proportional to sw_q and to sw_k; where sw is exactly zero, so is everything that it multiplies.
            grad_sw = torch.where(gate.sw != 0, (r_q + r_k) / gate.sw, 0.0)
            shift = gate.sw * ATTENTION_SHIFT
            r_q = r_q - shift * torch.bmm(dx, gate.sw.unsqueeze(-1)).squeeze(-1)
            r_k = r_k - shift * torch.bmm(gate.sw.unsqueeze(-2), dx).squeeze(-2)
        if s.lengths is not None:
            c_q = (-r_q / s.lengths.q.square()).unsqueeze(-1)
            c_k = (-r_k / s.lengths.k.square()).unsqueeze(-1)
            c_v = (-(d_beta * s.beta).sum(-1) / s.lengths.v.square()).unsqueeze(-1)
    return ScoreGradient(dx.mul_(s.scale), c_q, c_k, c_v, du, grad_sw)
