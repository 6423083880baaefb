"""Embedding of neighbours, concat and strip. Formulas: ``reference.embedding_concat``, ``reference.embedding_strip``.

The first layer is linear in [s, T_j, T_i], so its type part is a table over pairs of types and one multiply-add per
channel remains.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from ..reference import activation, network
from ..weights import Weights
from .network import ResnetNetwork, Step, residual_kind
from .workspace import Workspace


class Embedded(NamedTuple):
    """What the backward needs: the first layer's activation, later steps, and strip mode's factors."""

    z1: Tensor
    t1: Tensor
    steps: list[Step]
    g_s: Tensor | None
    g_type: Tensor | None
    factor: Tensor | None
    sw: Tensor | None


class Embedding:
    """The embedding net of a model; rows are neighbours, ``pair`` = t_i·ntypes + t_j says which types they join."""

    def __init__(self, weights: Weights) -> None:
        c, table = weights.config, weights.type_table
        n = c.ntypes
        self.strip = c.tebd_input_mode == "strip"
        self.smooth = c.smooth_type_embedding
        j = table.repeat(n, 1)
        types = j if c.type_one_side else torch.cat([j, table.repeat_interleave(n, 0)], dim=-1)
        first = weights.embedding[0]
        width = first.weight.shape[1]
        self.w_s = first.weight[0].contiguous()
        self.idt = first.idt
        pre = types.new_zeros(n * n, width) if self.strip else types @ first.weight[1:]
        self.pre = (pre if first.bias is None else pre + first.bias).contiguous()
        # The residual of the first layer is the input itself: its s column(s), and a constant row per type pair.
        kind = residual_kind(first.weight.shape[0], width)
        self.r_s: Tensor | None = None
        self.r_types: Tensor | None = None
        if kind:
            inputs = torch.cat([types.new_zeros(n * n, 1), types], dim=-1) if not self.strip else types.new_zeros(1, 1)
            self.r_types = None if self.strip else inputs.repeat(1, kind).contiguous()
            self.r_s = torch.zeros(first.weight.shape[0], dtype=table.dtype)
            self.r_s[0] = 1.0
            self.r_s = self.r_s.repeat(kind)
        self.rest = ResnetNetwork(weights.embedding[1:], c.activation_function, "embedding")
        self.g_type: Tensor | None = None
        if weights.strip is not None:
            self.g_type = network(types, weights.strip, activation(c.activation_function)).contiguous()

    def forward(self, s: Tensor, pair: Tensor, sw: Tensor | None, ws: Workspace) -> tuple[Tensor, Embedded]:
        """g (E, M) from s (E,), type pair (E,), and in smooth strip mode the switch (E,)."""
        z = ws.take("embedding.first", s.shape[0], len(self.w_s))
        torch.index_select(self.pre, 0, pair, out=z)
        column = s.unsqueeze(-1)
        z.addcmul_(column, self.w_s)
        t = self.rest.activate(z)
        y = t if self.idt is None else t * self.idt
        if self.r_s is not None:
            y = torch.addcmul(y, column, self.r_s)
            if self.r_types is not None:
                y += self.r_types[pair]
        y, steps = self.rest.forward(y, ws)
        if self.g_type is None:
            return y, Embedded(z, t, steps, None, None, None, None)
        g_type = torch.index_select(self.g_type, 0, pair, out=ws.take("embedding.g_type", *y.shape))
        factor = ws.take("embedding.factor", *y.shape)
        gate = sw if self.smooth else None
        if gate is None:
            torch.add(g_type, 1.0, out=factor)
        else:
            torch.mul(g_type, gate.unsqueeze(-1), out=factor).add_(1.0)
        out = torch.mul(y, factor, out=ws.take("embedding.out", *y.shape))
        return out, Embedded(z, t, steps, y, g_type, factor, gate)

    def backward(self, gg: Tensor, saved: Embedded) -> tuple[Tensor, Tensor | None]:
        """dE/ds (E,) and, in smooth strip mode, dE/dsw (E,) from dE/dg (E, M), which may be overwritten."""
        grad_sw = None
        if saved.factor is not None:
            assert saved.g_s is not None
            if saved.sw is not None:
                assert saved.g_type is not None
                grad_sw = (gg * saved.g_s).mul_(saved.g_type).sum(-1)
            gg = gg * saved.factor
        gy = self.rest.backward(gg, saved.steps)
        gt = gy if self.idt is None else gy * self.idt
        grad_s = self.rest.slope(gt, saved.z1, saved.t1) @ self.w_s
        if self.r_s is not None:
            grad_s = torch.addmv(grad_s, gy, self.r_s)
        return grad_s, grad_sw
