"""The kernels of a layer of gated attention, forward; formulas stand at the top of ``gated_attention.py``.

Each phase is a kernel of its own, and a program of it takes one block of one atom's rows: many small programs hide one
another's waiting, which one large program that goes through all phases could not (kernels/README.md has both times).
What a phase makes lies in the chunk's arrays, where an atom's rows begin at a multiple of sixteen: ``operands``, what
only products read, ``stats``, numbers of each row, and ``scratch`` in the backward pass. The backward pass finds t, y
and the numbers of the softmax where the forward pass has put them.

    project   |q|, |k|, |v|; t = ĝ Ŵ_q Ŵ_kᵀ                             rows of g
    scores    softmax and gate of all pairs, y = w g                     queries of one atom
    output    z = g + y W_vo + …, LayerNorm; moments after the last      rows
"""

from __future__ import annotations

import triton
import triton.language as tl

from .embedding import lengths_of, store_moments
from .gated_attention import (
    BETA,
    GAMMA,
    KEPT,
    LOG_Z,
    NORM,
    NUMBERS,
    OUT,
    REST_Q,
    STEP,
    TO_VALUE,
    TOTAL_W,
    VALUES,
    _attend,
    _logit_rows,
    _normalize,
    _prepare,
    place,
)
from .products import load_four, load_rows, store_rows, times_matrix


@triton.jit
def _attention_project_kernel(
    at, count, center_type,  # (B,) first edge in the chunk: at − at[0], int64; neighbours, type
    g, gate,  # (edges of the chunk, M), (…, 4)
    lengths,  # (…, 3) out
    operands, stats,  # (…, KEPT, MP), (…, NUMBERS) out
    matrices, vectors,  # this layer's
    SCALE: tl.constexpr, NORMALIZE: tl.constexpr, NARROW: tl.constexpr,
    M: tl.constexpr, MP: tl.constexpr, LM: tl.constexpr, LW: tl.constexpr,
    MATRICES: tl.constexpr, VECTORS: tl.constexpr, FACTORS: tl.constexpr, BIASES: tl.constexpr,
    B: tl.constexpr, W: tl.constexpr, PREC: tl.constexpr,
):  # fmt: skip
    """W: chunk of the inner dimension. MATRICES, VECTORS: numbers of one centre type, 0 where all have the same;
    FACTORS, BIASES: where in them stands how lengths are found."""
    b, r = tl.program_id(0), tl.program_id(1) * B
    n = tl.load(count + b)
    if r < n:
        e0 = tl.load(at + b) - tl.load(at)
        rows = r + tl.arange(0, B)
        mask = rows < n
        if MATRICES > 0:
            matrices += tl.load(center_type + b) * MATRICES
            vectors += tl.load(center_type + b) * VECTORS
        if NORMALIZE:
            lengths_of(
                g + e0 * M, rows, mask, 0, lengths + e0 * 3, matrices + FACTORS, vectors + BIASES, M, MP, LM, LW,
                B, W, PREC,
            )  # fmt: skip
            tl.debug_barrier()
        own_operands, own_stats = operands + e0 * (KEPT * MP), stats + e0 * NUMBERS
        _prepare(gate + e0 * 4, lengths + e0 * 3, own_stats, rows, mask, SCALE, NORMALIZE)
        t, rest = _logit_rows(g + e0 * M, own_operands, rows, mask, 0, matrices, vectors, NARROW, M, MP, B, W, PREC)
        store_rows(own_operands, rows, mask, t, 0, M, KEPT * MP, MP)
        tl.store(own_stats + place(rows) + REST_Q * STEP, rest, mask=mask)


@triton.jit
def _attention_scores_kernel(
    at, count, empty,  # (B,), (B,), (B,) empty slots that the softmax sees
    g, gate, operands, stats,
    SMOOTH: tl.constexpr, DOTR: tl.constexpr, NARROW: tl.constexpr, M: tl.constexpr, MP: tl.constexpr,
    B: tl.constexpr, K: tl.constexpr, C: tl.constexpr, PREC: tl.constexpr,
):  # fmt: skip
    """B queries, which K keys pass by at a time; C: chunk of the inner dimension."""
    b, q = tl.program_id(0), tl.program_id(1) * B
    n = tl.load(count + b)
    if q < n:
        e0 = tl.load(at + b) - tl.load(at)
        own_operands, own_stats = operands + e0 * (KEPT * MP), stats + e0 * NUMBERS
        rows = q + tl.arange(0, B)
        y, total_w, log_z = _attend(
            own_operands + 2 * MP if NARROW else g + e0 * M, gate + e0 * 4, own_operands, own_stats, n,
            tl.load(empty + b), rows, rows < n, 0, SMOOTH, DOTR, M, KEPT * MP if NARROW else M, MP, B, K, C, PREC,
        )  # fmt: skip
        store_rows(own_operands + MP, rows, rows < n, y, 0, M, KEPT * MP, MP)
        tl.store(own_stats + place(rows) + TOTAL_W * STEP, total_w, mask=rows < n)
        tl.store(own_stats + place(rows) + LOG_Z * STEP, log_z, mask=rows < n)


@triton.jit(do_not_specialize=["blocks"])
def _attention_output_kernel(
    at, count, g, row, operands, stats,
    attended,  # (edges of the chunk, MP) out: (w g) W_vo + (Σ w) b_vo, for the backward pass
    g_out,  # (edges of the chunk, M) out, not for the last layer
    moments,  # (B, blocks, 4, MP) out, for the last layer
    matrices, vectors, blocks,
    EPS: tl.constexpr, LAST: tl.constexpr, M: tl.constexpr, MP: tl.constexpr,
    B: tl.constexpr, W: tl.constexpr, PREC: tl.constexpr,
):  # fmt: skip
    b, block = tl.program_id(0), tl.program_id(1)
    n = tl.load(count + b)
    if block * B < n:
        e0 = tl.load(at + b) - tl.load(at)
        rows = block * B + tl.arange(0, B)
        mask = rows < n
        cols = tl.arange(0, MP)
        norm = vectors + NORM * MP
        total_w = tl.load(stats + e0 * NUMBERS + place(rows) + TOTAL_W * STEP, mask=mask, other=0.0)
        added = times_matrix(
            total_w[:, None] * tl.load(norm + TO_VALUE * MP + cols)[None, :], operands + e0 * (KEPT * MP) + MP,
            rows, mask, 0, matrices + VALUES * MP * MP, M, KEPT * MP, MP, W, PREC,
        )  # fmt: skip
        store_rows(attended + e0 * MP, rows, mask, added, 0, M, MP, MP)
        z = added + load_rows(g + e0 * M, rows, mask, 0, M, M, MP) + tl.load(norm + OUT * MP + cols)[None, :]
        x, _rstd = _normalize(z, cols, M, EPS)
        x = x * tl.load(norm + GAMMA * MP + cols)[None, :] + tl.load(norm + BETA * MP + cols)[None, :]
        if LAST:
            s, a, b_, c = load_four(row + e0 * 4, rows, mask)
            store_moments(moments + (b.to(tl.int64) * blocks + block) * (4 * MP), x, s, a, b_, c, MP)
        else:
            store_rows(g_out + e0 * M, rows, mask, x, 0, M, M, MP)
