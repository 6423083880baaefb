"""The backward pass of gated attention; formulas stand at the top of ``gated_attention.py``. Its kernels:

    norm_bwd      z̄ from LayerNorm                                                 rows
    output_bwd    ȳ = z̄ W_voᵀ                                                      rows
    scores_bwd    what keys and queries of an atom receive from one another        keys of an atom, block by block
    project_bwd   dE/dg and dE/d(gate), through t and the three lengths            rows
    embedding_edges_bwd    after the first layer: dE/ds of each edge               rows

LayerNorm stands apart from the products: there a thread has few of the vectors over channels, and in a product many.
"""

from __future__ import annotations

import triton
import triton.language as tl

from .embedding import edges_bwd, moments_bwd, pairs_of_types, rows_bwd
from .env_matrix import gate_bwd
from .gated_attention import (  # fmt: skip
    A_K,
    A_Q,
    BETA,
    BETA_K,
    BY_KEY,
    BY_QUERY,
    D_REST,
    D_TOTAL,
    DELTA,
    GAMMA,
    KEPT,
    LOG_Z,
    LOGITS_T,
    NORM,
    NUMBERS,
    OUT,
    PULL,
    REST_Q,
    SHIFT,
    SQUARES,
    SQUARES_ROW,
    STEP,
    TO_REST,
    TO_VALUE,
    VALUES_T,
    WIDE,
    _length,
    _logits,
    _normalize,
    _outer,
    place,
)
from .products import (  # fmt: skip
    SHORTEST,
    dot,
    load_columns,
    load_four,
    load_matrix,
    load_rows,
    number,
    store_four,
    store_rows,
    times_matrix,
)


@triton.jit
def _norm_bwd(
    z, attended, to_value, row, d_g, d_row, d_x, stats, rows, mask, norm,
    EPS: tl.constexpr, LAST: tl.constexpr, M: tl.constexpr, MP: tl.constexpr,
):  # fmt: skip
    """z̄ (rows, MP) from z and what attention adds to it; puts down δ and z̄·b_vo. norm: four vectors, see NORM."""
    cols = tl.arange(0, MP)
    normed, rstd = _normalize(z, cols, M, EPS)
    gamma = tl.load(norm + GAMMA * MP + cols)
    if LAST:
        r_s, r_a, r_b, r_c = load_four(row, rows, mask)
        out = normed * gamma[None, :] + tl.load(norm + BETA * MP + cols)[None, :]
        d_s, d_a, d_b, d_c = rows_bwd(d_x, out, MP)
        store_four(d_row, rows, mask, d_s, d_a, d_b, d_c)
        d_z = moments_bwd(d_x, r_s, r_a, r_b, r_c, MP)
    else:
        d_z = load_rows(d_g, rows, mask, 0, M, M, MP)
    # LayerNorm: z̄ = (γḡ − mean(γḡ) − x̂ mean(γḡ x̂))/std
    d_z = d_z * gamma[None, :]
    d_z = d_z - (tl.sum(d_z, axis=1) / M)[:, None] - normed * (tl.sum(d_z * normed, axis=1) / M)[:, None]
    d_z = tl.where(mask[:, None] & (cols < M)[None, :], d_z * rstd[:, None], 0.0)
    # δ = Σ w̄ w = z̄·((w g) W_vo + (Σ w) b_vo)
    tl.store(stats + place(rows) + DELTA * STEP, tl.sum(d_z * attended, axis=1), mask=mask)
    tl.store(stats + place(rows) + D_TOTAL * STEP, tl.sum(d_z * to_value, axis=1), mask=mask)
    return d_z


@triton.jit
def _pairs(
    g, gate, own_rows, own_operands, stats, n, keys, real, again,
    SMOOTH: tl.constexpr, DOTR: tl.constexpr, M: tl.constexpr, STRIDE: tl.constexpr,
    MP: tl.constexpr, BLOCK_KEYS: tl.constexpr, BLOCK_QUERIES: tl.constexpr, BLOCK_INNER: tl.constexpr,
    PREC: tl.constexpr,
):  # fmt: skip
    """What BLOCK_KEYS rows receive as keys, on top of z̄, and what they send to all queries, BLOCK_QUERIES at a time.

    Queries collect S g and numbers from all blocks of keys; ``again``: whether this is not the first one.
    """
    work = gate.dtype.element_ty
    own = stats + place(keys)
    k_0, k_1, k_2 = _load_three(own + BETA_K * STEP, real)
    a_k = _load(own, A_K, real)
    w_k = tl.load(gate + keys * 4 + 3, mask=real, other=0.0) if SMOOTH else a_k
    along, shifts = tl.zeros([BLOCK_KEYS], work), tl.zeros([BLOCK_KEYS], work)
    d_0, d_1, d_2 = tl.zeros([BLOCK_KEYS], work), tl.zeros([BLOCK_KEYS], work), tl.zeros([BLOCK_KEYS], work)
    acc = tl.zeros([BLOCK_KEYS, MP], work)
    if BLOCK_INNER == MP:
        key = load_rows(g, keys, real, 0, M, STRIDE, MP)
    for q in range(0, n, BLOCK_QUERIES):
        rows = q + tl.arange(0, BLOCK_QUERIES)
        mask = rows < n
        s, v = tl.zeros([BLOCK_QUERIES, BLOCK_KEYS], work), tl.zeros([BLOCK_QUERIES, BLOCK_KEYS], work)
        if BLOCK_INNER == MP:
            t = load_rows(own_operands, rows, mask, 0, M, KEPT * MP, MP)
            d_y = load_rows(own_operands + MP, rows, mask, 0, M, KEPT * MP, MP)
            s, v = dot(t, tl.trans(key), s, PREC), dot(d_y, tl.trans(key), v, PREC)
        else:
            for c in range(0, MP, BLOCK_INNER):
                part = load_columns(g, keys, real, c, M, STRIDE, BLOCK_INNER)
                s = dot(load_rows(own_operands, rows, mask, c, M, KEPT * MP, BLOCK_INNER), part, s, PREC)
                v = dot(load_rows(own_operands + MP, rows, mask, c, M, KEPT * MP, BLOCK_INNER), part, v, PREC)
        numbers = stats + place(rows)
        a_q = _load(numbers, A_Q, mask)
        q_0, q_1, q_2, w_q = load_four(gate, rows, mask)
        x = _logits(s + _load(numbers, REST_Q, mask)[:, None], a_q, w_q, a_k, w_k, SMOOTH)
        p = tl.where(mask[:, None] & real[None, :], tl.exp(x - _load(numbers, LOG_Z, mask)[:, None]), 0.0)
        v += _load(numbers, D_TOTAL, mask)[:, None]
        w = _outer(q_0, q_1, q_2, k_0, k_1, k_2, DOTR)
        d_x = p * (v * w - _load(numbers, DELTA, mask)[:, None])
        w, v = w * p, v * p
        kept = mask & again
        numbers += BY_QUERY * STEP
        d_0 += tl.sum(v * q_0[:, None], axis=0)
        _collect(numbers, tl.sum(v * k_0[None, :], axis=1), kept, mask)
        if DOTR:
            d_1 += tl.sum(v * q_1[:, None], axis=0)
            d_2 += tl.sum(v * q_2[:, None], axis=0)
            _collect(numbers + STEP, tl.sum(v * k_1[None, :], axis=1), kept, mask)
            _collect(numbers + 2 * STEP, tl.sum(v * k_2[None, :], axis=1), kept, mask)
        along += tl.sum(d_x * x, axis=0)
        _collect(numbers + 3 * STEP, tl.sum(d_x * x, axis=1), kept, mask)
        if SMOOTH:
            shifts += tl.sum(d_x * w_q[:, None], axis=0)
            _collect(numbers + 4 * STEP, tl.sum(d_x * w_k[None, :], axis=1), kept, mask)
        d_x = d_x * a_q[:, None] * a_k[None, :]
        _collect(stats + place(rows) + D_REST * STEP, tl.sum(d_x, axis=1), kept, mask)
        if BLOCK_INNER < MP:
            t = load_rows(own_operands, rows, mask, 0, M, KEPT * MP, MP)
            d_y = load_rows(own_operands + MP, rows, mask, 0, M, KEPT * MP, MP)
        here = key if BLOCK_INNER == MP else load_rows(g, keys, real, 0, M, STRIDE, MP)
        acc = dot(tl.trans(d_x), t, acc, PREC)
        acc = dot(tl.trans(w), d_y, acc, PREC)
        d_t = dot(d_x, here, tl.zeros([BLOCK_QUERIES, MP], work), PREC)
        if again:
            d_t += load_rows(own_rows + MP, rows, mask, 0, M, WIDE * MP, MP)
        store_rows(own_rows + MP, rows, mask, d_t, M, WIDE * MP, MP)
    acc += load_rows(own_rows, keys, real, 0, M, WIDE * MP, MP)
    store_rows(own_rows, keys, real, acc, M, WIDE * MP, MP)
    own += BY_KEY * STEP
    tl.store(own, d_0, mask=real)
    tl.store(own + STEP, d_1, mask=real)
    tl.store(own + 2 * STEP, d_2, mask=real)
    tl.store(own + 3 * STEP, along, mask=real)
    tl.store(own + 4 * STEP, shifts, mask=real)


@triton.jit
def _collect(at, x, kept, mask):
    """Adds x to numbers of rows, where some are kept from before."""
    tl.store(at, tl.load(at, mask=kept, other=0.0) + x, mask=mask)


@triton.jit
def _load(own, which, mask):
    return tl.load(own + which * STEP, mask=mask, other=0.0)


@triton.jit
def _load_three(at, mask):
    return _load(at, 0, mask), _load(at, 1, mask), _load(at, 2, mask)


@triton.jit
def _pull(along, length):
    """dE/d(length) over the length of what goes as 1/length, Σ dE/dx x being ``along``; 0 where the length is held."""
    return tl.where(length > number(SHORTEST, length), -along / (length * length), 0.0)


@triton.jit
def _numbers_back(gate, lengths, stats, rows, mask, SMOOTH: tl.constexpr, NORMALIZE: tl.constexpr):
    """dE/d(gate) of rows, four columns; puts down how each length pulls at g."""
    work = gate.dtype.element_ty
    own = stats + place(rows)
    w = tl.load(gate + rows * 4 + 3, mask=mask, other=0.0)
    q_length = _length(lengths, rows, mask, 0, NORMALIZE, work)
    k_length = _length(lengths, rows, mask, 1, NORMALIZE, work)
    v_length = _length(lengths, rows, mask, 2, NORMALIZE, work)
    d_0, d_1, d_2 = _load_three(own + BY_KEY * STEP, mask)
    b_0, b_1, b_2 = _load_three(own + BETA_K * STEP, mask)
    q_0, q_1, q_2 = _load_three(own + BY_QUERY * STEP, mask)
    k_along, q_along = _load(own, BY_KEY + 3, mask), _load(own, BY_QUERY + 3, mask)
    k_scaled, q_scaled = k_along, q_along
    if SMOOTH:  # x − 20 sw_q sw_k
        k_scaled -= SHIFT * w * _load(own, BY_KEY + 4, mask)
        q_scaled -= SHIFT * w * _load(own, BY_QUERY + 4, mask)
    tl.store(own + PULL * STEP, _pull(q_scaled, q_length), mask=mask)
    tl.store(own + (PULL + 1) * STEP, _pull(k_scaled, k_length), mask=mask)
    tl.store(own + (PULL + 2) * STEP, _pull(d_0 * b_0 + d_1 * b_1 + d_2 * b_2, v_length), mask=mask)
    d_0, d_1, d_2 = d_0 / v_length + q_0, d_1 / v_length + q_1, d_2 / v_length + q_2
    return d_0, d_1, d_2, tl.where(w != 0, (k_along + q_along) / w, 0.0)


@triton.jit
def _gates_back(
    row, gate, lengths, d_row, d_gate, stats, rows, real,
    SMOOTH: tl.constexpr, DOTR: tl.constexpr, NORMALIZE: tl.constexpr, FIRST: tl.constexpr, LAST: tl.constexpr,
):  # fmt: skip
    """Adds up dE/d(gate) of rows; after the first layer it goes on to row and the switch, and only g's is missing."""
    d_0, d_1, d_2, d_w = _numbers_back(gate, lengths, stats, rows, real, SMOOTH, NORMALIZE)
    if not LAST:
        d_0 += tl.load(d_gate + rows * 4, mask=real, other=0.0)
        d_1 += tl.load(d_gate + 1 + rows * 4, mask=real, other=0.0)
        d_2 += tl.load(d_gate + 2 + rows * 4, mask=real, other=0.0)
        if SMOOTH:
            d_w += tl.load(d_gate + 3 + rows * 4, mask=real, other=0.0)
    if FIRST:
        _s, x, y, z = load_four(row, rows, real)
        sw = tl.load(gate + 3 + rows * 4, mask=real, other=0.0)
        v_a, v_b, v_c, d_sw = gate_bwd(x, y, z, sw, d_0, d_1, d_2, d_w, SMOOTH, DOTR)
        d_s, d_a, d_b, d_c = load_four(d_row, rows, real)
        store_four(d_row, rows, real, d_s, d_a + v_a, d_b + v_b, d_c + v_c)
        tl.store(d_gate + 3 + rows * 4, d_sw, mask=real)
    else:
        store_four(d_gate, rows, real, d_0, d_1, d_2, d_w)


@triton.jit
def _back_to_rows(
    g, own_rows, stats, rows, mask, matrices, vectors, NORMALIZE: tl.constexpr,
    M: tl.constexpr, MP: tl.constexpr, BLOCK_ROWS: tl.constexpr, BLOCK_INNER: tl.constexpr, PREC: tl.constexpr,
):  # fmt: skip
    """dE/dg (atoms, MP) of rows: what came to them directly and as keys, as queries, and through the three lengths."""
    cols = tl.arange(0, MP)
    own = stats + place(rows)
    d_rest = tl.load(own + D_REST * STEP, mask=mask, other=0.0)
    acc = load_rows(own_rows, rows, mask, 0, M, WIDE * MP, MP)
    acc += d_rest[:, None] * tl.load(vectors + TO_REST * MP + cols)[None, :]
    acc = times_matrix(
        acc, own_rows + MP, rows, mask, matrices + LOGITS_T * MP * MP, M, WIDE * MP, MP, BLOCK_INNER, PREC
    )
    if NORMALIZE:
        for side in tl.static_range(0, 3):
            square_row = tl.load(vectors + (SQUARES_ROW + side) * MP + cols)
            acc += _load(own, PULL + side, mask)[:, None] * square_row[None, :]
        for k in range(0, MP, BLOCK_INNER):
            a = load_rows(g, rows, mask, k, M, M, BLOCK_INNER)
            for which in range(0, 3):
                square = load_matrix(matrices + (SQUARES + which) * (MP * MP), k, 0, M, M, MP, BLOCK_INNER, MP)
                acc = dot(a * _load(own, PULL + which, mask)[:, None], square, acc, PREC)
    return acc


@triton.jit
def _attention_norm_bwd_kernel(
    at, count, g, row,
    attended,  # (edges of the chunk, MP) what the forward pass put there
    d_g,  # (edges of the chunk, M) dE/d(this layer's output), not for the last layer
    d_row,  # (…, 4) out, for the last layer
    d_x,  # (atoms, 4, MP) dE/dX, for the last layer
    scratch,  # (…, WIDE, MP) out: z̄
    stats, vectors,  # out δ and z̄·b_vo
    EPS: tl.constexpr, LAST: tl.constexpr, M: tl.constexpr, MP: tl.constexpr, BLOCK_ROWS: tl.constexpr,
):  # fmt: skip
    """Row by row, and few rows at a time: a thread then has few of the vectors over channels."""
    b, r = tl.program_id(0), tl.program_id(1) * BLOCK_ROWS
    n = tl.load(count + b)
    if r < n:
        e0 = tl.load(at + b) - tl.load(at)
        rows = r + tl.arange(0, BLOCK_ROWS)
        mask = rows < n
        cols = tl.arange(0, MP)
        norm = vectors + NORM * MP
        added = load_rows(attended + e0 * MP, rows, mask, 0, M, MP, MP)
        z = load_rows(g + e0 * M, rows, mask, 0, M, M, MP) + added + tl.load(norm + OUT * MP + cols)[None, :]
        d_z = _norm_bwd(
            z, added, tl.load(norm + TO_VALUE * MP + cols)[None, :], row + e0 * 4, d_g + e0 * M, d_row + e0 * 4,
            d_x + b.to(tl.int64) * (4 * MP), stats + e0 * NUMBERS, rows, mask, norm, EPS, LAST, M, MP,
        )  # fmt: skip
        store_rows(scratch + e0 * (WIDE * MP), rows, mask, d_z, M, WIDE * MP, MP)


@triton.jit
def _attention_output_bwd_kernel(
    at, count, scratch, operands, matrices,
    M: tl.constexpr, MP: tl.constexpr, BLOCK_ROWS: tl.constexpr, BLOCK_INNER: tl.constexpr, PREC: tl.constexpr,
):  # fmt: skip
    """ȳ, where y was."""
    b, r = tl.program_id(0), tl.program_id(1) * BLOCK_ROWS
    n = tl.load(count + b)
    if r < n:
        e0 = tl.load(at + b) - tl.load(at)
        rows = r + tl.arange(0, BLOCK_ROWS)
        mask = rows < n
        d_y = times_matrix(
            tl.zeros([BLOCK_ROWS, MP], scratch.dtype.element_ty), scratch + e0 * (WIDE * MP), rows, mask,
            matrices + VALUES_T * MP * MP, M, WIDE * MP, MP, BLOCK_INNER, PREC,
        )  # fmt: skip
        store_rows(operands + e0 * (KEPT * MP) + MP, rows, mask, d_y, M, KEPT * MP, MP)


@triton.jit
def _attention_scores_bwd_kernel(
    at, count, g, gate, scratch, operands, stats,
    SMOOTH: tl.constexpr, DOTR: tl.constexpr, NARROW: tl.constexpr, M: tl.constexpr, MP: tl.constexpr,
    BLOCK_KEYS: tl.constexpr, BLOCK_QUERIES: tl.constexpr, BLOCK_INNER: tl.constexpr, PREC: tl.constexpr,
):  # fmt: skip
    """One program an atom: blocks of BLOCK_KEYS keys, which BLOCK_QUERIES queries pass by at a time."""
    b = tl.program_id(0)
    n = tl.load(count + b)
    e0 = tl.load(at + b) - tl.load(at)
    for k in range(0, n, BLOCK_KEYS):
        keys = k + tl.arange(0, BLOCK_KEYS)
        _pairs(
            operands + e0 * (KEPT * MP) + 2 * MP if NARROW else g + e0 * M, gate + e0 * 4, scratch + e0 * (WIDE * MP),
            operands + e0 * (KEPT * MP), stats + e0 * NUMBERS, n, keys, keys < n, k > 0, SMOOTH, DOTR,
            M, KEPT * MP if NARROW else M, MP, BLOCK_KEYS, BLOCK_QUERIES, BLOCK_INNER, PREC,
        )  # fmt: skip
        tl.debug_barrier()


@triton.jit
def _attention_project_bwd_kernel(
    at, count, g, row, gate, lengths,
    d_g,  # (edges of the chunk, M) out
    d_row, d_gate,  # (…, 4); added up from layer to layer
    scratch, stats, matrices, vectors,
    SMOOTH: tl.constexpr, DOTR: tl.constexpr, NORMALIZE: tl.constexpr, FIRST: tl.constexpr, LAST: tl.constexpr,
    M: tl.constexpr, MP: tl.constexpr, BLOCK_ROWS: tl.constexpr, BLOCK_INNER: tl.constexpr, PREC: tl.constexpr,
):  # fmt: skip
    b, r = tl.program_id(0), tl.program_id(1) * BLOCK_ROWS
    n = tl.load(count + b)
    if r < n:
        e0 = tl.load(at + b) - tl.load(at)
        rows = r + tl.arange(0, BLOCK_ROWS)
        mask = rows < n
        own_stats = stats + e0 * NUMBERS
        _gates_back(
            row + e0 * 4, gate + e0 * 4, lengths + e0 * 3, d_row + e0 * 4, d_gate + e0 * 4, own_stats, rows, mask,
            SMOOTH, DOTR, NORMALIZE, FIRST, LAST,
        )  # fmt: skip
        if NORMALIZE:
            tl.debug_barrier()
        acc = _back_to_rows(
            g + e0 * M, scratch + e0 * (WIDE * MP), own_stats, rows, mask, matrices, vectors, NORMALIZE,
            M, MP, BLOCK_ROWS, BLOCK_INNER, PREC,
        )  # fmt: skip
        store_rows(d_g + e0 * M, rows, mask, acc, M, M, MP)


@triton.jit
def _embedding_edges_bwd_kernel(
    at, count, first, center_type, neighbor_type,  # (atoms,) …; (edges of the batch,)
    d_g, row, gate,
    d_row, d_gate,  # (edges of the chunk, 4) in and out: the first column, and with STRIP the last
    net, factors,
    SMOOTH: tl.constexpr, TYPES: tl.constexpr, STRIP: tl.constexpr,
    WIDTHS: tl.constexpr, REAL: tl.constexpr, RESIDUALS: tl.constexpr, STARTS: tl.constexpr,
    KIND: tl.constexpr, THRESHOLD: tl.constexpr, M: tl.constexpr, MP: tl.constexpr,
    BLOCK_ROWS: tl.constexpr, PREC: tl.constexpr,
):  # fmt: skip
    """dE/ds, and in strip mode dE/d(sw), from dE/dg."""
    b, r = tl.program_id(0), tl.program_id(1) * BLOCK_ROWS
    n = tl.load(count + b)
    if r < n:
        e0 = tl.load(at + b) - tl.load(at)
        rows = r + tl.arange(0, BLOCK_ROWS)
        mask = rows < n
        s = tl.load(row + e0 * 4 + rows * 4, mask=mask, other=0.0)
        sw = tl.load(gate + e0 * 4 + 3 + rows * 4, mask=mask, other=0.0)
        edge = tl.load(first + b).to(tl.int64)
        pair = pairs_of_types(neighbor_type + edge, rows, mask, tl.load(center_type + b), TYPES)
        d_s, d_sw = edges_bwd(
            load_rows(d_g + e0 * M, rows, mask, 0, M, M, MP), s, sw, pair, net, factors,
            SMOOTH, STRIP, WIDTHS, REAL, RESIDUALS, STARTS, KIND, THRESHOLD, MP, PREC,
        )  # fmt: skip
        at_s = d_row + e0 * 4 + rows * 4
        tl.store(at_s, tl.load(at_s, mask=mask, other=0.0) + d_s, mask=mask)
        if STRIP:
            at_sw = d_gate + e0 * 4 + 3 + rows * 4
            tl.store(at_sw, tl.load(at_sw, mask=mask, other=0.0) + d_sw, mask=mask)
