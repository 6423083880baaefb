"""One layer of neighbour-wise gated attention, forward and backward (``reference.gated_attention_layer``).

Keys and values are the embeddings g themselves: with ĝ = [g, 1] and Ŵ = [W; b],

    q·k = t·g_k + r,   t = ĝ_q Ŵ_q Ŵ_kᵀ (its first M columns), r its last,      (w v) W_out = (w g) W_vo + (Σ w) b_vo

so that nothing but g is read for a neighbour, and everything that stands between is made on chip. With a_q =
scale·sw_q/|q|, a_k = sw_k/|k|, u = r̂·sw (``environment.gate_fwd``), p the softmax and G = u_q·u_k/|v_k|:

    x = (q·k) a_q a_k + 20 sw_q sw_k,   p = e^x/(Σ_real e^x + n_empty),   w = p G,
    z = g + (w g) W_vo + (Σ w) b_vo + b_out,   g' = LayerNorm(z)

(every logit is raised by 20, so that an empty slot has logit 0). Back from z̄, with ȳ = z̄ W_voᵀ, w̄_k = ȳ·g_k + z̄·b_vo:

    δ = Σ_k w̄ w = ȳ·y + (z̄·b_vo) Σ w,      x̄ = p (w̄ G − δ),      S = x̄ a_q a_k
    query:   ḡ += z̄ + (S g) (Ŵ_q Ŵ_kᵀ)ᵀ,   ū += Σ_k w̄ p u_k/|v_k|
    key:     ḡ += Sᵀ t + wᵀ ȳ,   β̄ = Σ_q w̄ p u_q,   ū += β̄/|v|
    lengths: x − 20 sw_q sw_k goes as 1/|q|: ḡ −= (Σ_k x̄ (x − 20 sw_q sw_k)/|q|²) ĝ P_q, P_q = Ŵ_q Ŵ_qᵀ; likewise k;
             w goes as 1/|v|: ḡ −= (β̄·u/|v|)/|v|² ĝ P_v;      sw̄ = Σ x̄ x/sw, over keys and over queries.

The backward evaluates its layer again: nothing is kept between forward and backward but each layer's input and the
three lengths. A program takes whole atoms. What it has made for its rows (t, ȳ and the like) it puts down in
``scratch``, which belongs to the program and is used again for its next atom, so it stays in the cache; the barriers
stand where rows that one warp put down are read by another.
"""

from __future__ import annotations

import triton
import triton.language as tl

from .embedding import lengths_of, moments_bwd, pairs_of_types, row_bwd, rows_bwd, store_moments
from .products import dot, load_columns, load_four, load_rows, store_four, times_matrix

SHIFT: tl.constexpr = tl.constexpr(20.0)
STATS: tl.constexpr = tl.constexpr(16)  # 9 numbers a row, then at 10 · rows four more

# Where a layer's numbers stand in ``matrices`` (MP·MP each) and ``vectors`` (MP each); packing.py puts them there.
LOGITS: tl.constexpr = tl.constexpr(0)
LOGITS_T: tl.constexpr = tl.constexpr(1)
VALUES: tl.constexpr = tl.constexpr(2)
VALUES_T: tl.constexpr = tl.constexpr(3)
SQUARES: tl.constexpr = tl.constexpr(4)
FACTORS: tl.constexpr = tl.constexpr(7)

TO_KEY: tl.constexpr = tl.constexpr(0)
TO_REST: tl.constexpr = tl.constexpr(1)
TO_VALUE: tl.constexpr = tl.constexpr(2)
OUT: tl.constexpr = tl.constexpr(3)
GAMMA: tl.constexpr = tl.constexpr(4)
BETA: tl.constexpr = tl.constexpr(5)
SQUARES_ROW: tl.constexpr = tl.constexpr(6)
REST: tl.constexpr = tl.constexpr(9)
BIASES: tl.constexpr = tl.constexpr(10)


@triton.jit
def _fresh_zero(count, b, n):
    """Zero, in a way that the compiler can't see: what one phase computes from it is not kept for the next."""
    return tl.multiple_of(tl.load(count + b, volatile=True) - n, 16)


@triton.jit
def _length(lengths, rows, mask, WHICH: tl.constexpr, NORMALIZE: tl.constexpr, DTYPE: tl.constexpr):
    """|q|, |k| or |v| of rows, by WHICH; 1 without normalize."""
    if NORMALIZE:
        return tl.load(lengths + rows * 3 + WHICH, mask=mask, other=1.0)
    else:
        return tl.full(rows.shape, 1.0, DTYPE)


@triton.jit
def _gate_of(q0, q1, q2, k0, k1, k2, DOTR: tl.constexpr):
    """u_q·β_k. (Q, K)"""
    gate = q0[:, None] * k0[None, :]
    if DOTR:
        gate += q1[:, None] * k1[None, :] + q2[:, None] * k2[None, :]
    return gate


@triton.jit
def _logits(s, rest, a_q, w_q, a_k, w_k, keys, SMOOTH: tl.constexpr):
    """x (Q, K) from q·k − rest, −∞ in masked columns."""
    x = (s + rest[:, None]) * a_q[:, None] * a_k[None, :]
    if SMOOTH:
        x += SHIFT * w_q[:, None] * w_k[None, :]
    return tl.where(keys[None, :], x, float("-inf"))


@triton.jit
def _attend(
    g, gate, lengths, t_rows, n, empty, rows, mask, matrices, vectors, SCALE: tl.constexpr,
    SMOOTH: tl.constexpr, DOTR: tl.constexpr, NORMALIZE: tl.constexpr,
    M: tl.constexpr, MP: tl.constexpr, Q: tl.constexpr, K: tl.constexpr, C: tl.constexpr, PREC: tl.constexpr,
):  # fmt: skip
    """Attention of Q rows to all n neighbours: y = w g (Q, MP), Σ w, r and log Z; t is left in ``t_rows``."""
    work = gate.dtype.element_ty
    cols = tl.arange(0, MP)
    t = tl.zeros([Q, MP], work) + tl.load(vectors + TO_KEY * MP + cols)[None, :]
    rest = tl.zeros([Q], work) + tl.load(vectors + REST * MP)
    for k in range(0, MP, C):
        a = load_rows(g, rows, mask, k, M, M, C)
        rest += tl.sum(a * tl.load(vectors + TO_REST * MP + k + tl.arange(0, C))[None, :], axis=1)
        part = tl.load(matrices + LOGITS * MP * MP + ((k + tl.arange(0, C))[:, None] * MP + cols[None, :]))
        t = dot(a, part, t, PREC)
    tl.debug_barrier()
    tl.store(t_rows + (rows[:, None] * MP + cols[None, :]), t)
    tl.debug_barrier()
    q0, q1, q2, w_q = load_four(gate, rows, mask)
    length = _length(lengths, rows, mask, 0, NORMALIZE, work)
    a_q = SCALE * w_q / length
    # Empty slots have logit 0; without them a floor keeps the first difference finite.
    top = tl.full([Q], 0.0 if SMOOTH else -1e30, work)
    total = tl.zeros([Q], work)
    total_w = tl.zeros([Q], work)
    if SMOOTH:
        total += empty
    y = tl.zeros([Q, MP], work)
    for k0 in range(0, n, K):
        keys = k0 + tl.arange(0, K)
        real = keys < n
        s = tl.zeros([Q, K], work)
        for c in range(0, MP, C):
            key = load_columns(g, keys, real, c, M, M, C)
            s = dot(tl.load(t_rows + (rows[:, None] * MP + (c + tl.arange(0, C))[None, :])), key, s, PREC)
        k_0, k_1, k_2, w_k = load_four(gate, keys, real)
        k_length = _length(lengths, keys, real, 1, NORMALIZE, work)
        v_length = _length(lengths, keys, real, 2, NORMALIZE, work)
        x = _logits(s, rest, a_q, w_q, w_k / k_length, w_k, real, SMOOTH)
        higher = tl.maximum(top, tl.max(x, axis=1))
        less = tl.exp(top - higher)
        e = tl.exp(x - higher[:, None])
        total = total * less + tl.sum(e, axis=1)
        w = e * _gate_of(q0, q1, q2, k_0 / v_length, k_1 / v_length, k_2 / v_length, DOTR)
        total_w = total_w * less + tl.sum(w, axis=1)
        y = dot(w, load_rows(g, keys, real, 0, M, M, MP), y * less[:, None], PREC)
        top = higher
    total = tl.where(total > 0, total, 1.0)
    return y / total[:, None], total_w / total, rest, top + tl.log(total)


@triton.jit
def _normalize(z, cols, M: tl.constexpr, EPS: tl.constexpr):
    """x̂ and 1/std of LayerNorm over the M columns that count."""
    mean = tl.sum(z, axis=1) / M
    z = tl.where((cols < M)[None, :], z - mean[:, None], 0.0)
    rstd = 1.0 / tl.sqrt(tl.sum(z * z, axis=1) / M + EPS)
    return z * rstd[:, None], rstd


@triton.jit
def _output(
    g, y, total_w, y_rows, rows, mask, matrices, vectors,
    M: tl.constexpr, MP: tl.constexpr, C: tl.constexpr, EPS: tl.constexpr, PREC: tl.constexpr,
):  # fmt: skip
    """x̂ (Q, MP) and 1/std of z = g + y W_vo + (Σ w) b_vo + b_out; y is put down in ``y_rows``."""
    cols = tl.arange(0, MP)
    tl.store(y_rows + (rows[:, None] * MP + cols[None, :]), y)
    z = load_rows(g, rows, mask, 0, M, M, MP) + tl.load(vectors + OUT * MP + cols)[None, :]
    z += total_w[:, None] * tl.load(vectors + TO_VALUE * MP + cols)[None, :]
    tl.debug_barrier()
    z = times_matrix(z, y_rows, rows, mask, matrices + VALUES * MP * MP, MP, MP, MP, C, PREC)
    return _normalize(z, cols, M, EPS)


@triton.jit(do_not_specialize=["atoms", "blocks"])
def _gated_attention_fwd_kernel(
    at, count, empty,  # (B,) first edge in the chunk: at − at[0], int64; neighbours, empty slots that the softmax sees
    g, row, gate, lengths,  # (edges of the chunk, M), (…, 4), (…, 4), (…, 3)
    g_out, lengths_out,  # out, not for the last layer
    moments,  # (B, blocks, 4, MP) out, for the last layer
    scratch,  # (programs, 2, rows, MP)
    matrices, vectors,  # this layer's
    next_factors, next_biases,  # how the next layer's lengths are found
    atoms, blocks,
    SCALE: tl.constexpr, EPS: tl.constexpr, SMOOTH: tl.constexpr, DOTR: tl.constexpr, NORMALIZE: tl.constexpr,
    LAST: tl.constexpr, M: tl.constexpr, MP: tl.constexpr, LW: tl.constexpr,
    Q: tl.constexpr, K: tl.constexpr, C: tl.constexpr, PREC: tl.constexpr,
):  # fmt: skip
    """Programs walk over (atom, block of Q rows)."""
    cols = tl.arange(0, MP)
    own = scratch + tl.program_id(0).to(tl.int64) * (2 * Q * MP)
    for item in range(tl.program_id(0), atoms * blocks, tl.num_programs(0)):
        b, block = item // blocks, item % blocks
        n = tl.load(count + b)
        if block * Q < n:
            local = tl.load(at + b) - tl.load(at)
            rows = block * Q + tl.arange(0, Q)
            mask = rows < n
            # Scratch holds this block's rows alone.
            t_rows, y_rows = own - block * (Q * MP), own + Q * MP - block * (Q * MP)
            y, total_w, _rest, _log_z = _attend(
                g + local * M, gate + local * 4, lengths + local * 3, t_rows, n, tl.load(empty + b), rows, mask,
                matrices, vectors, SCALE, SMOOTH, DOTR, NORMALIZE, M, MP, Q, K, C, PREC,
            )  # fmt: skip
            x, _rstd = _output(
                g + local * M, y, total_w, y_rows, rows, mask, matrices, vectors, M, MP, C, EPS, PREC
            )  # fmt: skip
            x = x * tl.load(vectors + GAMMA * MP + cols)[None, :] + tl.load(vectors + BETA * MP + cols)[None, :]
            if LAST:
                s, a, b_, c = load_four(row + local * 4, rows, mask)
                store_moments(moments + tl.full((), 4 * MP, tl.int64) * item, x, s, a, b_, c, MP)
            else:
                base = g_out + local * M
                tl.store(base + (rows[:, None] * M + cols[None, :]), x, mask=mask[:, None] & (cols < M)[None, :])
                if NORMALIZE:
                    tl.debug_barrier()
                    lengths_of(
                        base, rows, mask, lengths_out + local * 3, next_factors, next_biases, M, MP, LW, Q, C, PREC
                    )  # fmt: skip


@triton.jit
def _by_query(
    g, row, gate, lengths, d_g, d_row, d_x, t_rows, y_rows, z_rows, stats, n, empty, rows, mask, matrices, vectors,
    SCALE: tl.constexpr, EPS: tl.constexpr, SMOOTH: tl.constexpr, DOTR: tl.constexpr, NORMALIZE: tl.constexpr,
    LAST: tl.constexpr, M: tl.constexpr, MP: tl.constexpr,
    Q: tl.constexpr, K: tl.constexpr, C: tl.constexpr, PREC: tl.constexpr,
):  # fmt: skip
    """What Q rows receive as queries. Leaves t, ȳ and dE/dg so far in scratch, numbers per row in
    ``stats``."""
    work = gate.dtype.element_ty
    cols = tl.arange(0, MP)
    inside = mask[:, None] & (cols < M)[None, :]
    y, total_w, rest, log_z = _attend(
        g, gate, lengths, t_rows, n, empty, rows, mask, matrices, vectors,
        SCALE, SMOOTH, DOTR, NORMALIZE, M, MP, Q, K, C, PREC,
    )  # fmt: skip
    normed, rstd = _output(g, y, total_w, y_rows, rows, mask, matrices, vectors, M, MP, C, EPS, PREC)
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
    d_total = tl.sum(d_z * tl.load(vectors + TO_VALUE * MP + cols)[None, :], axis=1)
    tl.store(z_rows + (rows[:, None] * MP + cols[None, :]), d_z)
    tl.debug_barrier()
    d_y = times_matrix(
        tl.zeros([Q, MP], work), z_rows, rows, mask, matrices + VALUES_T * MP * MP, MP, MP, MP, C, PREC
    )  # fmt: skip
    y = tl.load(y_rows + (rows[:, None] * MP + cols[None, :]))
    delta = tl.sum(d_y * y, axis=1) + d_total * total_w
    tl.debug_barrier()
    tl.store(y_rows + (rows[:, None] * MP + cols[None, :]), d_y)
    tl.debug_barrier()
    q0, q1, q2, w_q = load_four(gate, rows, mask)
    length = _length(lengths, rows, mask, 0, NORMALIZE, work)
    a_q = SCALE * w_q / length
    along, shifts = tl.zeros([Q], work), tl.zeros([Q], work)
    d_0, d_1, d_2 = tl.zeros([Q], work), tl.zeros([Q], work), tl.zeros([Q], work)
    d_rest = tl.zeros([Q], work)
    d_t = tl.zeros([Q, MP], work)
    for k0 in range(0, n, K):
        keys = k0 + tl.arange(0, K)
        real = keys < n
        s, v = tl.zeros([Q, K], work), tl.zeros([Q, K], work)
        for c in range(0, MP, C):
            key = load_columns(g, keys, real, c, M, M, C)
            s = dot(tl.load(t_rows + (rows[:, None] * MP + (c + tl.arange(0, C))[None, :])), key, s, PREC)
            v = dot(tl.load(y_rows + (rows[:, None] * MP + (c + tl.arange(0, C))[None, :])), key, v, PREC)
        k_0, k_1, k_2, w_k = load_four(gate, keys, real)
        k_length = _length(lengths, keys, real, 1, NORMALIZE, work)
        v_length = _length(lengths, keys, real, 2, NORMALIZE, work)
        k_0, k_1, k_2, a_k = k_0 / v_length, k_1 / v_length, k_2 / v_length, w_k / k_length
        x = _logits(s, rest, a_q, w_q, a_k, w_k, real, SMOOTH)
        p = tl.exp(x - log_z[:, None])
        v += d_total[:, None]
        d_x_ = p * (v * _gate_of(q0, q1, q2, k_0, k_1, k_2, DOTR) - delta[:, None])
        v = v * p
        d_0 += tl.sum(v * k_0[None, :], axis=1)
        if DOTR:
            d_1 += tl.sum(v * k_1[None, :], axis=1)
            d_2 += tl.sum(v * k_2[None, :], axis=1)
        along += tl.sum(tl.where(real[None, :], d_x_ * x, 0.0), axis=1)
        if SMOOTH:
            shifts += tl.sum(d_x_ * w_k[None, :], axis=1)
        d_s_ = d_x_ * a_q[:, None] * a_k[None, :]
        d_rest += tl.sum(d_s_, axis=1)
        d_t = dot(d_s_, load_rows(g, keys, real, 0, M, M, MP), d_t, PREC)
    d_z = tl.load(z_rows + (rows[:, None] * MP + cols[None, :]))
    d_z += d_rest[:, None] * tl.load(vectors + TO_REST * MP + cols)[None, :]
    tl.debug_barrier()
    tl.store(z_rows + (rows[:, None] * MP + cols[None, :]), d_t)
    tl.debug_barrier()
    d_z = times_matrix(d_z, z_rows, rows, mask, matrices + LOGITS_T * MP * MP, MP, MP, MP, C, PREC)
    tl.debug_barrier()
    tl.store(z_rows + (rows[:, None] * MP + cols[None, :]), d_z)
    d_w = tl.where(w_q != 0, along / w_q, 0.0)
    pull = -(along - SHIFT * w_q * shifts if SMOOTH else along) / (length * length)
    numbers = stats + rows * 9
    tl.store(numbers, rest)
    tl.store(numbers + 1, log_z)
    tl.store(numbers + 2, delta)
    tl.store(numbers + 3, d_total)
    tl.store(numbers + 4, pull)
    tl.store(numbers + 5, d_0)
    tl.store(numbers + 6, d_1)
    tl.store(numbers + 7, d_2)
    tl.store(numbers + 8, d_w)


@triton.jit
def _by_key(
    g, gate, lengths, t_rows, y_rows, z_rows, stats, n, keys, real, matrices, vectors,
    SCALE: tl.constexpr, SMOOTH: tl.constexpr, DOTR: tl.constexpr, NORMALIZE: tl.constexpr,
    M: tl.constexpr, MP: tl.constexpr, Q: tl.constexpr, K: tl.constexpr, C: tl.constexpr, PREC: tl.constexpr,
):  # fmt: skip
    """dE/dg (K, MP) of K rows, all that ``_by_query`` found included, and dE/d(gate), four columns."""
    work = gate.dtype.element_ty
    cols = tl.arange(0, MP)
    k_0, k_1, k_2, w_k = load_four(gate, keys, real)
    k_length = _length(lengths, keys, real, 1, NORMALIZE, work)
    v_length = _length(lengths, keys, real, 2, NORMALIZE, work)
    k_0, k_1, k_2, a_k = k_0 / v_length, k_1 / v_length, k_2 / v_length, w_k / k_length
    along, shifts = tl.zeros([K], work), tl.zeros([K], work)
    d_0, d_1, d_2 = tl.zeros([K], work), tl.zeros([K], work), tl.zeros([K], work)
    acc = tl.zeros([K, MP], work)
    for q in range(0, n, Q):
        rows = q + tl.arange(0, Q)
        mask = rows < n
        s, v = tl.zeros([K, Q], work), tl.zeros([K, Q], work)
        for c in range(0, MP, C):
            key = load_rows(g, keys, real, c, M, M, C)
            s = dot(key, load_columns(t_rows, rows, mask, c, MP, MP, C), s, PREC)
            v = dot(key, load_columns(y_rows, rows, mask, c, MP, MP, C), v, PREC)
        numbers = stats + rows * 9
        rest, log_z = tl.load(numbers, mask=mask, other=0.0), tl.load(numbers + 1, mask=mask, other=0.0)
        delta, d_total = tl.load(numbers + 2, mask=mask, other=0.0), tl.load(numbers + 3, mask=mask, other=0.0)
        q0, q1, q2, w_q = load_four(gate, rows, mask)
        length = _length(lengths, rows, mask, 0, NORMALIZE, work)
        a_q = SCALE * w_q / length
        x = (s + rest[None, :]) * a_k[:, None] * a_q[None, :]
        if SMOOTH:
            x += SHIFT * w_k[:, None] * w_q[None, :]
        p = tl.where(real[:, None] & mask[None, :], tl.exp(x - log_z[None, :]), 0.0)
        v += d_total[None, :]
        w = _gate_of(k_0, k_1, k_2, q0, q1, q2, DOTR)
        d_x = p * (v * w - delta[None, :])
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
        acc = dot(d_x, load_rows(t_rows, rows, mask, 0, MP, MP, MP), acc, PREC)
        acc = dot(w, load_rows(y_rows, rows, mask, 0, MP, MP, MP), acc, PREC)
    acc += load_rows(z_rows, keys, real, 0, MP, MP, MP)
    numbers = stats + keys * 9
    if NORMALIZE:
        pull_q = tl.load(numbers + 4, mask=real, other=0.0)
        pull_k = -(along - SHIFT * w_k * shifts if SMOOTH else along) / (k_length * k_length)
        pull_v = -(d_0 * k_0 + d_1 * k_1 + d_2 * k_2) / (v_length * v_length)
        for which in tl.static_range(0, 3):
            pull = pull_q if which == 0 else (pull_k if which == 1 else pull_v)
            acc += pull[:, None] * tl.load(vectors + (SQUARES_ROW + which) * MP + cols)[None, :]
            for k in range(0, MP, C):
                a = load_rows(g, keys, real, k, M, M, C) * pull[:, None]
                part = matrices + (SQUARES + which) * MP * MP + ((k + tl.arange(0, C))[:, None] * MP + cols[None, :])
                acc = dot(a, tl.load(part), acc, PREC)
    d_w = tl.load(numbers + 8, mask=real, other=0.0) + tl.where(w_k != 0, along / w_k, 0.0)
    d_0 = d_0 / v_length + tl.load(numbers + 5, mask=real, other=0.0)
    d_1 = d_1 / v_length + tl.load(numbers + 6, mask=real, other=0.0)
    d_2 = d_2 / v_length + tl.load(numbers + 7, mask=real, other=0.0)
    return acc, d_0, d_1, d_2, d_w


@triton.jit(do_not_specialize=["atoms"])
def _gated_attention_bwd_kernel(
    at, count, empty,  # (B,)
    g, row, gate, lengths,  # (edges of the chunk, M), (…, 4), (…, 4), (…, 3)
    d_g,  # (edges of the chunk, M) in (but for the last layer) and out (but for the first)
    d_row, d_gate,  # (edges of the chunk, 4); added up from layer to layer
    d_x,  # (B, 4, MP) dE/dX, for the last layer
    scratch, stats,  # (programs, 3, rows, MP), (programs, rows, STATS)
    matrices, vectors,  # this layer's
    neighbor_type, first, center_type, net, factors,  # for the first layer
    atoms, scratch_rows,
    SCALE: tl.constexpr, EPS: tl.constexpr, SMOOTH: tl.constexpr, DOTR: tl.constexpr, NORMALIZE: tl.constexpr,
    FIRST: tl.constexpr, LAST: tl.constexpr,
    TYPES: tl.constexpr, STRIP: tl.constexpr,
    WIDTHS: tl.constexpr, RESIDUALS: tl.constexpr, STARTS: tl.constexpr, KIND: tl.constexpr, T: tl.constexpr,
    M: tl.constexpr, MP: tl.constexpr,
    Q: tl.constexpr, K: tl.constexpr, C: tl.constexpr, E: tl.constexpr, PREC: tl.constexpr,
):  # fmt: skip
    """Programs walk over atoms. After the first layer comes the embedding: d_row and d_gate then hold all that the
    environment needs."""
    cols = tl.arange(0, MP)
    program = tl.program_id(0).to(tl.int64)
    t_rows = scratch + program * scratch_rows * (3 * MP)
    y_rows = t_rows + scratch_rows * MP
    z_rows = y_rows + scratch_rows * MP
    own_stats = stats + program * scratch_rows * STATS
    for b in range(tl.program_id(0), atoms, tl.num_programs(0)):
        n = tl.load(count + b)
        moment = d_x + tl.full((), 4 * MP, tl.int64) * b
        local = tl.load(at + b) - tl.load(at)
        for q in range(0, n, Q):
            zero = _fresh_zero(count, b, n)
            rows = q + tl.arange(0, Q)
            _by_query(
                g + local * M, row + local * 4, gate + local * 4, lengths + local * 3, d_g + local * M,
                d_row + local * 4, moment, t_rows, y_rows, z_rows, own_stats, n, tl.load(empty + b), rows, rows < n,
                matrices + zero, vectors + zero, SCALE, EPS, SMOOTH, DOTR, NORMALIZE, LAST, M, MP, Q, K, C, PREC,
            )  # fmt: skip
        tl.debug_barrier()
        # Here keys come in blocks of Q rows, and queries pass by K at a time: weights are read once a block.
        for k in range(0, n, Q):
            zero = _fresh_zero(count, b, n)
            keys = k + tl.arange(0, Q)
            real = keys < n
            acc, d_0, d_1, d_2, d_w = _by_key(
                g + local * M, gate + local * 4, lengths + local * 3, t_rows, y_rows, z_rows, own_stats,
                n, keys, real, matrices + zero, vectors + zero, SCALE, SMOOTH, DOTR, NORMALIZE, M, MP, K, Q, C, PREC,
            )  # fmt: skip
            if not LAST:
                e_0, e_1, e_2, e_w = load_four(d_gate + local * 4, keys, real)
                d_0, d_1, d_2, d_w = d_0 + e_0, d_1 + e_1, d_2 + e_2, d_w + e_w
            if FIRST:
                tl.store(z_rows + (keys[:, None] * MP + cols[None, :]), acc)
                store_four(own_stats + 10 * scratch_rows, keys, real, d_0, d_1, d_2, d_w)
            else:
                tl.store(
                    d_g + local * M + (keys[:, None] * M + cols[None, :]), acc,
                    mask=real[:, None] & (cols < M)[None, :],
                )  # fmt: skip
                store_four(d_gate + local * 4, keys, real, d_0, d_1, d_2, d_w)
        tl.debug_barrier()
        if FIRST:
            type_i, edge = tl.load(center_type + b), tl.load(first + b).to(tl.int64)
            for e in range(0, n, E):
                zero = _fresh_zero(count, b, n)
                edges = e + tl.arange(0, E)
                real_e = edges < n
                d_s, d_a, d_b, d_c = load_four(d_row + local * 4, edges, real_e)
                u_0, u_1, u_2, u_w = load_four(own_stats + 10 * scratch_rows, edges, real_e)
                s, x, y, z = load_four(row + local * 4, edges, real_e)
                sw = tl.load(gate + local * 4 + 3 + edges * 4, mask=real_e, other=0.0)
                pair = pairs_of_types(neighbor_type + edge, edges, real_e, type_i, TYPES)
                d_s, d_a, d_b, d_c, d_sw = row_bwd(
                    load_rows(z_rows, edges, real_e, 0, MP, MP, MP), d_s, d_a, d_b, d_c, u_0, u_1, u_2, u_w,
                    s, x, y, z, sw, pair, net + zero, factors, zero,
                    SMOOTH, DOTR, STRIP, True, WIDTHS, RESIDUALS, STARTS, KIND, T, MP, PREC,
                )  # fmt: skip
                store_four(d_row + local * 4, edges, real_e, d_s, d_a, d_b, d_c)
                tl.store(d_gate + local * 4 + 3 + edges * 4, d_sw, mask=real_e)
            tl.debug_barrier()
