"""One layer of gated attention as the Triton kernels evaluate it, in plain torch, each product with rounded operands.

The formulas are those of ``gated_attention.py`` and ``reduced_attention.py`` in ``kernels/triton/ops``, merged
matrices and hand-derived gradient included: a product rounds its operands as its mode says, all else is float32.
"""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import Any

import torch
from torch import Tensor

from bench.rounding.products import Products
from dpa1_fast.kernels import reference as ref
from dpa1_fast.kernels.prepare import merging
from dpa1_fast.kernels.triton.coordinates import Coordinates


@dataclass(frozen=True)
class Merged:
    """One attention layer as the kernels have it, of r channels, or coordinates, and M channels of z.

    In coordinates all but the last four tensors have a leading dimension, of centre types or of atoms.

    Attributes:
        logits (r, r). to_key, to_rest (1, r). rest (1,). factors (r + 1, …), squares (r + 1, r): of the three lengths.
        values (r, M): W_vo, or C W_vo. span (r, M): C, or None where the r are the channels.
        to_value, out, gamma, beta (M,).
    """

    logits: Tensor
    to_key: Tensor
    to_rest: Tensor
    rest: Tensor
    factors: list[Tensor]
    squares: list[Tensor]
    values: Tensor
    span: Tensor | None
    to_value: Tensor
    out: Tensor
    gamma: Tensor
    beta: Tensor

    def at(self, center_type: Tensor) -> Merged:
        """Of a layer in coordinates: what atoms of these types (B,) read, with a leading dimension B."""
        own = {f.name: getattr(self, f.name) for f in fields(self)}
        for name in ("logits", "to_key", "to_rest", "rest", "values", "span"):
            own[name] = own[name][center_type]
        for name in ("factors", "squares"):
            own[name] = [x[center_type] for x in own[name]]
        return Merged(**own)


def merged(layer: ref.AttentionLayer, dtype: torch.dtype) -> Merged:
    """A layer in all its channels: merges in float64, rounds once."""
    q, k, v = merging.with_bias(layer)
    logits, values = q @ k.t(), v @ layer.w_out
    single = [logits[:-1, :-1], logits[-1:, :-1], logits[:-1, -1:].t(), logits[-1, -1:]]
    lists = [merging.lq(x)[0].to(dtype) for x in (q, k, v)], [(x @ x.t())[:, :-1].to(dtype) for x in (q, k, v)]
    ends = (values[-1], layer.b_out, layer.gamma, layer.beta)
    return Merged(
        *(x.to(dtype) for x in single), *lists, values[:-1].to(dtype), None, *(x.to(dtype) for x in ends)
    )  # fmt: skip


def in_coordinates(found: Coordinates, dtype: torch.dtype) -> Merged:
    """The first layer in coordinates, from the numbers that the kernels read."""
    r, types = found.width, len(found.matrices)
    square = found.matrices[:, : found.factors].view(types, 5, r, r)
    factors = found.matrices[:, found.factors :].view(types, 3, r, found.factor_width)
    rows = found.vectors[:, : found.biases].view(types, 6, 1, r)
    biases = found.vectors[:, found.biases :].view(types, 3, 1, found.factor_width)
    single = [square[:, 0], rows[:, 0], rows[:, 1], rows[:, 5, :, 0]]
    lists = [
        [torch.cat([a[:, i], b[:, i + c]], dim=1).to(dtype) for i in range(a.shape[1])]
        for a, b, c in ((factors, biases, 0), (square[:, 2:], rows, 2))
    ]
    wide = found.wide.view(types, 4, r, -1)
    ends = (wide[:, 1], wide[:, 0], *found.norm)
    return Merged(*(x.to(dtype) for x in single), *lists, *(x.to(dtype) for x in ends))


class Attention(torch.autograd.Function):
    """One layer with the gradient of ``kernels/triton/ops/gated_attention.py``, line by line."""

    @staticmethod
    def forward(
        ctx: Any, g: Tensor, u: Tensor, w: Tensor, mask: Tensor, empty: Tensor | None, c: Any, m: Merged, dot: Products
    ) -> Tensor:
        """g (B, N, r), u (B, N, 3 or 1), w (B, N): the attention's switch; empty (B,) where it is smooth. (B, N, M)."""
        sizes = [
            ((dot(g, x[..., :-1, :]) + x[..., -1:, :]) ** 2).sum(-1).sqrt().clamp_min(ref.NORM_EPS) for x in m.factors
        ]
        if not c.normalize:
            sizes = [torch.ones_like(w)] * 3
        t = dot(g, m.logits) + m.to_key
        rest = (g * m.to_rest).sum(-1) + m.rest
        a_q, a_k = c.attention_scale * w / sizes[0], w / sizes[1]
        x = (dot(t, g.mT) + rest.unsqueeze(-1)) * a_q.unsqueeze(-1) * a_k.unsqueeze(-2)
        if empty is not None:
            x = x + ref.ATTENTION_SHIFT * w.unsqueeze(-1) * w.unsqueeze(-2)
        seen = x.masked_fill(~mask.unsqueeze(-2), -torch.inf)
        top = seen.amax(-1).clamp_min(-1e30 if empty is None else 0.0)
        e = torch.exp(seen - top.unsqueeze(-1))
        total = e.sum(-1) + (0.0 if empty is None else empty.unsqueeze(-1) * torch.exp(-top))
        total = torch.where(total > 0, total, 1.0)
        gate = u @ (u / sizes[2].unsqueeze(-1)).mT
        y = dot(e * gate, g) / total.unsqueeze(-1)
        total_w = (e * gate).sum(-1) / total
        attended = total_w.unsqueeze(-1) * m.to_value + dot(y, m.values)
        z = m.out + attended + (g if m.span is None else dot(g, m.span))
        z = z - z.mean(-1, keepdim=True)
        rstd = (z.square().mean(-1, keepdim=True) + c.ln_eps).rsqrt()
        p = torch.exp(seen - (top + total.log()).unsqueeze(-1))
        ctx.kept = (g, u, w, sizes, t, a_q, a_k, x, p, gate, attended, z * rstd, rstd)
        ctx.smooth, ctx.normalize, ctx.merged, ctx.dot = empty is not None, c.normalize, m, dot
        return z * rstd * m.gamma + m.beta

    @staticmethod
    def backward(ctx: Any, *d_outs: Tensor) -> tuple[Tensor | None, ...]:
        """dE/dg, dE/du, dE/dw."""
        g, u, w, sizes, t, a_q, a_k, x, p, gate, attended, normed, rstd = ctx.kept
        m, dot = ctx.merged, ctx.dot
        d_z = d_outs[0] * m.gamma
        d_z = d_z - d_z.mean(-1, keepdim=True) - normed * (d_z * normed).mean(-1, keepdim=True)
        d_z = d_z * rstd
        d_total = (d_z * m.to_value).sum(-1)
        d_y = dot(d_z, m.values.mT)
        delta = (d_z * attended).sum(-1)
        v = dot(d_y, g.mT) + d_total.unsqueeze(-1)
        d_x = p * (v * gate - delta.unsqueeze(-1))
        v = v * p
        d_s = d_x * a_q.unsqueeze(-1) * a_k.unsqueeze(-2)
        d_g = d_z if m.span is None else dot(d_z, m.span.mT)
        d_g = d_g + d_s.sum(-1, keepdim=True) * m.to_rest + dot(dot(d_s, g), m.logits.mT)
        d_g = d_g + dot(d_s.mT, t) + dot((gate * p).mT, d_y)
        size_v = sizes[2].unsqueeze(-1)
        d_beta = v.mT @ u
        d_u = v @ (u / size_v) + d_beta / size_v
        along = (d_x * x).sum(-1), (d_x * x).sum(-2)
        d_w = torch.where(w != 0, (along[0] + along[1]) / w, 0.0)
        if ctx.normalize:
            shift = ref.ATTENTION_SHIFT * w if ctx.smooth else torch.zeros_like(w)
            shifts = (d_x * w.unsqueeze(-2)).sum(-1), (d_x * w.unsqueeze(-1)).sum(-2)
            pulls = [-(along[i] - shift * shifts[i]) / sizes[i] ** 2 for i in (0, 1)]
            pulls.append(-(d_beta * u / size_v).sum(-1) / sizes[2] ** 2)
            for pull, square in zip(pulls, m.squares, strict=True):
                pull = pull.unsqueeze(-1)
                d_g = d_g + pull * square[..., -1:, :] + dot(g * pull, square[..., :-1, :])
        return d_g, d_u, d_w if ctx.smooth else None, None, None, None, None, None
