"""The first attention layer in coordinates, as the Triton kernels read it: a basis for each centre type.

``prepare/bases.py`` finds the basis, ``prepare/chebyshev.py`` the series; places: ``reduced_attention.py``.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from ..prepare import bases, chebyshev, merging
from ..prepare.weights import Weights
from ..reference import AttentionLayer
from .packing import SMALLEST, fill, padded, pair_numbers
from .series_moments import ranges

MOST = 32
"""Coordinates that the kernels are made for; with more they would need a stack."""


@dataclass(frozen=True)
class Coordinates:
    """Numbers of all centre types, filled up to ``width`` coordinates and ``terms`` of a series.

    Attributes:
        series, series_t: (types, types, sets, terms, width), and its last two turned round. ranges: (types, 2).
        matrices, vectors: (types, …), of which ``factors`` and ``biases`` are where those of lengths begin,
            ``factor_width`` columns. wide: (types, 4, …): C, C W_vo (width, mp), Cᵀ, (C W_vo)ᵀ (mp, width).
        norm: (4, mp) b_vo, b_out, γ, β.
    """

    width: int
    terms: int
    sets: int
    factor_width: int
    factors: int
    biases: int
    series: Tensor
    series_t: Tensor
    ranges: Tensor
    matrices: Tensor
    vectors: Tensor
    wide: Tensor
    norm: Tensor


def find(w: Weights, order: Tensor, mp: int, dtype: torch.dtype) -> Coordinates | None:
    """The first layer's coordinates, or None for models with many types, or where they are not worth it.

    Args:
        order: the original channel of each that kernels see, of which there are ``mp`` when filled up.
        dtype: by which precision of the CPU engine series and bases are cut off, see ``precision.py``.
    """
    n = w.config.ntypes
    if not w.attention or n > bases.MOST_TYPES_AROUND:
        return None
    pairs = [[center * n + t for t in range(n)] for center in range(n)]
    series = [
        [bases.series_of_pair(w, p, chebyshev.TOLERANCE[dtype], chebyshev.MOST_TERMS) for p in row] for row in pairs
    ]
    spans = [bases.of_pairs(w, center, row, bases.TOLERANCE[dtype]) for center, row in enumerate(pairs)]
    found = [x for row in series for x in row if x is not None]
    found_bases = [x for x in spans if x is not None]
    if len(found) < n * n or len(found_bases) < n:
        return None
    width = padded(max(x.shape[1] for x in found_bases))
    if width > MOST or width > bases.WORTH * mp:
        return None
    terms, sets = padded(max(x.c.shape[1] for x in found)), found[0].c.shape[0]
    table = torch.stack([fill(x.c @ found_bases[k // n], sets, terms, width) for k, x in enumerate(found)])
    table = table.view(n, n, sets, terms, width)
    layer = w.attention[0]
    factor_width = max(SMALLEST, padded(min(int(w.config.attn), width + 1)))
    layers = [_merged(layer, span, width, factor_width) for span in found_bases]
    squares, rows = 5 * width * width, 5 * width + width
    v = merging.with_bias(layer)[2]
    norm = [(v @ layer.w_out)[-1], layer.b_out, layer.gamma, layer.beta]
    return Coordinates(
        width, terms, sets, factor_width, squares, rows,
        table, table.transpose(-1, -2),
        ranges(found[::n]),
        torch.stack([matrices for matrices, _ in layers]), torch.stack([vectors for _, vectors in layers]),
        torch.stack([_wide(layer, span, order, width, mp) for span in found_bases]),
        torch.stack([fill(x[order], mp) for x in norm]),
    )  # fmt: skip


def _merged(layer: AttentionLayer, span: Tensor, width: int, factor_width: int) -> tuple[Tensor, Tensor]:
    """What products with φ need, as ``packing.attention_numbers`` packs it for g."""
    edge = torch.nn.functional.pad(span, (0, 1, 0, 1))
    edge[-1, -1] = 1.0
    q, k, v = (edge.t() @ x for x in merging.with_bias(layer))
    square, rows, lower = pair_numbers(q, k, v)
    factors = [fill(x[:-1], width, factor_width).flatten() for x in lower]
    return (
        torch.cat([*(fill(x, width, width).flatten() for x in square), *factors]),
        torch.cat([*(fill(x, width) for x in rows), *(fill(x[-1], factor_width) for x in lower)]),
    )


def _wide(layer: AttentionLayer, span: Tensor, order: Tensor, width: int, mp: int) -> Tensor:
    """C, C W_vo and both turned round, each (width · mp,)."""
    v = merging.with_bias(layer)[2][:-1]
    there = [fill(x[:, order], width, mp) for x in (span.t(), span.t() @ v @ layer.w_out)]
    return torch.stack([x.flatten() for x in (*there, *(x.t() for x in there))])
