"""The way back of gated attention; formulas stand at the top of ``gated_attention.py``."""

from __future__ import annotations

import triton
import triton.language as tl

from .embedding import moments_bwd, pairs_of_types, row_bwd, rows_bwd
from .gated_attention import (
    A_K,
    A_Q,
    BETA,
    BETA_K,
    D_GATE,
    D_REST,
    D_TOTAL,
    DELTA,
    GAMMA,
    LOG_Z,
    LOGITS_T,
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
    _fresh_zero,
    _gate_of,
    _layer,
    _length,
    _logits,
    _normalize,
    place,
)  # fmt: skip
from .products import dot, load_columns, load_four, load_matrix, load_rows, put, store_four, take, times_matrix


@triton.jit
def _norm_bwd(
    g, row, d_g, d_row, d_x, own_rows, stats, rows, mask, vectors,
    EPS: tl.constexpr, LAST: tl.constexpr, M: tl.constexpr, MP: tl.constexpr,
):  # fmt: skip
    """From (w g) W_vo in scratch to z̄ there, δ and z̄·b_vo."""
    cols = tl.arange(0, MP)
    inside = mask[:, None] & (cols < M)[None, :]
    to_value = tl.load(vectors + TO_VALUE * MP + cols)[None, :]
    attended = (
        take(own_rows + 2 * MP, rows, 0, 4 * MP, MP) + tl.load(stats + place(rows) + TOTAL_W * STEP)[:, None] * to_value
    )
    z = load_rows(g, rows, mask, 0, M, M, MP) + attended + tl.load(vectors + OUT * MP + cols)[None, :]
    normed, rstd = _normalize(z, cols, M, EPS)
    gamma = tl.load(vectors + GAMMA * MP + cols)
    if LAST:
        r_s, r_a, r_b, r_c = load_four(row, rows, mask)
        out = normed * gamma[None, :] + tl.load(vectors + BETA * MP + cols)[None, :]
        d_s, d_a, d_b, d_c = rows_bwd(d_x, out, MP)
        store_four(d_row, rows, mask, d_s, d_a, d_b, d_c)
        d_z = moments_bwd(d_x, r_s, r_a, r_b, r_c, MP)
    else:
        d_z = load_rows(d_g, rows, mask, 0, M, M, MP)
    # LayerNorm: z̄ = (γḡ − mean(γḡ) − x̂ mean(γḡ x̂))/std
    d_z = d_z * gamma[None, :]
    d_z = d_z - (tl.sum(d_z, axis=1) / M)[:, None] - normed * (tl.sum(d_z * normed, axis=1) / M)[:, None]
    d_z = tl.where(inside, d_z * rstd[:, None], 0.0)
    put(own_rows + 2 * MP, rows, rows >= 0, d_z, 4 * MP, MP)
    # δ = Σ w̄ w = z̄·((w g) W_vo + (Σ w) b_vo)
    tl.store(stats + place(rows) + DELTA * STEP, tl.sum(d_z * attended, axis=1))
    tl.store(stats + place(rows) + D_TOTAL * STEP, tl.sum(d_z * to_value, axis=1))


@triton.jit
def _by_query(
    g, gate, lengths, own_rows, stats, n, rows, mask,
    SMOOTH: tl.constexpr, DOTR: tl.constexpr, NORMALIZE: tl.constexpr, M: tl.constexpr, MP: tl.constexpr,
    Q: tl.constexpr, K: tl.constexpr, C: tl.constexpr, PREC: tl.constexpr,
):  # fmt: skip
    """What Q rows receive as queries: S g, and numbers per row."""
    work = gate.dtype.element_ty
    own = stats + place(rows)
    rest, log_z = tl.load(own + REST_Q * STEP), tl.load(own + LOG_Z * STEP)
    delta, d_total = tl.load(own + DELTA * STEP), tl.load(own + D_TOTAL * STEP)
    a_q = tl.load(own + A_Q * STEP)
    q0 = tl.load(gate + rows * 4, mask=mask, other=0.0)
    q1 = tl.load(gate + rows * 4 + 1, mask=mask, other=0.0) if DOTR else q0
    q2 = tl.load(gate + rows * 4 + 2, mask=mask, other=0.0) if DOTR else q0
    w_q = tl.load(gate + rows * 4 + 3, mask=mask, other=0.0) if SMOOTH else q0
    t = tl.zeros([Q, MP], work)
    d_y = t
    if C == MP:
        t, d_y = take(own_rows, rows, 0, 4 * MP, MP), take(own_rows + MP, rows, 0, 4 * MP, MP)
    along, shifts = tl.zeros([Q], work), tl.zeros([Q], work)
    d_0, d_1, d_2 = tl.zeros([Q], work), tl.zeros([Q], work), tl.zeros([Q], work)
    d_rest = tl.zeros([Q], work)
    d_t = tl.zeros([Q, MP], work)
    for k0 in range(0, n, K):
        keys = k0 + tl.arange(0, K)
        real = keys < n
        s, v = tl.zeros([Q, K], work), tl.zeros([Q, K], work)
        if C == MP:
            key = load_rows(g, keys, real, 0, M, M, MP)
            s = dot(t, tl.trans(key), s, PREC)
            v = dot(d_y, tl.trans(key), v, PREC)
        else:
            for c in range(0, MP, C):
                part = load_columns(g, keys, real, c, M, M, C)
                s = dot(take(own_rows, rows, c, 4 * MP, C), part, s, PREC)
                v = dot(take(own_rows + MP, rows, c, 4 * MP, C), part, v, PREC)
        a_k = tl.load(stats + place(keys) + A_K * STEP)
        w_k = tl.load(gate + keys * 4 + 3, mask=real, other=0.0) if SMOOTH else a_k
        x = _logits(s, rest, a_q, w_q, a_k, w_k, SMOOTH)
        p = tl.where(real[None, :], tl.exp(x - log_z[:, None]), 0.0)
        v += d_total[:, None]
        k_0 = tl.load(stats + place(keys) + BETA_K * STEP)
        k_1 = tl.load(stats + place(keys) + (BETA_K + 1) * STEP)
        k_2 = tl.load(stats + place(keys) + (BETA_K + 2) * STEP)
        d_x_ = p * (v * _gate_of(q0, q1, q2, k_0, k_1, k_2, DOTR) - delta[:, None])
        v = v * p
        d_0 += tl.sum(v * k_0[None, :], axis=1)
        if DOTR:
            d_1 += tl.sum(v * k_1[None, :], axis=1)
            d_2 += tl.sum(v * k_2[None, :], axis=1)
        along += tl.sum(d_x_ * x, axis=1)
        if SMOOTH:
            shifts += tl.sum(d_x_ * w_k[None, :], axis=1)
        d_s_ = d_x_ * a_q[:, None] * a_k[None, :]
        d_rest += tl.sum(d_s_, axis=1)
        if C < MP:
            key = load_rows(g, keys, real, 0, M, M, MP)
        d_t = dot(d_s_, key, d_t, PREC)
    put(own_rows + 3 * MP, rows, rows >= 0, d_t, 4 * MP, MP)
    tl.store(own + D_REST * STEP, d_rest)
    w_q = tl.load(gate + rows * 4 + 3, mask=mask, other=0.0)
    length = _length(lengths, rows, mask, 0, NORMALIZE, work)
    tl.store(own + PULL * STEP, -(along - SHIFT * w_q * shifts if SMOOTH else along) / (length * length))
    tl.store(own + D_GATE * STEP, d_0)
    tl.store(own + (D_GATE + 1) * STEP, d_1)
    tl.store(own + (D_GATE + 2) * STEP, d_2)
    tl.store(own + (D_GATE + 3) * STEP, tl.where(w_q != 0, along / w_q, 0.0))


@triton.jit
def _by_key(
    g, gate, lengths, own_rows, stats, n, keys, real,
    SMOOTH: tl.constexpr, DOTR: tl.constexpr, NORMALIZE: tl.constexpr,
    M: tl.constexpr, MP: tl.constexpr, Q: tl.constexpr, K: tl.constexpr, C: tl.constexpr, PREC: tl.constexpr,
):  # fmt: skip
    """What K rows receive as keys: Sᵀ t + wᵀ ȳ (K, MP), numbers per row, and dE/d(gate) in all, four columns.

    Keys that are not there are not masked: what they receive nobody reads.
    """
    work = gate.dtype.element_ty
    own = stats + place(keys)
    k_0, k_1 = tl.load(own + BETA_K * STEP), tl.load(own + (BETA_K + 1) * STEP)
    k_2, a_k = tl.load(own + (BETA_K + 2) * STEP), tl.load(own + A_K * STEP)
    w_k = tl.load(gate + keys * 4 + 3, mask=real, other=0.0) if SMOOTH else a_k
    along, shifts = tl.zeros([K], work), tl.zeros([K], work)
    d_0, d_1, d_2 = tl.zeros([K], work), tl.zeros([K], work), tl.zeros([K], work)
    acc = tl.zeros([K, MP], work)
    key = load_rows(g, keys, real, 0, M, M, MP) if C == MP else acc
    for q in range(0, n, Q):
        rows = q + tl.arange(0, Q)
        mask = rows < n
        s, v = tl.zeros([K, Q], work), tl.zeros([K, Q], work)
        if C == MP:
            t, d_y = take(own_rows, rows, 0, 4 * MP, MP), take(own_rows + MP, rows, 0, 4 * MP, MP)
            s, v = dot(key, tl.trans(t), s, PREC), dot(key, tl.trans(d_y), v, PREC)
        else:
            for c in range(0, MP, C):
                part = load_rows(g, keys, real, c, M, M, C)
                s = dot(part, load_columns(own_rows, rows, mask, c, MP, 4 * MP, C), s, PREC)
                v = dot(part, load_columns(own_rows + MP, rows, mask, c, MP, 4 * MP, C), v, PREC)
        numbers = stats + place(rows)
        a_q = tl.load(numbers + A_Q * STEP)
        x = (s + tl.load(numbers + REST_Q * STEP)[None, :]) * a_k[:, None] * a_q[None, :]
        w_q = tl.load(gate + rows * 4 + 3, mask=mask, other=0.0) if SMOOTH else a_q
        if SMOOTH:
            x += SHIFT * w_k[:, None] * w_q[None, :]
        p = tl.where(mask[None, :], tl.exp(x - tl.load(numbers + LOG_Z * STEP)[None, :]), 0.0)
        v += tl.load(numbers + D_TOTAL * STEP)[None, :]
        q0 = tl.load(gate + rows * 4, mask=mask, other=0.0)
        q1 = tl.load(gate + rows * 4 + 1, mask=mask, other=0.0) if DOTR else q0
        q2 = tl.load(gate + rows * 4 + 2, mask=mask, other=0.0) if DOTR else q0
        w = _gate_of(k_0, k_1, k_2, q0, q1, q2, DOTR)
        d_x = p * (v * w - tl.load(numbers + DELTA * STEP)[None, :])
        w = w * p
        v = v * p
        d_0 += tl.sum(v * q0[None, :], axis=1)
        if DOTR:
            d_1 += tl.sum(v * q1[None, :], axis=1)
            d_2 += tl.sum(v * q2[None, :], axis=1)
        along += tl.sum(d_x * x, axis=1)
        if SMOOTH:
            shifts += tl.sum(d_x * w_q[None, :], axis=1)
        d_x = d_x * a_k[:, None] * a_q[None, :]
        if C < MP:
            t, d_y = take(own_rows, rows, 0, 4 * MP, MP), take(own_rows + MP, rows, 0, 4 * MP, MP)
        acc = dot(d_x, t, acc, PREC)
        acc = dot(w, d_y, acc, PREC)
    w_k = tl.load(gate + keys * 4 + 3, mask=real, other=0.0)
    k_length = _length(lengths, keys, real, 1, NORMALIZE, work)
    v_length = _length(lengths, keys, real, 2, NORMALIZE, work)
    tl.store(own + (PULL + 1) * STEP, -(along - SHIFT * w_k * shifts if SMOOTH else along) / (k_length * k_length))
    tl.store(own + (PULL + 2) * STEP, -(d_0 * k_0 + d_1 * k_1 + d_2 * k_2) / (v_length * v_length))
    d_0 = d_0 / v_length + tl.load(own + D_GATE * STEP)
    d_1 = d_1 / v_length + tl.load(own + (D_GATE + 1) * STEP)
    d_2 = d_2 / v_length + tl.load(own + (D_GATE + 2) * STEP)
    d_w = tl.load(own + (D_GATE + 3) * STEP) + tl.where(w_k != 0, along / w_k, 0.0)
    return acc, d_0, d_1, d_2, d_w


@triton.jit
def _back_to_rows(
    g, own_rows, stats, rows, mask, matrices, vectors, NORMALIZE: tl.constexpr,
    M: tl.constexpr, MP: tl.constexpr, B: tl.constexpr, W: tl.constexpr, PREC: tl.constexpr,
):  # fmt: skip
    """dE/dg (B, MP) of rows: what came to them directly and as keys, as queries, and through the three lengths."""
    cols = tl.arange(0, MP)
    own = stats + place(rows)
    d_rest = tl.load(own + D_REST * STEP, mask=mask, other=0.0)
    acc = load_rows(own_rows + 2 * MP, rows, mask, 0, MP, 4 * MP, MP)
    acc += d_rest[:, None] * tl.load(vectors + TO_REST * MP + cols)[None, :]
    acc = times_matrix(acc, own_rows + 3 * MP, rows, mask, matrices + LOGITS_T * MP * MP, MP, 4 * MP, MP, W, PREC)
    if NORMALIZE:
        for which in range(0, 3):
            pull = tl.load(own + (PULL + which) * STEP, mask=mask, other=0.0)
            acc += pull[:, None] * tl.load(vectors + (SQUARES_ROW + which) * MP + cols)[None, :]
            for k in range(0, MP, W):
                a = load_rows(g, rows, mask, k, M, M, W) * pull[:, None]
                acc = dot(a, load_matrix(matrices + (SQUARES + which) * (MP * MP), k, 0, MP, W, MP), acc, PREC)
    return acc


@triton.jit(do_not_specialize=["atoms"])
def _gated_attention_bwd_kernel(
    at, count, empty,  # (B,)
    g, row, gate, lengths,  # (edges of the chunk, M), (…, 4), (…, 4), (…, 3)
    d_g,  # (edges of the chunk, M) in (but for the last layer) and out (but for the first)
    d_row, d_gate,  # (edges of the chunk, 4); added up from layer to layer
    d_x,  # (B, 4, MP) dE/dX, for the last layer
    scratch, stats,  # (programs, rows, 4, MP), (programs, rows, NUMBERS)
    matrices, vectors,  # this layer's
    neighbor_type, first, center_type, net, factors,  # for the first layer
    atoms, scratch_rows,
    SCALE: tl.constexpr, EPS: tl.constexpr, SMOOTH: tl.constexpr, DOTR: tl.constexpr, NORMALIZE: tl.constexpr,
    FIRST: tl.constexpr, LAST: tl.constexpr,
    TYPES: tl.constexpr, STRIP: tl.constexpr,
    WIDTHS: tl.constexpr, RESIDUALS: tl.constexpr, STARTS: tl.constexpr, KIND: tl.constexpr, T: tl.constexpr,
    M: tl.constexpr, MP: tl.constexpr,
    Q: tl.constexpr, K: tl.constexpr, C: tl.constexpr, W: tl.constexpr, B: tl.constexpr,
    E: tl.constexpr, PREC: tl.constexpr,
):  # fmt: skip
    """Programs walk over atoms. C: chunk of the inner dimension of scores, W: of products with weights, which take B
    rows. After the first layer comes the embedding: d_row and d_gate then hold all that the environment needs."""
    R: tl.constexpr = NORM_ROWS if NORM_ROWS < Q else Q
    WIDE: tl.constexpr = 4 * MP  # t, ȳ (before: y), z̄ (before: z; later: dE/dg) and S g of a row, side by side
    cols = tl.arange(0, MP)
    program = tl.program_id(0).to(tl.int64) * scratch_rows
    for b in range(tl.program_id(0), atoms, tl.num_programs(0)):
        n = tl.load(count + b)
        _layer(
            at, count, empty, b, n, g, gate, lengths, scratch, stats, program, matrices, vectors,
            SCALE, SMOOTH, DOTR, NORMALIZE, M, MP, Q, K, C, W, B, PREC,
        )  # fmt: skip
        filled = (n + Q - 1) // Q * Q
        for r in range(0, n, R):
            zero = _fresh_zero(count, b, n)
            e0 = tl.load(at + b) - tl.load(at) + zero
            few = r + zero + tl.arange(0, R)
            _norm_bwd(
                g + e0 * M, row + e0 * 4, d_g + e0 * M, d_row + e0 * 4,
                d_x + zero + tl.full((), 4 * MP, tl.int64) * b, scratch + (program + zero) * WIDE,
                stats + (program + zero) * NUMBERS, few, few < n, vectors + zero, EPS, LAST, M, MP,
            )  # fmt: skip
        tl.debug_barrier()
        for r in range(0, n, B):
            zero = _fresh_zero(count, b, n)
            own_rows = scratch + (program + zero) * WIDE
            many = r + zero + tl.arange(0, B)
            acc = tl.zeros([B, MP], scratch.dtype.element_ty)
            acc = times_matrix(
                acc, own_rows + 2 * MP, many, many < n, matrices + zero + VALUES_T * MP * MP, MP, WIDE, MP, W, PREC
            )  # fmt: skip
            put(own_rows + MP, many, many < filled, acc, WIDE, MP)
        tl.debug_barrier()
        for q in range(0, n, Q):
            zero = _fresh_zero(count, b, n)
            e0 = tl.load(at + b) - tl.load(at) + zero
            rows = q + zero + tl.arange(0, Q)
            _by_query(
                g + e0 * M, gate + e0 * 4, lengths + e0 * 3, scratch + (program + zero) * WIDE,
                stats + (program + zero) * NUMBERS, n, rows, rows < n,
                SMOOTH, DOTR, NORMALIZE, M, MP, Q, K, C, PREC,
            )  # fmt: skip
        tl.debug_barrier()
        # Here keys come in blocks of Q rows, and queries pass by K at a time.
        for k in range(0, n, Q):
            zero = _fresh_zero(count, b, n)
            e0 = tl.load(at + b) - tl.load(at) + zero
            own_rows, own_stats = scratch + (program + zero) * WIDE, stats + (program + zero) * NUMBERS
            keys = k + zero + tl.arange(0, Q)
            acc, d_0, d_1, d_2, d_w = _by_key(
                g + e0 * M, gate + e0 * 4, lengths + e0 * 3, own_rows, own_stats, n, keys, keys < n,
                SMOOTH, DOTR, NORMALIZE, M, MP, K, Q, C, PREC,
            )  # fmt: skip
            zero = _fresh_zero(count, b, n)
            own_rows = scratch + (program + zero) * WIDE + 2 * MP
            e0 = tl.load(at + b) - tl.load(at) + zero
            keys = k + zero + tl.arange(0, Q)
            put(own_rows, keys, keys < filled, acc + take(own_rows, keys, 0, WIDE, MP), WIDE, MP)
            real = keys < n
            if not LAST:
                e_0, e_1, e_2, e_w = load_four(d_gate + e0 * 4, keys, real)
                d_0, d_1, d_2, d_w = d_0 + e_0, d_1 + e_1, d_2 + e_2, d_w + e_w
            if FIRST:
                own = stats + (program + zero) * NUMBERS + place(keys)
                tl.store(own + D_GATE * STEP, d_0)
                tl.store(own + (D_GATE + 1) * STEP, d_1)
                tl.store(own + (D_GATE + 2) * STEP, d_2)
                tl.store(own + (D_GATE + 3) * STEP, d_w)
            else:
                store_four(d_gate + e0 * 4, keys, real, d_0, d_1, d_2, d_w)
        tl.debug_barrier()
        for r in range(0, n, B):
            zero = _fresh_zero(count, b, n)
            e0 = tl.load(at + b) - tl.load(at) + zero
            own_rows = scratch + (program + zero) * WIDE
            many = r + zero + tl.arange(0, B)
            acc = _back_to_rows(
                g + e0 * M, own_rows, stats + (program + zero) * NUMBERS, many, many < n,
                matrices + zero, vectors + zero, NORMALIZE, M, MP, B, W, PREC,
            )  # fmt: skip
            if FIRST:
                put(own_rows + 2 * MP, many, many < filled, acc, WIDE, MP)
            else:
                tl.store(
                    d_g + e0 * M + (many[:, None] * M + cols[None, :]), acc,
                    mask=(many < n)[:, None] & (cols < M)[None, :],
                )  # fmt: skip
        tl.debug_barrier()
        if FIRST:
            for e in range(0, n, E):
                zero = _fresh_zero(count, b, n)
                e0 = tl.load(at + b) - tl.load(at) + zero
                rows = e + zero + tl.arange(0, E)
                mask = rows < n
                d_s, d_a, d_b, d_c = load_four(d_row + e0 * 4, rows, mask)
                own = stats + (program + zero) * NUMBERS + place(rows)
                u_0, u_1 = tl.load(own + D_GATE * STEP), tl.load(own + (D_GATE + 1) * STEP)
                u_2, u_w = tl.load(own + (D_GATE + 2) * STEP), tl.load(own + (D_GATE + 3) * STEP)
                s, x, y, z = load_four(row + e0 * 4, rows, mask)
                sw = tl.load(gate + e0 * 4 + 3 + rows * 4, mask=mask, other=0.0)
                edge = (tl.load(first + b) + zero).to(tl.int64)
                pair = pairs_of_types(neighbor_type + edge, rows, mask, tl.load(center_type + b), TYPES)
                d_s, d_a, d_b, d_c, d_sw = row_bwd(
                    take(scratch + (program + zero) * (4 * MP) + 2 * MP, rows, 0, 4 * MP, MP),
                    d_s, d_a, d_b, d_c, u_0, u_1, u_2, u_w, s, x, y, z, sw, pair, net + zero, factors, zero,
                    SMOOTH, DOTR, STRIP, True, WIDTHS, RESIDUALS, STARTS, KIND, T, MP, PREC,
                )  # fmt: skip
                store_four(d_row + e0 * 4, rows, mask, d_s, d_a, d_b, d_c)
                tl.store(d_gate + e0 * 4 + 3 + rows * 4, d_sw, mask=mask)
            tl.debug_barrier()
