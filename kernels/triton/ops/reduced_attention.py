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

from .embedding import lengths_of
from .gated_attention import (
    BETA,
    GAMMA,
    KEPT,
    NUMBERS,
    OUT,
    STEP,
    TO_VALUE,
    TOTAL_W,
    _attended,
    _collect_moments,
    _fresh_zero,
    _normalize,
    _store_moments,
    place,
)
from .products import dot, load_matrix, load_rows, store_rows

# Where a centre type's matrices stand in ``wide``, (M, NP) each; those of the backward pass (NP, M) follow.
SPAN: tl.constexpr = tl.constexpr(0)
FROM_Y: tl.constexpr = tl.constexpr(1)
SPAN_T: tl.constexpr = tl.constexpr(2)
TO_Y: tl.constexpr = tl.constexpr(3)
WIDE_MATRICES: tl.constexpr = tl.constexpr(4)


@triton.jit
def _widened(
    phi, own_operands, stats, rows, mask, zero, wide, norm, NP: tl.constexpr, M: tl.constexpr, PREC: tl.constexpr
):  # fmt: skip
    """z of rows, and what attention adds to it. (R, NP) twice, and b_vo (1, NP)."""
    cols = zero + tl.arange(0, NP)
    to_value = tl.load(norm + TO_VALUE * NP + cols)[None, :]
    attended = tl.load(stats + place(rows) + TOTAL_W * STEP)[:, None] * to_value
    y = load_rows(own_operands + M, rows, mask, zero, M, KEPT * M, M)
    attended = dot(y, load_matrix(wide + FROM_Y * (M * NP), zero, 0, M, NP, NP, M, NP), attended, PREC)
    z = attended + tl.load(norm + OUT * NP + cols)[None, :]
    x = load_rows(phi, rows, mask, zero, M, M, M)
    return dot(x, load_matrix(wide + SPAN * (M * NP), zero, 0, M, NP, NP, M, NP), z, PREC), attended, to_value


@triton.jit(do_not_specialize=["atoms"])
def _reduced_attention_fwd_kernel(
    at, count, empty, center_type,  # (B,) first edge in the chunk: at − at[0], int64; neighbours, empty slots, type
    phi, row, gate,  # (edges of the chunk, M), (…, 4), (…, 4)
    lengths,  # (…, 3) out
    g_out,  # (edges of the chunk, N) out, not for the last layer
    moments,  # (B, 4, NP) out, for the last layer
    operands, stats,  # (programs, rows, KEPT, M), (programs, rows, NUMBERS)
    matrices, vectors, wide,  # of each centre type
    norm,  # (4, NP)
    atoms, scratch_rows,
    SCALE: tl.constexpr, EPS: tl.constexpr, SMOOTH: tl.constexpr, DOTR: tl.constexpr, NORMALIZE: tl.constexpr,
    LAST: tl.constexpr, N: tl.constexpr, NP: tl.constexpr, M: tl.constexpr, LW: tl.constexpr,
    MATRICES: tl.constexpr, VECTORS: tl.constexpr, FACTORS: tl.constexpr, BIASES: tl.constexpr,
    K: tl.constexpr, B: tl.constexpr, R: tl.constexpr, PREC: tl.constexpr,
):  # fmt: skip
    """Programs walk over atoms. B: rows, K of which pass by at a time; R: rows at a time in N channels.
    MATRICES, VECTORS: numbers of one centre type; FACTORS, BIASES: where those of the lengths begin in them."""
    cols = tl.arange(0, NP)
    program = tl.program_id(0).to(tl.int64) * scratch_rows
    for b in range(tl.program_id(0), atoms, tl.num_programs(0)):
        n = tl.load(count + b)
        kind = tl.load(center_type + b)
        own_matrices, own_vectors = matrices + kind * MATRICES, vectors + kind * VECTORS
        if NORMALIZE:
            for r in range(0, n, B):
                zero = _fresh_zero(count, b, n)
                e0 = tl.load(at + b) - tl.load(at) + zero
                rows = r + zero + tl.arange(0, B)
                lengths_of(
                    phi + e0 * M, rows, rows < n, zero, lengths + e0 * 3, own_matrices + FACTORS + zero,
                    own_vectors + BIASES + zero, M, M, LW, LW, B, M, PREC,
                )  # fmt: skip
            tl.debug_barrier()
        _attended(
            at, count, empty, b, n, phi, gate, lengths, operands, stats, program, own_matrices, own_vectors,
            SCALE, SMOOTH, DOTR, NORMALIZE, False, M, M, K, M, M, B, PREC,
        )  # fmt: skip
        work = gate.dtype.element_ty
        m_s, m_a = tl.zeros([NP], work), tl.zeros([NP], work)
        m_b, m_c = tl.zeros([NP], work), tl.zeros([NP], work)
        for r in range(0, n, R):
            zero = _fresh_zero(count, b, n)
            e0 = tl.load(at + b) - tl.load(at) + zero
            few = r + zero + tl.arange(0, R)
            z, _attention, _b_vo = _widened(
                phi + e0 * M, operands + (program + zero) * (KEPT * M), stats + (program + zero) * NUMBERS, few,
                few < n, zero, wide + zero + kind * (WIDE_MATRICES * M * NP), norm + zero, NP, M, PREC,
            )  # fmt: skip
            x, _rstd = _normalize(z, cols, N, EPS)
            gamma, beta = tl.load(norm + zero + GAMMA * NP + cols), tl.load(norm + zero + BETA * NP + cols)
            x = x * gamma[None, :] + beta[None, :]
            if LAST:
                m_s, m_a, m_b, m_c = _collect_moments(m_s, m_a, m_b, m_c, x, row + e0 * 4, few, few < n)
            else:
                store_rows(g_out + e0 * N, few, few < n, x, zero, N, N, NP)
        if LAST:
            _store_moments(moments + tl.full((), 4 * NP, tl.int64) * b, m_s, m_a, m_b, m_c, NP)
