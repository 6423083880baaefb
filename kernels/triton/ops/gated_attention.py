"""One layer of neighbour-wise gated attention (``reference.gated_attention_layer``).

Keys and values are the embeddings g themselves: with ĝ = [g, 1] and Ŵ = [W; b],

    q·k = t·g_k + r,   t = ĝ_q Ŵ_q Ŵ_kᵀ (its first M columns), r its last,      (w v) W_out = (w g) W_vo + (Σ w) b_vo

so that nothing but g is read for a neighbour, and everything that stands between is made on chip. With a_q =
scale·sw_q/|q|, a_k = sw_k/|k|, u = r̂·sw (``environment.gate_fwd``), p the softmax and G = u_q·u_k/|v_k|:

    x = (q·k) a_q a_k + 20 sw_q sw_k,   p = e^x/(Σ_real e^x + n_empty),   w = p G,
    z = g + (w g) W_vo + (Σ w) b_vo + b_out,   g' = LayerNorm(z)

(every logit is raised by 20, so that an empty slot has logit 0). Back from z̄, with ȳ = z̄ W_voᵀ, w̄_k = ȳ·g_k + z̄·b_vo:

    δ = Σ_k w̄ w = z̄·((w g) W_vo + (Σ w) b_vo),      x̄ = p (w̄ G − δ),      S = x̄ a_q a_k
    query:   ḡ += z̄ + (S g) (Ŵ_q Ŵ_kᵀ)ᵀ,   ū += Σ_k w̄ p u_k/|v_k|
    key:     ḡ += Sᵀ t + wᵀ ȳ,   β̄ = Σ_q w̄ p u_q,   ū += β̄/|v|
    lengths: x − 20 sw_q sw_k goes as 1/|q|: ḡ −= (Σ_k x̄ (x − 20 sw_q sw_k)/|q|²) ĝ P_q, P_q = Ŵ_q Ŵ_qᵀ; likewise k;
             w goes as 1/|v|: ḡ −= (β̄·u/|v|)/|v|² ĝ P_v;      sw̄ = Σ x̄ x/sw, over keys and over queries.

The backward evaluates its layer again: nothing is kept between forward and backward but each layer's input and the
three lengths. Forward stands here, backward in ``gated_attention_bwd.py``.

A program takes whole atoms, phase by phase: t; scores and y; products with W_vo; LayerNorm; and back. Each phase has
the tile that suits it: products with weights and scores take as many rows as registers hold, B, since every block of
rows reads all weights, or all keys, K of which pass by at a time; what goes row by row takes few rows, so that vectors
over channels are short. In scores what stays is the right operand, with one row of the product for each that passes
by: warps share the right operand's columns and would each hold all of the left one. What a phase has made it puts down
in ``scratch``, or among the ``operands`` what only products read; both belong to the program and are used again for
its next atom, so they stay in the cache. A barrier stands between phases.
"""

from __future__ import annotations

import triton
import triton.language as tl

from .embedding import lengths_of
from .products import dot, load_columns, load_four, load_matrix, load_rows, store_rows, times_matrix

SHIFT: tl.constexpr = tl.constexpr(20.0)

# Where a layer's numbers stand in ``matrices`` (MP·MP each) and ``vectors`` (MP each); packing.py puts them there.
LOGITS: tl.constexpr = tl.constexpr(0)
LOGITS_T: tl.constexpr = tl.constexpr(1)
SQUARES: tl.constexpr = tl.constexpr(2)  # three
VALUES: tl.constexpr = tl.constexpr(5)
VALUES_T: tl.constexpr = tl.constexpr(6)

TO_KEY: tl.constexpr = tl.constexpr(0)
TO_REST: tl.constexpr = tl.constexpr(1)
SQUARES_ROW: tl.constexpr = tl.constexpr(2)  # three
REST: tl.constexpr = tl.constexpr(5)
NORM: tl.constexpr = tl.constexpr(6)  # four, which are:
TO_VALUE: tl.constexpr = tl.constexpr(0)
OUT: tl.constexpr = tl.constexpr(1)
GAMMA: tl.constexpr = tl.constexpr(2)
BETA: tl.constexpr = tl.constexpr(3)


# Numbers of a row that a program keeps, one column of ``stats`` each.
REST_Q: tl.constexpr = tl.constexpr(0)
LOG_Z: tl.constexpr = tl.constexpr(1)
DELTA: tl.constexpr = tl.constexpr(2)
D_TOTAL: tl.constexpr = tl.constexpr(3)
TOTAL_W: tl.constexpr = tl.constexpr(4)
BETA_K: tl.constexpr = tl.constexpr(5)  # three
A_K: tl.constexpr = tl.constexpr(8)
A_Q: tl.constexpr = tl.constexpr(9)
D_REST: tl.constexpr = tl.constexpr(10)
BY_QUERY: tl.constexpr = tl.constexpr(11)  # five: gate's three, along and shifts
BY_KEY: tl.constexpr = tl.constexpr(16)  # five
PULL: tl.constexpr = tl.constexpr(21)  # three: how each length pulls at g
NUMBERS: tl.constexpr = tl.constexpr(24)

STEP: tl.constexpr = tl.constexpr(16)

WIDE: tl.constexpr = tl.constexpr(2)
"""Rows of a program's scratch for each neighbour, side by side: z (later z̄, then dE/dg), S g."""

KEPT: tl.constexpr = tl.constexpr(3)
"""Rows of operands for each neighbour, in the products' precision: t, y (later ȳ), and where that is narrower, g."""

NORM_ROWS: tl.constexpr = tl.constexpr(32)
"""Rows at a time of what goes row by row."""


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
def place(rows):
    """Where the numbers of rows begin in ``stats``: sixteen rows' first numbers, their second ones, and so on."""
    return rows // STEP * (STEP * NUMBERS) + rows % STEP


@triton.jit
def _prepare(
    gate, lengths, stats, rows, mask, SCALE: tl.constexpr, NORMALIZE: tl.constexpr,
):  # fmt: skip
    """Puts down a_q, a_k and β = u/|v| of rows, which are needed once per pair of blocks."""
    u0, u1, u2, w = load_four(gate, rows, mask)
    work = gate.dtype.element_ty
    v_length = _length(lengths, rows, mask, 2, NORMALIZE, work)
    own = stats + place(rows)
    tl.store(own + BETA_K * STEP, u0 / v_length, mask=mask)
    tl.store(own + (BETA_K + 1) * STEP, u1 / v_length, mask=mask)
    tl.store(own + (BETA_K + 2) * STEP, u2 / v_length, mask=mask)
    tl.store(own + A_K * STEP, w / _length(lengths, rows, mask, 1, NORMALIZE, work), mask=mask)
    tl.store(own + A_Q * STEP, SCALE * w / _length(lengths, rows, mask, 0, NORMALIZE, work), mask=mask)


@triton.jit
def _outer(a_0, a_1, a_2, b_0, b_1, b_2, DOTR: tl.constexpr):
    """u_q·β_k of all pairs."""
    out = a_0[:, None] * b_0[None, :]
    if DOTR:
        out += a_1[:, None] * b_1[None, :] + a_2[:, None] * b_2[None, :]
    return out


@triton.jit
def _logits(s, a, w_a, b, w_b, SMOOTH: tl.constexpr):
    """x of all pairs from q·k, a_q and a_k, sw_q and sw_k."""
    x = s * a[:, None] * b[None, :]
    if SMOOTH:
        x += SHIFT * w_a[:, None] * w_b[None, :]
    return x


@triton.jit
def _logit_rows(
    g, own_operands, rows, mask, zero, matrices, vectors, NARROW: tl.constexpr,
    M: tl.constexpr, MP: tl.constexpr, R: tl.constexpr, W: tl.constexpr, PREC: tl.constexpr,
):  # fmt: skip
    """t (R, MP) and r (R,) of rows of g, which are put among the operands where those are narrower."""
    work = vectors.dtype.element_ty
    cols = zero + tl.arange(0, MP)
    t = tl.zeros([R, MP], work) + tl.load(vectors + TO_KEY * MP + cols)[None, :]
    rest = tl.zeros([R], work) + tl.load(vectors + REST * MP)
    for k in range(0, MP, W):
        a = load_rows(g, rows, mask, k, M, M, W)
        if NARROW:
            store_rows(own_operands + 2 * MP, rows, mask, a, k, M, KEPT * MP, W)
        rest += tl.sum(a.to(work) * tl.load(vectors + TO_REST * MP + k + tl.arange(0, W))[None, :], axis=1)
        t = dot(a, load_matrix(matrices + LOGITS * MP * MP, k, zero, M, M, MP, W, MP), t, PREC)
    return t, rest


@triton.jit
def _attend(
    g, gate, own_operands, stats, n, empty, rows, mask, zero, SMOOTH: tl.constexpr, DOTR: tl.constexpr,
    M: tl.constexpr, STRIDE: tl.constexpr, MP: tl.constexpr,
    Q: tl.constexpr, K: tl.constexpr, C: tl.constexpr, PREC: tl.constexpr,
):  # fmt: skip
    """Attention of Q rows, whose t lies among the operands, to all n neighbours: y = w g (Q, MP), Σ w, log Z."""
    work = gate.dtype.element_ty
    own = stats + place(rows)
    rest = tl.load(own + REST_Q * STEP, mask=mask, other=0.0)
    a_q = tl.load(own + A_Q * STEP, mask=mask, other=0.0)
    q_0, q_1, q_2, w_q = load_four(gate, rows, mask)
    # The softmax starts from its empty slots, which have logit 0. Where there are none (exactly ``sel`` neighbours, or
    # a hard softmax) it starts from nothing, however low the first logits lie; every block has a key that is real.
    top = tl.full([Q], float("-inf"), work)
    total, total_w = tl.zeros([Q], work), tl.zeros([Q], work)
    if SMOOTH:
        total += empty
        top = tl.where(total > 0, 0.0, top)
    y = tl.zeros([Q, MP], work)
    if C == MP:
        t = load_rows(own_operands, rows, mask, zero, M, KEPT * MP, MP)
    for k0 in range(0, n, K):
        keys = k0 + tl.arange(0, K)
        real = keys < n
        s = tl.zeros([K, Q], work)
        if C == MP:
            key = load_rows(g, keys, real, zero, M, STRIDE, MP)
            s = dot(key, tl.trans(t), s, PREC)
        else:
            for c in range(0, MP, C):
                part = load_columns(own_operands, rows, mask, c, M, KEPT * MP, C)
                s = dot(load_rows(g, keys, real, c, M, STRIDE, C), part, s, PREC)
        other = stats + place(keys)
        a_k = tl.load(other + A_K * STEP, mask=real, other=0.0)
        w_k = tl.load(gate + keys * 4 + 3, mask=real, other=0.0) if SMOOTH else a_k
        x = tl.where(real[:, None], _logits(s + rest[None, :], a_k, w_k, a_q, w_q, SMOOTH), float("-inf"))
        higher = tl.maximum(top, tl.max(x, axis=0))
        less = tl.exp(top - higher)
        e = tl.exp(x - higher[None, :])
        total = total * less + tl.sum(e, axis=0)
        k_0 = tl.load(other + BETA_K * STEP, mask=real, other=0.0)
        k_1 = tl.load(other + (BETA_K + 1) * STEP, mask=real, other=0.0)
        k_2 = tl.load(other + (BETA_K + 2) * STEP, mask=real, other=0.0)
        w = e * _outer(k_0, k_1, k_2, q_0, q_1, q_2, DOTR)
        total_w = total_w * less + tl.sum(w, axis=0)
        if C < MP:
            key = load_rows(g, keys, real, zero, M, STRIDE, MP)
        y = dot(tl.trans(w), key, y * less[:, None], PREC)
        top = higher
    total = tl.where(total > 0, total, 1.0)
    return y / total[:, None], total_w / total, top + tl.log(total)


@triton.jit
def _normalize(z, cols, M: tl.constexpr, EPS: tl.constexpr):
    """x̂ and 1/std of LayerNorm over the M columns that count."""
    mean = tl.sum(z, axis=1) / M
    z = tl.where((cols < M)[None, :], z - mean[:, None], 0.0)
    rstd = 1.0 / tl.sqrt(tl.sum(z * z, axis=1) / M + EPS)
    return z * rstd[:, None], rstd


@triton.jit
def _collect_moments(s_, a_, b_, c_, x, row, rows, mask):
    """Σ_j x_j ⊗ row_j over some rows more, four vectors (MP,)."""
    s, a, b, c = load_four(row, rows, mask)
    s_ += tl.sum(x * s[:, None], axis=0)
    a_ += tl.sum(x * a[:, None], axis=0)
    b_ += tl.sum(x * b[:, None], axis=0)
    return s_, a_, b_, c_ + tl.sum(x * c[:, None], axis=0)


@triton.jit
def _store_moments(moments, s, a, b, c, MP: tl.constexpr):
    """An atom's four vectors of moments."""
    cols = tl.arange(0, MP)
    tl.store(moments + cols, s)
    tl.store(moments + MP + cols, a)
    tl.store(moments + 2 * MP + cols, b)
    tl.store(moments + 3 * MP + cols, c)


@triton.jit
def _attended(
    at, count, empty, b, n, g, gate, lengths, operands, stats, program, matrices, vectors,
    SCALE: tl.constexpr, SMOOTH: tl.constexpr, DOTR: tl.constexpr, NORMALIZE: tl.constexpr,
    NARROW: tl.constexpr, M: tl.constexpr, MP: tl.constexpr, K: tl.constexpr, C: tl.constexpr, W: tl.constexpr,
    B: tl.constexpr, PREC: tl.constexpr,
):  # fmt: skip
    """All rows of atom b up to y = w g: leaves t and y among the operands, numbers of each row.

    Each phase finds its places anew, from a zero that the compiler can't see through, and forgets them: that is what
    keeps registers free.
    """
    for r in range(0, n, B):
        zero = _fresh_zero(count, b, n)
        e0 = tl.load(at + b) - tl.load(at) + zero
        own_operands, own_stats = operands + (program + zero) * (KEPT * MP), stats + (program + zero) * NUMBERS
        rows = r + zero + tl.arange(0, B)
        _prepare(gate + e0 * 4, lengths + e0 * 3, own_stats, rows, rows < n, SCALE, NORMALIZE)
        t, rest = _logit_rows(
            g + e0 * M, own_operands, rows, rows < n, zero, matrices + zero, vectors + zero, NARROW, M, MP, B, W, PREC
        )  # fmt: skip
        store_rows(own_operands, rows, rows < n, t, zero, M, KEPT * MP, MP)
        tl.store(own_stats + place(rows) + REST_Q * STEP, rest)
    tl.debug_barrier()
    for q in range(0, n, B):
        zero = _fresh_zero(count, b, n)
        e0 = tl.load(at + b) - tl.load(at) + zero
        own_operands, own_stats = operands + (program + zero) * (KEPT * MP), stats + (program + zero) * NUMBERS
        some = q + zero + tl.arange(0, B)
        y, total_w, log_z = _attend(
            own_operands + 2 * MP if NARROW else g + e0 * M, gate + e0 * 4, own_operands, own_stats, n,
            tl.load(empty + b), some, some < n, zero, SMOOTH, DOTR, M, KEPT * MP if NARROW else M, MP, B, K, C, PREC,
        )  # fmt: skip
        store_rows(own_operands + MP, some, some < n, y, zero, M, KEPT * MP, MP)
        tl.store(own_stats + place(some) + TOTAL_W * STEP, total_w)
        tl.store(own_stats + place(some) + LOG_Z * STEP, log_z)
    tl.debug_barrier()


@triton.jit
def _layer(
    at, count, empty, b, n, g, gate, lengths, scratch, operands, stats, program, matrices, vectors,
    SCALE: tl.constexpr, SMOOTH: tl.constexpr, DOTR: tl.constexpr, NORMALIZE: tl.constexpr,
    NARROW: tl.constexpr, M: tl.constexpr, MP: tl.constexpr, K: tl.constexpr, C: tl.constexpr, W: tl.constexpr,
    B: tl.constexpr, PREC: tl.constexpr,
):  # fmt: skip
    """All rows of atom b up to LayerNorm: leaves t among the operands, (w g) W_vo in scratch, numbers of each row."""
    _attended(
        at, count, empty, b, n, g, gate, lengths, operands, stats, program, matrices, vectors,
        SCALE, SMOOTH, DOTR, NORMALIZE, NARROW, M, MP, K, C, W, B, PREC,
    )  # fmt: skip
    for r in range(0, n, B):
        zero = _fresh_zero(count, b, n)
        rows = r + zero + tl.arange(0, B)
        z = tl.zeros([B, MP], g.dtype.element_ty)
        z = times_matrix(
            z, operands + (program + zero) * (KEPT * MP) + MP, rows, rows < n, zero,
            matrices + zero + VALUES * MP * MP, M, KEPT * MP, MP, W, PREC,
        )  # fmt: skip
        store_rows(scratch + (program + zero) * (WIDE * MP), rows, rows < n, z, zero, M, WIDE * MP, MP)
    tl.debug_barrier()


@triton.jit(do_not_specialize=["atoms"])
def _gated_attention_fwd_kernel(
    at, count, empty,  # (B,) first edge in the chunk: at − at[0], int64; neighbours, empty slots that the softmax sees
    g, row, gate,  # (edges of the chunk, M), (…, 4), (…, 4)
    lengths,  # (…, 3) out
    g_out,  # (edges of the chunk, M) out, not for the last layer
    moments,  # (B, 4, MP) out, for the last layer
    scratch, operands, stats,  # (programs, rows, WIDE, MP), (programs, rows, KEPT, MP), (programs, rows, NUMBERS)
    matrices, vectors,  # this layer's
    factors, biases,  # part of them: how lengths are found
    atoms, scratch_rows,
    SCALE: tl.constexpr, EPS: tl.constexpr, SMOOTH: tl.constexpr, DOTR: tl.constexpr, NORMALIZE: tl.constexpr,
    NARROW: tl.constexpr, LAST: tl.constexpr, M: tl.constexpr, MP: tl.constexpr, LM: tl.constexpr, LW: tl.constexpr,
    K: tl.constexpr, C: tl.constexpr, W: tl.constexpr, B: tl.constexpr, PREC: tl.constexpr,
):  # fmt: skip
    """Programs walk over atoms. C: chunk of the inner dimension of scores, W: of products with weights."""
    R: tl.constexpr = NORM_ROWS if NORM_ROWS < B else B
    cols = tl.arange(0, MP)
    program = tl.program_id(0).to(tl.int64) * scratch_rows
    for b in range(tl.program_id(0), atoms, tl.num_programs(0)):
        n = tl.load(count + b)
        if NORMALIZE:
            for r in range(0, n, B):
                zero = _fresh_zero(count, b, n)
                e0 = tl.load(at + b) - tl.load(at) + zero
                rows = r + zero + tl.arange(0, B)
                lengths_of(
                    g + e0 * M, rows, rows < n, zero, lengths + e0 * 3, factors + zero, biases + zero,
                    M, MP, LM, LW, B, W, PREC,
                )  # fmt: skip
            tl.debug_barrier()
        _layer(
            at, count, empty, b, n, g, gate, lengths, scratch, operands, stats, program, matrices, vectors,
            SCALE, SMOOTH, DOTR, NORMALIZE, NARROW, M, MP, K, C, W, B, PREC,
        )  # fmt: skip
        work = g.dtype.element_ty
        m_s, m_a = tl.zeros([MP], work), tl.zeros([MP], work)
        m_b, m_c = tl.zeros([MP], work), tl.zeros([MP], work)
        for r in range(0, n, R):
            zero = _fresh_zero(count, b, n)
            e0 = tl.load(at + b) - tl.load(at) + zero
            few = r + zero + tl.arange(0, R)
            mask = few < n
            total_w = tl.load(stats + (program + zero) * NUMBERS + place(few) + TOTAL_W * STEP)
            z = load_rows(scratch + (program + zero) * (WIDE * MP), few, mask, zero, M, WIDE * MP, MP)
            norm = vectors + zero + NORM * MP
            z += total_w[:, None] * tl.load(norm + TO_VALUE * MP + cols)[None, :]
            z += load_rows(g + e0 * M, few, mask, zero, M, M, MP) + tl.load(norm + OUT * MP + cols)[None, :]
            x, _rstd = _normalize(z, cols, M, EPS)
            gamma, beta = tl.load(norm + GAMMA * MP + cols), tl.load(norm + BETA * MP + cols)
            x = x * gamma[None, :] + beta[None, :]
            if LAST:
                m_s, m_a, m_b, m_c = _collect_moments(m_s, m_a, m_b, m_c, x, row + e0 * 4, few, mask)
            else:
                store_rows(g_out + e0 * M, few, mask, x, zero, M, M, MP)
        if LAST:
            base = moments + tl.full((), 4 * MP, tl.int64) * b
            _store_moments(base, m_s, m_a, m_b, m_c, MP)
