"""The first layer of gated attention in few coordinates: φ (n, M) instead of g (n, N), for models with few types.

The embedding of a centre type's neighbours spans far fewer dimensions than it has channels (``bases.py``): g = φ C
with M = 16 or 32 coordinates for N = 100 channels. What pairs of neighbours need, scores and y = w φ, is that of
``gated_attention.py`` on φ, with the layer's matrices merged with C for each centre type; what goes row by row is

    z = φ C + y (C W_vo) + (Σ w) b_vo + b_out,    g' = LayerNorm(z),

in N channels, and stays on chip. φ stands in the products' own precision. Coordinates are filled up with zeros to M.
"""

from __future__ import annotations

import triton
import triton.language as tl

from .embedding import store_moments
from .gated_attention import BETA, GAMMA, KEPT, NUMBERS, OUT, STEP, TO_VALUE, TOTAL_W, _normalize, place
from .products import dot, load_four, load_matrix, load_rows, store_rows

# Where a centre type's matrices stand in ``wide``, (M, NP) each; those of the backward pass (NP, M) follow.
SPAN: tl.constexpr = tl.constexpr(0)
FROM_Y: tl.constexpr = tl.constexpr(1)
SPAN_T: tl.constexpr = tl.constexpr(2)
TO_Y: tl.constexpr = tl.constexpr(3)
WIDE_MATRICES: tl.constexpr = tl.constexpr(4)


@triton.jit
def _widened(
    phi, own_operands, stats, rows, mask, wide, norm, NP: tl.constexpr, M: tl.constexpr, PREC: tl.constexpr
):  # fmt: skip
    """z of rows, and what attention adds to it. (rows, NP) twice, and b_vo (1, NP)."""
    cols = tl.arange(0, NP)
    to_value = tl.load(norm + TO_VALUE * NP + cols)[None, :]
    attended = tl.load(stats + place(rows) + TOTAL_W * STEP, mask=mask, other=0.0)[:, None] * to_value
    y = load_rows(own_operands + M, rows, mask, 0, M, KEPT * M, M)
    attended = dot(y, load_matrix(wide + FROM_Y * (M * NP), 0, 0, M, NP, NP, M, NP), attended, PREC)
    z = attended + tl.load(norm + OUT * NP + cols)[None, :]
    x = load_rows(phi, rows, mask, 0, M, M, M)
    return dot(x, load_matrix(wide + SPAN * (M * NP), 0, 0, M, NP, NP, M, NP), z, PREC), attended, to_value


@triton.jit(do_not_specialize=["blocks"])
def _reduced_output_kernel(
    at, count, center_type,  # (atoms,) first edge in the chunk: at − at[0], int64; neighbours, type
    phi, row,  # (edges of the chunk, M), (…, 4)
    operands, stats,  # (…, KEPT, M), (…, NUMBERS)
    g_out,  # (edges of the chunk, N) out, not for the last layer
    moments,  # (atoms, blocks, 4, NP) out, for the last layer
    wide, norm,  # of each centre type; (4, NP)
    blocks,
    EPS: tl.constexpr, LAST: tl.constexpr, N: tl.constexpr, NP: tl.constexpr, M: tl.constexpr,
    BLOCK_ROWS: tl.constexpr, PREC: tl.constexpr,
):  # fmt: skip
    """What the first layer gives, in N channels: as ``_attention_output_kernel``."""
    b, block = tl.program_id(0), tl.program_id(1)
    n = tl.load(count + b)
    if block * BLOCK_ROWS < n:
        e0 = tl.load(at + b) - tl.load(at)
        rows = block * BLOCK_ROWS + tl.arange(0, BLOCK_ROWS)
        mask = rows < n
        cols = tl.arange(0, NP)
        z, _attended, _to_value = _widened(
            phi + e0 * M, operands + e0 * (KEPT * M), stats + e0 * NUMBERS, rows, mask,
            wide + tl.load(center_type + b) * (WIDE_MATRICES * M * NP), norm, NP, M, PREC,
        )  # fmt: skip
        x, _rstd = _normalize(z, cols, N, EPS)
        x = x * tl.load(norm + GAMMA * NP + cols)[None, :] + tl.load(norm + BETA * NP + cols)[None, :]
        if LAST:
            s, a, b_, c = load_four(row + e0 * 4, rows, mask)
            store_moments(moments + (b.to(tl.int64) * blocks + block) * (4 * NP), x, s, a, b_, c, NP)
        else:
            store_rows(g_out + e0 * N, rows, mask, x, N, N, NP)
