"""The kernels of a layer of gated attention, backward; formulas stand at the top of ``gated_attention.py``.

output_bwd    z̄ from LayerNorm; ȳ = z̄ W_voᵀ                                    rows
scores_bwd    what keys and queries of one atom receive from one another       keys of one atom, block by block
project_bwd   dE/dg and dE/d(gate), through t and the three lengths             rows
embedding     after the first layer: dE/ds of each edge                         rows
"""

from __future__ import annotations

import triton
import triton.language as tl

from .embedding import edges_bwd, pairs_of_types
from .gated_attention import (
    KEPT,
    NORM,
    NUMBERS,
    OUT,
    TO_VALUE,
    VALUES_T,
    WIDE,
)
from .gated_attention_bwd import _back_to_rows, _gates_back, _norm_bwd, _pairs
from .products import load_rows, store_rows, times_matrix


@triton.jit
def _attention_norm_bwd_kernel(
    at, count, g, row,
    attended,  # (edges of the chunk, MP) what the forward pass put there
    d_g,  # (edges of the chunk, M) dE/d(this layer's output), not for the last layer
    d_row,  # (…, 4) out, for the last layer
    d_x,  # (B, 4, MP) dE/dX, for the last layer
    scratch,  # (…, WIDE, MP) out: z̄
    stats, vectors,  # out δ and z̄·b_vo
    EPS: tl.constexpr, LAST: tl.constexpr, M: tl.constexpr, MP: tl.constexpr, R: tl.constexpr,
):  # fmt: skip
    """Row by row, and few rows at a time: a thread then has few of the vectors over channels."""
    b, r = tl.program_id(0), tl.program_id(1) * R
    n = tl.load(count + b)
    if r < n:
        e0 = tl.load(at + b) - tl.load(at)
        rows = r + tl.arange(0, R)
        mask = rows < n
        cols = tl.arange(0, MP)
        norm = vectors + NORM * MP
        added = load_rows(attended + e0 * MP, rows, mask, 0, M, MP, MP)
        z = load_rows(g + e0 * M, rows, mask, 0, M, M, MP) + added + tl.load(norm + OUT * MP + cols)[None, :]
        d_z = _norm_bwd(
            z, added, tl.load(norm + TO_VALUE * MP + cols)[None, :], row + e0 * 4, d_g + e0 * M, d_row + e0 * 4,
            d_x + b.to(tl.int64) * (4 * MP), stats + e0 * NUMBERS, rows, mask, 0, norm, EPS, LAST, M, MP,
        )  # fmt: skip
        store_rows(scratch + e0 * (WIDE * MP), rows, mask, d_z, 0, M, WIDE * MP, MP)


@triton.jit
def _attention_output_bwd_kernel(
    at, count, scratch, operands, matrices,
    M: tl.constexpr, MP: tl.constexpr, B: tl.constexpr, W: tl.constexpr, PREC: tl.constexpr,
):  # fmt: skip
    """ȳ, where y was."""
    b, r = tl.program_id(0), tl.program_id(1) * B
    n = tl.load(count + b)
    if r < n:
        e0 = tl.load(at + b) - tl.load(at)
        rows = r + tl.arange(0, B)
        mask = rows < n
        d_y = times_matrix(
            tl.zeros([B, MP], scratch.dtype.element_ty), scratch + e0 * (WIDE * MP), rows, mask, 0,
            matrices + VALUES_T * MP * MP, M, WIDE * MP, MP, W, PREC,
        )  # fmt: skip
        store_rows(operands + e0 * (KEPT * MP) + MP, rows, mask, d_y, 0, M, KEPT * MP, MP)


@triton.jit
def _attention_scores_bwd_kernel(
    at, count, g, gate, scratch, operands, stats,
    SMOOTH: tl.constexpr, DOTR: tl.constexpr, NARROW: tl.constexpr, M: tl.constexpr, MP: tl.constexpr,
    Q: tl.constexpr, K: tl.constexpr, C: tl.constexpr, PREC: tl.constexpr,
):  # fmt: skip
    """One program an atom: blocks of Q keys, which K queries pass by at a time."""
    b = tl.program_id(0)
    n = tl.load(count + b)
    e0 = tl.load(at + b) - tl.load(at)
    for k in range(0, n, Q):
        keys = k + tl.arange(0, Q)
        _pairs(
            operands + e0 * (KEPT * MP) + 2 * MP if NARROW else g + e0 * M, gate + e0 * 4, scratch + e0 * (WIDE * MP),
            operands + e0 * (KEPT * MP), stats + e0 * NUMBERS, n, keys, keys < n, k > 0, 0, SMOOTH, DOTR,
            M, KEPT * MP if NARROW else M, MP, Q, K, C, PREC,
        )  # fmt: skip
        tl.debug_barrier()


@triton.jit
def _attention_project_bwd_kernel(
    at, count, g, row, gate, lengths,
    d_g,  # (edges of the chunk, M) out
    d_row, d_gate,  # (…, 4); added up from layer to layer
    scratch, stats, matrices, vectors,
    SMOOTH: tl.constexpr, DOTR: tl.constexpr, NORMALIZE: tl.constexpr, FIRST: tl.constexpr, LAST: tl.constexpr,
    M: tl.constexpr, MP: tl.constexpr, B: tl.constexpr, W: tl.constexpr, PREC: tl.constexpr,
):  # fmt: skip
    b, r = tl.program_id(0), tl.program_id(1) * B
    n = tl.load(count + b)
    if r < n:
        e0 = tl.load(at + b) - tl.load(at)
        rows = r + tl.arange(0, B)
        mask = rows < n
        own_stats = stats + e0 * NUMBERS
        _gates_back(
            row + e0 * 4, gate + e0 * 4, lengths + e0 * 3, d_row + e0 * 4, d_gate + e0 * 4, own_stats, rows, mask,
            SMOOTH, DOTR, NORMALIZE, FIRST, LAST,
        )  # fmt: skip
        tl.debug_barrier()
        acc = _back_to_rows(
            g + e0 * M, scratch + e0 * (WIDE * MP), own_stats, rows, mask, 0, matrices, vectors, NORMALIZE,
            M, MP, B, W, PREC,
        )  # fmt: skip
        store_rows(d_g + e0 * M, rows, mask, acc, 0, M, M, MP)


@triton.jit
def _embedding_edges_bwd_kernel(
    at, count, first, center_type, neighbor_type,  # (B,) …; (edges of the batch,)
    d_g, row, gate,
    d_row, d_gate,  # (edges of the chunk, 4) in and out: the first column, and with STRIP the last
    net, factors,
    SMOOTH: tl.constexpr, TYPES: tl.constexpr, STRIP: tl.constexpr,
    WIDTHS: tl.constexpr, REAL: tl.constexpr, RESIDUALS: tl.constexpr, STARTS: tl.constexpr,
    KIND: tl.constexpr, T: tl.constexpr, M: tl.constexpr, MP: tl.constexpr, R: tl.constexpr, PREC: tl.constexpr,
):  # fmt: skip
    """dE/ds, and in strip mode dE/d(sw), from dE/dg."""
    b, r = tl.program_id(0), tl.program_id(1) * R
    n = tl.load(count + b)
    if r < n:
        e0 = tl.load(at + b) - tl.load(at)
        rows = r + tl.arange(0, R)
        mask = rows < n
        s = tl.load(row + e0 * 4 + rows * 4, mask=mask, other=0.0)
        sw = tl.load(gate + e0 * 4 + 3 + rows * 4, mask=mask, other=0.0)
        edge = tl.load(first + b).to(tl.int64)
        pair = pairs_of_types(neighbor_type + edge, rows, mask, tl.load(center_type + b), TYPES)
        d_s, d_sw = edges_bwd(
            load_rows(d_g + e0 * M, rows, mask, 0, M, M, MP), s, sw, pair, net, factors, 0,
            SMOOTH, STRIP, WIDTHS, REAL, RESIDUALS, STARTS, KIND, T, MP, PREC,
        )  # fmt: skip
        at_s = d_row + e0 * 4 + rows * 4
        tl.store(at_s, tl.load(at_s, mask=mask, other=0.0) + d_s, mask=mask)
        if STRIP:
            at_sw = d_gate + e0 * 4 + 3 + rows * 4
            tl.store(at_sw, tl.load(at_sw, mask=mask, other=0.0) + d_sw, mask=mask)
