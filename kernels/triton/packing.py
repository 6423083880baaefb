"""A model's weights as the Triton kernels read them: merged in float64, filled up to whole tiles, rounded once.

Channels are reordered so that doubling layers interleave (see ``embedding.py``); every matrix follows.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from ..prepare import merging
from ..prepare.weights import Weights
from ..reference import AttentionLayer

SMALLEST = 16
"""The least rows and columns of a product that tensor cores take."""

FACTOR_STEP = 64
"""Columns of the factors of lengths are filled up to a multiple of this."""


def padded(width: int) -> int:
    """The next power of two that a tile may have."""
    return max(SMALLEST, 1 << (width - 1).bit_length())


def fill(x: Tensor, *shape: int) -> Tensor:
    """``x`` in the corner of zeros of ``shape``."""
    out = x.new_zeros(shape)
    out[tuple(slice(n) for n in x.shape)] = x
    return out


def residual(n_in: int, n_out: int) -> int:
    """0: none, 1: + x, 2: + [x, x]."""
    return 1 if n_out == n_in else 2 if n_out == 2 * n_in else 0


@dataclass(frozen=True)
class EmbeddingNumbers:
    """The embedding net: ``net`` (see ``embedding.py``), where layers begin in it, padded widths and real ones,
    residuals, and the original channel of each of the M that are left in the new order."""

    net: Tensor
    starts: tuple[int, ...]
    widths: tuple[int, ...]
    real: tuple[int, ...]
    residuals: tuple[int, ...]
    order: Tensor


def embedding_numbers(w: Weights) -> EmbeddingNumbers:
    """Orders the channels layer by layer and packs the net."""
    first = merging.first_layer(w)
    n = w.config.ntypes**2
    width = first["first.w_s"].shape[0]
    # In the backward pass a layer is taken in two halves, and its width may be the first layer's, which is not.
    halved = len(w.embedding) == 1 or residual(*w.embedding[1].weight.shape) == 1
    widths, residuals = [max(2 * SMALLEST if halved else SMALLEST, padded(width))], [int("first.r_s" in first)]
    place = fill(torch.arange(1, width + 1), widths[0]) - 1  # original channel of each column, −1 where filled up

    def vector(name: str, default: float) -> Tensor:
        return fill(first.get(name, torch.full((width,), default, dtype=torch.float64)), widths[0])

    tables = [first.get(k, first["first.pre"].new_zeros(n, width)) for k in ("first.pre", "first.r_types")]
    table = torch.stack([fill(t.expand(n, -1), n, widths[0]) for t in tables], dim=1)
    parts = [vector("first.w_s", 0), vector("first.idt", 1), vector("first.r_s", 0), table.flatten()]
    starts = [0]
    for layer in w.embedding[1:]:
        n_in, n_out = layer.weight.shape
        kind = residual(n_in, n_out)
        rows = place
        if kind == 2:
            place = torch.stack([torch.where(place < 0, -1, place + h * n_in) for h in (0, 1)], dim=1).flatten()
        elif kind == 0:
            place = fill(torch.arange(1, n_out + 1), max(2 * SMALLEST, padded(n_out))) - 1
        starts.append(sum(p.numel() for p in parts))
        widths.append(len(place))
        residuals.append(kind)
        weight = reorder(reorder(layer.weight, rows, 0), place, 1)
        bias = torch.zeros(n_out, dtype=torch.float64) if layer.bias is None else layer.bias
        idt = torch.ones(n_out, dtype=torch.float64) if layer.idt is None else layer.idt
        parts += [reorder(bias, place, 0), reorder(idt, place, 0), weight.flatten(), weight.t().flatten()]
    order = place[: w.config.neuron[-1]]
    return EmbeddingNumbers(
        torch.cat([p.flatten() for p in parts]), tuple(starts), tuple(widths), tuple(w.config.neuron),
        tuple(residuals), order,
    )  # fmt: skip


def reorder(x: Tensor, place: Tensor, dim: int) -> Tensor:
    """Entries of ``x`` along ``dim`` at ``place``, zero where that is −1."""
    shape = [1] * x.dim()
    shape[dim] = -1
    return x.index_select(dim, place.clamp_min(0)) * (place >= 0).to(x).view(shape)


def layer_in_order(layer: AttentionLayer, order: Tensor) -> AttentionLayer:
    """An attention layer on reordered channels."""
    return AttentionLayer(
        layer.w_in[order], layer.b_in, layer.w_out[:, order], layer.b_out[order], layer.gamma[order], layer.beta[order]
    )


@dataclass(frozen=True)
class AttentionNumbers:
    """One layer: ``matrices`` (rounded to the products' operands), ``vectors``, and the start and width of the factors
    of lengths within them."""

    matrices: Tensor
    vectors: Tensor
    factors: int
    biases: int


def pair_numbers(q: Tensor, k: Tensor, v: Tensor) -> tuple[list[Tensor], list[Tensor], list[Tensor]]:
    """What scores and lengths need of Ŵ (m + 1, a) of q, k and v: five matrices (m, m), six vectors (the last one is a
    number), and three factors (m + 1, …)."""
    logits = q @ k.t()
    squares = [x @ x.t() for x in (q, k, v)]
    square = [logits[:-1, :-1], logits[:-1, :-1].t(), *(s[:-1, :-1] for s in squares)]
    rows = [logits[-1, :-1], logits[:-1, -1], *(s[-1, :-1] for s in squares), logits[-1, -1:]]
    return square, rows, [merging.lq(x)[0] for x in (q, k, v)]


def attention_numbers(layer: AttentionLayer, mp: int, width: int) -> AttentionNumbers:
    """Merges and packs one layer; the order is the one that ``gated_attention.py`` names."""
    q, k, v = merging.with_bias(layer)
    values = v @ layer.w_out
    square, rows, lower = pair_numbers(q, k, v)
    square += [values[:-1], values[:-1].t()]
    rows += [values[-1], layer.b_out, layer.gamma, layer.beta]
    return AttentionNumbers(
        torch.cat([fill(x, mp, mp).flatten() for x in square] + [fill(x[:-1], mp, width).flatten() for x in lower]),
        torch.cat([fill(x, mp) for x in rows] + [fill(x[-1], width) for x in lower]),
        len(square) * mp * mp,
        len(rows) * mp,
    )


def factor_widths(w: Weights) -> tuple[int, int]:
    """Columns that the factors of lengths need, and filled up."""
    needed = min(int(w.config.attn), int(w.config.neuron[-1]) + 1)
    return needed, -(-needed // FACTOR_STEP) * FACTOR_STEP


@dataclass(frozen=True)
class EnergyLayer:
    """A hidden layer of the energy net: ``weight`` (K, N), ``vectors`` (2, N) bias and idt, ``residual``."""

    weight: Tensor
    vectors: Tensor
    residual: int


def energy_net(w: Weights) -> tuple[list[EnergyLayer], Tensor]:
    """The hidden layers, and the last one's weights with its bias behind them."""
    *hidden, last = w.fitting
    layers = []
    for layer in hidden:
        n = layer.weight.shape[1]
        bias = layer.weight.new_zeros(n) if layer.bias is None else layer.bias
        idt = layer.weight.new_ones(n) if layer.idt is None else layer.idt
        layers.append(EnergyLayer(layer.weight, torch.stack([bias, idt]), residual(*layer.weight.shape)))
    final = last.weight[:, 0]
    return layers, torch.cat([final, final.new_zeros(1) if last.bias is None else last.bias])
