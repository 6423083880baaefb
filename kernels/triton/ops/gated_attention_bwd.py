"""The backward pass of gated attention; formulas stand at the top of ``gated_attention.py``."""

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
    NORM_ROWS,
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
    TOTAL_W,
    VALUES_T,
    WIDE,
    _fresh_zero,
    _layer,
    _length,
    _logits,
    _normalize,
    _outer,
    place,
)
from .products import dot, load_columns, load_four, load_matrix, load_rows, store_four, store_rows, times_matrix


@triton.jit
def _norm_bwd(
    z, attended, to_value, row, d_g, d_row, d_x, stats, rows, mask, zero, norm,
    EPS: tl.constexpr, LAST: tl.constexpr, M: tl.constexpr, MP: tl.constexpr,
):  # fmt: skip
    """z̄ (R, MP) from z and what attention adds to it; puts down δ and z̄·b_vo. norm: four vectors, see NORM."""
    cols = zero + tl.arange(0, MP)
    normed, rstd = _normalize(z, cols, M, EPS)
    gamma = tl.load(norm + GAMMA * MP + cols)
    if LAST:
        r_s, r_a, r_b, r_c = load_four(row, rows, mask)
        out = normed * gamma[None, :] + tl.load(norm + BETA * MP + cols)[None, :]
        d_s, d_a, d_b, d_c = rows_bwd(d_x, out, MP)
        store_four(d_row, rows, mask, d_s, d_a, d_b, d_c)
        d_z = moments_bwd(d_x, r_s, r_a, r_b, r_c, MP)
    else:
        d_z = load_rows(d_g, rows, mask, zero, M, M, MP)
    # LayerNorm: z̄ = (γḡ − mean(γḡ) − x̂ mean(γḡ x̂))/std
    d_z = d_z * gamma[None, :]
    d_z = d_z - (tl.sum(d_z, axis=1) / M)[:, None] - normed * (tl.sum(d_z * normed, axis=1) / M)[:, None]
    d_z = tl.where(mask[:, None] & (cols < M)[None, :], d_z * rstd[:, None], 0.0)
    # δ = Σ w̄ w = z̄·((w g) W_vo + (Σ w) b_vo)
    tl.store(stats + place(rows) + DELTA * STEP, tl.sum(d_z * attended, axis=1), mask=mask)
    tl.store(stats + place(rows) + D_TOTAL * STEP, tl.sum(d_z * to_value, axis=1), mask=mask)
    return d_z


@triton.jit
def _rows_back(
    g, row, d_g, d_row, d_x, own_rows, stats, rows, mask, zero, norm,
    EPS: tl.constexpr, LAST: tl.constexpr, M: tl.constexpr, MP: tl.constexpr,
):  # fmt: skip
    """From (w g) W_vo in scratch to z̄ there."""
    cols = zero + tl.arange(0, MP)
    to_value = tl.load(norm + TO_VALUE * MP + cols)[None, :]
    attended = tl.load(stats + place(rows) + TOTAL_W * STEP)[:, None] * to_value
    attended += load_rows(own_rows, rows, mask, zero, M, WIDE * MP, MP)
    z = load_rows(g, rows, mask, zero, M, M, MP) + attended + tl.load(norm + OUT * MP + cols)[None, :]
    d_z = _norm_bwd(z, attended, to_value, row, d_g, d_row, d_x, stats, rows, mask, zero, norm, EPS, LAST, M, MP)
    store_rows(own_rows, rows, mask, d_z, zero, M, WIDE * MP, MP)


@triton.jit
def _pairs(
    g, gate, own_rows, own_operands, stats, n, keys, real, again, zero,
    SMOOTH: tl.constexpr, DOTR: tl.constexpr, M: tl.constexpr, STRIDE: tl.constexpr,
    MP: tl.constexpr, Q: tl.constexpr, K: tl.constexpr, C: tl.constexpr, PREC: tl.constexpr,
):  # fmt: skip
    """What Q rows receive as keys, on top of z̄, and what they send to all queries, K of which pass by at a time.

    Queries collect S g and numbers from all blocks of keys; ``again``: whether this is not the first one.
    """
    work = gate.dtype.element_ty
    own = stats + place(keys)
    k_0, k_1, k_2 = _load_three(own + BETA_K * STEP, real)
    a_k = _load(own, A_K, real)
    w_k = tl.load(gate + keys * 4 + 3, mask=real, other=0.0) if SMOOTH else a_k
    along, shifts = tl.zeros([Q], work), tl.zeros([Q], work)
    d_0, d_1, d_2 = tl.zeros([Q], work), tl.zeros([Q], work), tl.zeros([Q], work)
    acc = tl.zeros([Q, MP], work)
    # Where no column is filled up the compiler sees that loads need no mask, and float32 runs out of registers.
    hidden = zero if M == MP else 0
    if C == MP:
        key = load_rows(g, keys, real, zero, M, STRIDE, MP)
    for q in range(0, n, K):
        rows = q + tl.arange(0, K)
        mask = rows < n
        s, v = tl.zeros([K, Q], work), tl.zeros([K, Q], work)
        if C == MP:
            t = load_rows(own_operands, rows, mask, zero, M, KEPT * MP, MP)
            d_y = load_rows(own_operands + MP, rows, mask, zero, M, KEPT * MP, MP)
            s, v = dot(t, tl.trans(key), s, PREC), dot(d_y, tl.trans(key), v, PREC)
        else:
            for c in range(0, MP, C):
                part = load_columns(g, keys, real, hidden + c, M, STRIDE, C)
                s = dot(load_rows(own_operands, rows, mask, hidden + c, M, KEPT * MP, C), part, s, PREC)
                v = dot(load_rows(own_operands + MP, rows, mask, c, M, KEPT * MP, C), part, v, PREC)
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
        if C < MP:
            t = load_rows(own_operands, rows, mask, zero, M, KEPT * MP, MP)
            d_y = load_rows(own_operands + MP, rows, mask, zero, M, KEPT * MP, MP)
        here = key if C == MP else load_rows(g, keys, real, zero, M, STRIDE, MP)
        acc = dot(tl.trans(d_x), t, acc, PREC)
        acc = dot(tl.trans(w), d_y, acc, PREC)
        d_t = dot(d_x, here, tl.zeros([K, MP], work), PREC)
        if again:
            d_t += load_rows(own_rows + MP, rows, mask, zero, M, WIDE * MP, MP)
        store_rows(own_rows + MP, rows, mask, d_t, zero, M, WIDE * MP, MP)
    acc += load_rows(own_rows, keys, real, zero, M, WIDE * MP, MP)
    store_rows(own_rows, keys, real, acc, zero, M, WIDE * MP, MP)
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
def _pull(along, shifts, w, length, SMOOTH: tl.constexpr):
    """dE/d|q| over |q|, or k's: x − 20 sw_q sw_k goes as 1/|q|."""
    return -(along - SHIFT * w * shifts if SMOOTH else along) / (length * length)


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
    k_pull = _pull(k_along, _load(own, BY_KEY + 4, mask), w, k_length, SMOOTH)
    q_pull = _pull(q_along, _load(own, BY_QUERY + 4, mask), w, q_length, SMOOTH)
    tl.store(own + PULL * STEP, q_pull, mask=mask)
    tl.store(own + (PULL + 1) * STEP, k_pull, mask=mask)
    tl.store(own + (PULL + 2) * STEP, -(d_0 * b_0 + d_1 * b_1 + d_2 * b_2) / (v_length * v_length), mask=mask)
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
    g, own_rows, stats, rows, mask, zero, matrices, vectors, NORMALIZE: tl.constexpr,
    M: tl.constexpr, MP: tl.constexpr, B: tl.constexpr, W: tl.constexpr, PREC: tl.constexpr,
):  # fmt: skip
    """dE/dg (B, MP) of rows: what came to them directly and as keys, as queries, and through the three lengths."""
    cols = zero + tl.arange(0, MP)
    own = stats + place(rows)
    d_rest = tl.load(own + D_REST * STEP, mask=mask, other=0.0)
    acc = load_rows(own_rows, rows, mask, zero, M, WIDE * MP, MP)
    acc += d_rest[:, None] * tl.load(vectors + TO_REST * MP + cols)[None, :]
    acc = times_matrix(acc, own_rows + MP, rows, mask, zero, matrices + LOGITS_T * MP * MP, M, WIDE * MP, MP, W, PREC)
    if NORMALIZE:
        for side in tl.static_range(0, 3):
            square_row = tl.load(vectors + (SQUARES_ROW + side) * MP + cols)
            acc += _load(own, PULL + side, mask)[:, None] * square_row[None, :]
        for k in range(0, MP, W):
            a = load_rows(g, rows, mask, zero + k, M, M, W)
            for which in range(0, 3):
                square = load_matrix(matrices + (SQUARES + which) * (MP * MP), k, zero, M, M, MP, W, MP)
                acc = dot(a * _load(own, PULL + which, mask)[:, None], square, acc, PREC)
    return acc


@triton.jit(do_not_specialize=["atoms"])
def _gated_attention_bwd_kernel(
    at, count, empty,  # (B,)
    g, row, gate, lengths,  # (edges of the chunk, M), (…, 4), (…, 4), (…, 3)
    d_g,  # (edges of the chunk, M) in (but for the last layer) and out (but for the first)
    d_row, d_gate,  # (edges of the chunk, 4); added up from layer to layer
    d_x,  # (B, 4, MP) dE/dX, for the last layer
    scratch, operands, stats,  # (programs, rows, WIDE, MP), (programs, rows, KEPT, MP), (programs, rows, NUMBERS)
    matrices, vectors,  # this layer's
    neighbor_type, first, center_type, net, factors,  # for the first layer
    atoms, scratch_rows,
    SCALE: tl.constexpr, EPS: tl.constexpr, SMOOTH: tl.constexpr, DOTR: tl.constexpr, NORMALIZE: tl.constexpr,
    NARROW: tl.constexpr, FIRST: tl.constexpr, LAST: tl.constexpr,
    TYPES: tl.constexpr, STRIP: tl.constexpr,
    WIDTHS: tl.constexpr, REAL: tl.constexpr, RESIDUALS: tl.constexpr, STARTS: tl.constexpr,
    KIND: tl.constexpr, T: tl.constexpr, M: tl.constexpr, MP: tl.constexpr,
    Q: tl.constexpr, K: tl.constexpr, C: tl.constexpr, W: tl.constexpr, B: tl.constexpr,
    E: tl.constexpr, PREC: tl.constexpr,
):  # fmt: skip
    """Programs walk over atoms. Q: keys of a block, by which K queries pass at a time; the rest as in the forward pass.
    After the first layer comes the embedding: d_row and d_gate then hold all that the environment needs."""
    # Operands in three parts leave fewer registers.
    R: tl.constexpr = 16 if PREC == "tf32x3" or B < NORM_ROWS else NORM_ROWS
    program = tl.program_id(0).to(tl.int64) * scratch_rows
    for b in range(tl.program_id(0), atoms, tl.num_programs(0)):
        n = tl.load(count + b)
        _layer(
            at, count, empty, b, n, g, gate, lengths, scratch, operands, stats, program, matrices, vectors,
            SCALE, SMOOTH, DOTR, NORMALIZE, NARROW, M, MP, K, C, W, B, PREC,
        )  # fmt: skip
        for r in range(0, n, R):
            zero = _fresh_zero(count, b, n)
            e0 = tl.load(at + b) - tl.load(at) + zero
            few = r + zero + tl.arange(0, R)
            _rows_back(
                g + e0 * M, row + e0 * 4, d_g + e0 * M, d_row + e0 * 4,
                d_x + zero + tl.full((), 4 * MP, tl.int64) * b, scratch + (program + zero) * (WIDE * MP),
                stats + (program + zero) * NUMBERS, few, few < n, zero, vectors + zero + NORM * MP, EPS, LAST, M, MP,
            )  # fmt: skip
        tl.debug_barrier()
        for r in range(0, n, B):
            zero = _fresh_zero(count, b, n)
            own_rows = scratch + (program + zero) * (WIDE * MP)
            many = r + zero + tl.arange(0, B)
            acc = tl.zeros([B, MP], scratch.dtype.element_ty)
            acc = times_matrix(
                acc, own_rows, many, many < n, zero, matrices + zero + VALUES_T * MP * MP, M, WIDE * MP, MP, W, PREC
            )  # fmt: skip
            own_operands = operands + (program + zero) * (KEPT * MP)
            store_rows(own_operands + MP, many, many < n, acc, zero, M, KEPT * MP, MP)
        tl.debug_barrier()
        for k in range(0, n, Q):
            zero = _fresh_zero(count, b, n)
            e0 = tl.load(at + b) - tl.load(at) + zero
            keys = k + zero + tl.arange(0, Q)
            own_operands = operands + (program + zero) * (KEPT * MP)
            _pairs(
                own_operands + 2 * MP if NARROW else g + e0 * M, gate + e0 * 4,
                scratch + (program + zero) * (WIDE * MP), own_operands, stats + (program + zero) * NUMBERS, n,
                keys, keys < n, k > 0, zero, SMOOTH, DOTR, M, KEPT * MP if NARROW else M, MP, Q, K, C, PREC,
            )  # fmt: skip
            tl.debug_barrier()
        for r in range(0, n, B):
            zero = _fresh_zero(count, b, n)
            e0 = tl.load(at + b) - tl.load(at) + zero
            many = r + zero + tl.arange(0, B)
            _gates_back(
                row + e0 * 4, gate + e0 * 4, lengths + e0 * 3, d_row + e0 * 4, d_gate + e0 * 4,
                stats + (program + zero) * NUMBERS, many, many < n, SMOOTH, DOTR, NORMALIZE, FIRST, LAST,
            )  # fmt: skip
        tl.debug_barrier()
        for r in range(0, n, B):
            zero = _fresh_zero(count, b, n)
            e0 = tl.load(at + b) - tl.load(at) + zero
            own_rows = scratch + (program + zero) * (WIDE * MP)
            many = r + zero + tl.arange(0, B)
            acc = _back_to_rows(
                g + e0 * M, own_rows, stats + (program + zero) * NUMBERS, many, many < n, zero,
                matrices + zero, vectors + zero, NORMALIZE, M, MP, B, W, PREC,
            )  # fmt: skip
            if FIRST:
                store_rows(own_rows, many, many < n, acc, zero, M, WIDE * MP, MP)
            else:
                store_rows(d_g + e0 * M, many, many < n, acc, zero, M, M, MP)
        if FIRST:
            tl.debug_barrier()
            for e in range(0, n, E):
                zero = _fresh_zero(count, b, n)
                e0 = tl.load(at + b) - tl.load(at) + zero
                rows = e + zero + tl.arange(0, E)
                mask = rows < n
                s = tl.load(row + e0 * 4 + rows * 4, mask=mask, other=0.0)
                sw = tl.load(gate + e0 * 4 + 3 + rows * 4, mask=mask, other=0.0)
                edge = (tl.load(first + b) + zero).to(tl.int64)
                pair = pairs_of_types(neighbor_type + edge, rows, mask, tl.load(center_type + b), TYPES)
                own_rows = scratch + (program + zero) * (WIDE * MP)
                d_s, d_sw = edges_bwd(
                    load_rows(own_rows, rows, mask, zero, M, WIDE * MP, MP), s, sw, pair, net + zero, factors, zero,
                    SMOOTH, STRIP, WIDTHS, REAL, RESIDUALS, STARTS, KIND, T, MP, PREC,
                )  # fmt: skip
                at_s = d_row + e0 * 4 + rows * 4
                tl.store(at_s, tl.load(at_s, mask=mask, other=0.0) + d_s, mask=mask)
                if STRIP:
                    at_sw = d_gate + e0 * 4 + 3 + rows * 4
                    tl.store(at_sw, tl.load(at_sw, mask=mask, other=0.0) + d_sw, mask=mask)
