"""A model evaluated as the Triton kernels do, in plain torch on a CPU, each product with operands rounded as told.

The formulas are the kernels', merged matrices and hand-derived gradient of the attention included
(``kernels/gated_attention.py``): a product rounds its operands as its mode says, all else is float32 and the
environment matrix float64. What is not emulated is the inside of a tensor core: sums are float32 here, in another
order, and some cards truncate where they add.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from dpa1_fast.batch import Tile
from dpa1_fast.kernels import reference as ref
from dpa1_fast.kernels.cpu import numbers
from dpa1_fast.kernels.weights import Weights

DROPPED = 0x1FFF  # the 13 bits of a float32's mantissa that TF32 does not have


def truncated(x: Tensor) -> Tensor:
    """float32 cut to TF32's 10 bits, as a tensor core does to what it is given."""
    return (x.contiguous().view(torch.int32) & ~DROPPED).view(torch.float32)


def nearest(x: Tensor) -> Tensor:
    """float32 rounded to TF32, ties away from zero (``cvt.rna.tf32``)."""
    return ((x.contiguous().view(torch.int32) + (DROPPED + 1) // 2) & ~DROPPED).view(torch.float32)


def via(dtype: torch.dtype) -> Callable[[Tensor], Tensor]:
    """Rounds to a shorter type and back."""
    return lambda x: x.to(dtype).to(torch.float32)


Split = Callable[[Tensor], tuple[Tensor, ...]]


def two(high: Callable[[Tensor], Tensor], low: Callable[[Tensor], Tensor]) -> Split:
    """An operand as a sum of two parts."""

    def split(x: Tensor) -> tuple[Tensor, ...]:
        first = high(x)
        return first, low(x - first)

    return split


MODES: dict[str, Split] = {
    "float64": lambda x: (x,),
    "ieee": lambda x: (x,),
    # Triton rounds the first part and leaves the second to the tensor core.
    "tf32x3": two(nearest, truncated),
    "bf16x3": two(via(torch.bfloat16), via(torch.bfloat16)),
    "tf32": lambda x: (nearest(x),),
    "tf32, truncated": lambda x: (truncated(x),),
    "float16": lambda x: (via(torch.float16)(x),),
    "bfloat16": lambda x: (via(torch.bfloat16)(x),),
}
"""How operands are rounded. float64 rounds nothing, and what surrounds the products is float64 too: it proves the
formulas."""


class Products:
    """a·b with rounded operands; keeps the sizes of the operands that it has seen."""

    def __init__(self, mode: str, watch: bool = False) -> None:
        self.split, self.watch = MODES[mode], watch
        self.dtype = torch.float64 if mode == "float64" else torch.float32
        self.largest, self.seen, self.short, self.lost = 0.0, 0, 0, 0

    def __call__(self, a: Tensor, b: Tensor) -> Tensor:
        """(…, n, k) · (…, k, m), no gradient."""
        if self.watch:
            for x in (a.abs(), b.abs()):
                self.largest = max(self.largest, float(x.max()))
                self.seen += int((x > 0).sum())
                self.short += int(((x > 0) & (x < 2.0**-14)).sum())
                self.lost += int(((x > 0) & (x <= 2.0**-25)).sum())
        a_parts, b_parts = self.split(a), self.split(b)
        if len(a_parts) == 1:
            return a_parts[0] @ b_parts[0]
        return (a_parts[1] @ b_parts[0] + a_parts[0] @ b_parts[1]) + a_parts[0] @ b_parts[0]


class TimesWeight(torch.autograd.Function):
    """x·W with rounded operands, on the way back too; no gradient for W."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, products: Products) -> Tensor:
        """(…, n) · (n, m)."""
        ctx.weight, ctx.products = weight, products
        return products(x, weight)

    @staticmethod
    def backward(ctx: Any, *d_out: Tensor) -> tuple[Tensor, None, None]:
        """dE/dx."""
        return ctx.products(d_out[0], ctx.weight.t()), None, None


@dataclass(frozen=True)
class Merged:
    """One attention layer as the kernels have it; names as in ``kernels/gated_attention.py``."""

    logits: Tensor
    to_key: Tensor
    to_rest: Tensor
    rest: Tensor
    values: Tensor
    to_value: Tensor
    factors: list[Tensor]
    squares: list[Tensor]
    out: Tensor
    gamma: Tensor
    beta: Tensor


def merged(layer: ref.AttentionLayer, dtype: torch.dtype) -> Merged:
    """Merges in float64, rounds once."""
    q, k, v = numbers.with_bias(layer)
    logits, values = q @ k.t(), v @ layer.w_out
    single = [logits[:-1, :-1], logits[-1, :-1], logits[:-1, -1], logits[-1, -1], values[:-1], values[-1]]
    lists = [numbers.lq(x)[0].to(dtype) for x in (q, k, v)], [(x @ x.t()).to(dtype) for x in (q, k, v)]
    ends = (layer.b_out.to(dtype), layer.gamma.to(dtype), layer.beta.to(dtype))
    return Merged(*(x.to(dtype) for x in single), *lists, *ends)


class Attention(torch.autograd.Function):
    """One layer with the gradient of ``kernels/gated_attention.py``, line by line."""

    @staticmethod
    def forward(
        ctx: Any, g: Tensor, u: Tensor, w: Tensor, mask: Tensor, empty: Tensor | None, c: Any, m: Merged, dot: Products
    ) -> Tensor:
        """g (B, N, M), u (B, N, 3 or 1), w (B, N): the attention's switch; empty (B,) where it is smooth."""
        sizes = [((dot(g, x[:-1]) + x[-1]) ** 2).sum(-1).sqrt().clamp_min(ref.NORM_EPS) for x in m.factors]
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
        z = g + m.out + total_w.unsqueeze(-1) * m.to_value + dot(y, m.values)
        z = z - z.mean(-1, keepdim=True)
        rstd = (z.square().mean(-1, keepdim=True) + c.ln_eps).rsqrt()
        p = torch.exp(seen - (top + total.log()).unsqueeze(-1))
        ctx.kept = (g, u, w, sizes, t, a_q, a_k, x, p, gate, y, total_w, z * rstd, rstd)
        ctx.smooth, ctx.normalize, ctx.merged, ctx.dot = empty is not None, c.normalize, m, dot
        return z * rstd * m.gamma + m.beta

    @staticmethod
    def backward(ctx: Any, *d_outs: Tensor) -> tuple[Tensor | None, ...]:
        """dE/dg, dE/du, dE/dw."""
        g, u, w, sizes, t, a_q, a_k, x, p, gate, y, total_w, normed, rstd = ctx.kept
        m, dot = ctx.merged, ctx.dot
        d_z = d_outs[0] * m.gamma
        d_z = d_z - d_z.mean(-1, keepdim=True) - normed * (d_z * normed).mean(-1, keepdim=True)
        d_z = d_z * rstd
        d_total = (d_z * m.to_value).sum(-1)
        d_y = dot(d_z, m.values.t())
        delta = (d_y * y).sum(-1) + d_total * total_w
        v = dot(d_y, g.mT) + d_total.unsqueeze(-1)
        d_x = p * (v * gate - delta.unsqueeze(-1))
        v = v * p
        d_s = d_x * a_q.unsqueeze(-1) * a_k.unsqueeze(-2)
        d_g = d_z + d_s.sum(-1, keepdim=True) * m.to_rest + dot(dot(d_s, g), m.logits.t())
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
                d_g = d_g + pull.unsqueeze(-1) * square[-1, :-1] + dot(g * pull.unsqueeze(-1), square[:-1, :-1])
        return d_g, d_u, d_w if ctx.smooth else None, None, None, None, None, None


class RoundedModel:
    """A model evaluated as the kernels do, tile by tile. Not for models with frame or atomic parameters.

    Args:
        weights: the model's. dot: the products, and with them the precision of everything else.
    """

    def __init__(self, weights: Weights, dot: Products) -> None:
        w = weights.double()
        c = w.config
        if w.fparam or w.aparam or w.case_embd is not None or c.fitting.subtract_vacuum:
            raise ValueError("rounding is emulated for models without frame, atomic or case parameters only")
        self.weights, self.config, self.dot = w, c, dot
        self.first = {k: x.to(dot.dtype) for k, x in numbers.first_layer(w).items()}
        self.factors = None
        if w.strip is not None:
            table = ref.network(numbers.pairs_of_types(w), w.strip, ref.activation(c.activation_function))
            self.factors = table.expand(c.ntypes**2, -1).to(dot.dtype)
        self.empty = numbers.empty_slots(w).to(dot.dtype) if w.davg.any() else None
        self.layers = [merged(x, dot.dtype) for x in w.attention]

    def __call__(self, tile: Tile) -> tuple[Tensor, Tensor]:
        """Atomic energies (B,) in eV and dE/dd (B, N, 3) in eV/Å."""
        d = tile.d.detach().requires_grad_()
        energy = self._energies(tile, d)
        if not d.numel():
            return energy.detach(), torch.zeros_like(d)
        return energy.detach(), torch.autograd.grad(energy.sum(), d)[0]

    def _net(self, x: Tensor, layers: Sequence[ref.Layer], name: str) -> Tensor:
        act = ref.activation(name)
        for weight, bias, idt in layers:
            y = TimesWeight.apply(x, weight.to(x), self.dot)
            y = act(y if bias is None else y + bias.to(x))
            y = y if idt is None else y * idt.to(x)
            copies = {x.shape[-1]: 1, 2 * x.shape[-1]: 2}.get(y.shape[-1], 0)
            x = y + torch.cat([x] * copies, dim=-1) if copies else y
        return x

    def _embed(self, tile: Tile, s: Tensor, sw: Tensor) -> Tensor:
        c, first = self.config, self.first
        pair = tile.center_type.unsqueeze(-1) * c.ntypes + tile.neighbor_type
        pre = first["first.pre"].expand(c.ntypes**2, -1)[pair]
        g = ref.activation(c.activation_function)(s * first["first.w_s"] + pre) * first.get("first.idt", 1.0)
        if "first.r_s" in first:
            g = g + s * first["first.r_s"] + first["first.r_types"].expand(c.ntypes**2, -1)[pair]
        g = self._net(g, self.weights.embedding[1:], c.activation_function)
        if self.factors is None:
            return g
        return g * (self.factors[pair] * sw.unsqueeze(-1) if c.smooth_type_embedding else self.factors[pair]) + g

    def _energies(self, tile: Tile, d: Tensor) -> Tensor:
        c, w = self.config, self.weights
        davg, dstd = (x[tile.center_type].unsqueeze(1) for x in (w.davg, w.dstd))
        row, sw = ref.environment_matrix(d, davg, dstd, c.rcut_smth, c.rcut, c.env_protection)
        row, sw = (row * tile.mask.unsqueeze(-1)).to(self.dot.dtype), (sw * tile.mask).to(self.dot.dtype)
        g = self._embed(tile, row[..., :1], sw)
        gate = sw if c.smooth_type_embedding else tile.mask.to(sw)
        u = gate.unsqueeze(-1) * (ref.unit_rows(row) if c.attn_dotr else 1.0)
        empty = tile.n_empty_key.to(sw) if c.smooth_type_embedding else None
        for layer in self.layers:
            g = Attention.apply(g, u, gate, tile.mask, empty, c, layer, self.dot)
        padding = None
        if self.empty is not None:
            padding = self.empty[tile.first_type, tile.center_type].mT * tile.n_empty_row.to(sw).view(-1, 1, 1)
        descriptor = ref.contraction(g, row, padding, c.nsel, c.axis_neuron)
        if c.concat_output_tebd:
            descriptor = torch.cat([descriptor, w.type_table[tile.center_type].to(descriptor)], dim=-1)
        *hidden, last = w.fitting
        h = self._net(descriptor, hidden, c.fitting.activation_function).double()
        energy = h @ last.weight[:, 0].to(self.dot.dtype).double() + (0.0 if last.bias is None else last.bias)
        alive = torch.ones(c.ntypes, dtype=torch.float64)
        alive[[t for t in c.fitting.exclude_types if 0 <= t < c.ntypes]] = 0.0
        return (energy + w.bias[tile.center_type]) * alive[tile.center_type] + w.out_bias[tile.center_type]
