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

Forward stands here, backward in ``gated_attention_bwd.py``, each phase as a kernel of its own:

    project   |q|, |k|, |v|; t                                          rows
    scores    softmax and gate of all pairs, y = w g                    queries of an atom
    output    z = g + y W_vo + …, LayerNorm; moments after the last     rows

A program takes one block of one atom's rows and is small, so that a multiprocessor holds several and one computes while
others wait (one program that went through all phases of an atom took 1.4 times as long, see kernels/README.md). What a
phase makes lies in the chunk's arrays, where an atom's rows begin at a multiple of ``chunks.ROWS``: ``operands``, what
only products read, in their precision; ``stats``, numbers of each row; ``scratch`` in the backward pass, which finds t,
and the numbers of the softmax where the forward pass has put them. In scores what stays is the right operand, with one
row of the product for each that passes by: warps share the right operand's columns and would each hold all of the left.
"""

from __future__ import annotations

import triton
import triton.language as tl

from .embedding import lengths_of, store_moments
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


# Numbers of a row, one column of ``stats`` each.
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
"""Rows of scratch for each neighbour, side by side: z̄ (later dE/dg), S g."""

KEPT: tl.constexpr = tl.constexpr(3)
"""Rows of operands for each neighbour, in the products' precision: t, y (later ȳ), and where that is narrower, g."""


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
    g, own_operands, rows, mask, matrices, vectors, NARROW: tl.constexpr,
    M: tl.constexpr, MP: tl.constexpr, BLOCK_ROWS: tl.constexpr, BLOCK_INNER: tl.constexpr, PREC: tl.constexpr,
):  # fmt: skip
    """t (rows, MP) and r (rows,) of rows of g, which are put among the operands where those are narrower."""
    work = vectors.dtype.element_ty
    cols = tl.arange(0, MP)
    t = tl.zeros([BLOCK_ROWS, MP], work) + tl.load(vectors + TO_KEY * MP + cols)[None, :]
    rest = tl.zeros([BLOCK_ROWS], work) + tl.load(vectors + REST * MP)
    for k in range(0, MP, BLOCK_INNER):
        a = load_rows(g, rows, mask, k, M, M, BLOCK_INNER)
        if NARROW:
            store_rows(own_operands + 2 * MP, rows, mask, a, M, KEPT * MP, BLOCK_INNER, k)
        rest += tl.sum(a.to(work) * tl.load(vectors + TO_REST * MP + k + tl.arange(0, BLOCK_INNER))[None, :], axis=1)
        t = dot(a, load_matrix(matrices + LOGITS * MP * MP, k, 0, M, M, MP, BLOCK_INNER, MP), t, PREC)
    return t, rest


@triton.jit
def _attend(
    g, gate, own_operands, stats, n, empty, rows, mask, SMOOTH: tl.constexpr, DOTR: tl.constexpr,
    M: tl.constexpr, STRIDE: tl.constexpr, MP: tl.constexpr,
    BLOCK_QUERIES: tl.constexpr, BLOCK_KEYS: tl.constexpr, BLOCK_INNER: tl.constexpr, PREC: tl.constexpr,
):  # fmt: skip
    """Attention of BLOCK_QUERIES rows, whose t lies among the operands, to all n neighbours: y = w g
    (queries, MP), Σ w, log Z."""
    work = gate.dtype.element_ty
    own = stats + place(rows)
    rest = tl.load(own + REST_Q * STEP, mask=mask, other=0.0)
    a_q = tl.load(own + A_Q * STEP, mask=mask, other=0.0)
    q_0, q_1, q_2, w_q = load_four(gate, rows, mask)
    # The softmax starts from its empty slots, which have logit 0. Where there are none (exactly ``sel`` neighbours, or
    # a hard softmax) it starts from nothing, however low the first logits lie; every block has a key that is real.
    top = tl.full([BLOCK_QUERIES], float("-inf"), work)
    total, total_w = tl.zeros([BLOCK_QUERIES], work), tl.zeros([BLOCK_QUERIES], work)
    if SMOOTH:
        total += empty
        top = tl.where(total > 0, 0.0, top)
    y = tl.zeros([BLOCK_QUERIES, MP], work)
    if BLOCK_INNER == MP:
        t = load_rows(own_operands, rows, mask, 0, M, KEPT * MP, MP)
    for k0 in range(0, n, BLOCK_KEYS):
        keys = k0 + tl.arange(0, BLOCK_KEYS)
        real = keys < n
        s = tl.zeros([BLOCK_KEYS, BLOCK_QUERIES], work)
        if BLOCK_INNER == MP:
            key = load_rows(g, keys, real, 0, M, STRIDE, MP)
            s = dot(key, tl.trans(t), s, PREC)
        else:
            for c in range(0, MP, BLOCK_INNER):
                part = load_columns(own_operands, rows, mask, c, M, KEPT * MP, BLOCK_INNER)
                s = dot(load_rows(g, keys, real, c, M, STRIDE, BLOCK_INNER), part, s, PREC)
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
        if BLOCK_INNER < MP:
            key = load_rows(g, keys, real, 0, M, STRIDE, MP)
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
def _attention_project_kernel(
    at, count, center_type,  # (atoms,) first edge in the chunk: at − at[0], int64; neighbours, type
    g, gate,  # (edges of the chunk, M), (…, 4)
    lengths,  # (…, 3) out
    operands, stats,  # (…, KEPT, MP), (…, NUMBERS) out
    matrices, vectors,  # this layer's
    SCALE: tl.constexpr, NORMALIZE: tl.constexpr, NARROW: tl.constexpr,
    M: tl.constexpr, MP: tl.constexpr, FACTOR_REAL: tl.constexpr, FACTOR_WIDTH: tl.constexpr,
    MATRICES: tl.constexpr, VECTORS: tl.constexpr, FACTORS: tl.constexpr, BIASES: tl.constexpr,
    BLOCK_ROWS: tl.constexpr, BLOCK_INNER: tl.constexpr, PREC: tl.constexpr,
):  # fmt: skip
    """BLOCK_INNER: of the inner dimension. MATRICES, VECTORS: numbers of one centre type, 0 where all have the same;
    FACTORS, BIASES: where in them stands how lengths are found."""
    b, r = tl.program_id(0), tl.program_id(1) * BLOCK_ROWS
    n = tl.load(count + b)
    if r < n:
        e0 = tl.load(at + b) - tl.load(at)
        rows = r + tl.arange(0, BLOCK_ROWS)
        mask = rows < n
        if MATRICES > 0:
            matrices += tl.load(center_type + b) * MATRICES
            vectors += tl.load(center_type + b) * VECTORS
        if NORMALIZE:
            lengths_of(
                g + e0 * M, rows, mask, lengths + e0 * 3, matrices + FACTORS, vectors + BIASES, M, MP,
                FACTOR_REAL, FACTOR_WIDTH, BLOCK_ROWS, BLOCK_INNER, PREC,
            )  # fmt: skip
            tl.debug_barrier()
        own_operands, own_stats = operands + e0 * (KEPT * MP), stats + e0 * NUMBERS
        _prepare(gate + e0 * 4, lengths + e0 * 3, own_stats, rows, mask, SCALE, NORMALIZE)
        t, rest = _logit_rows(
            g + e0 * M, own_operands, rows, mask, matrices, vectors, NARROW, M, MP, BLOCK_ROWS, BLOCK_INNER, PREC
        )
        store_rows(own_operands, rows, mask, t, M, KEPT * MP, MP)
        tl.store(own_stats + place(rows) + REST_Q * STEP, rest, mask=mask)


@triton.jit
def _attention_scores_kernel(
    at, count, empty,  # (atoms,), (atoms,), (atoms,) empty slots that the softmax sees
    g, gate, operands, stats,
    SMOOTH: tl.constexpr, DOTR: tl.constexpr, NARROW: tl.constexpr, M: tl.constexpr, MP: tl.constexpr,
    BLOCK_QUERIES: tl.constexpr, BLOCK_KEYS: tl.constexpr, BLOCK_INNER: tl.constexpr, PREC: tl.constexpr,
):  # fmt: skip
    """BLOCK_QUERIES queries, which BLOCK_KEYS keys pass by at a time; BLOCK_INNER: of the inner dimension."""
    b, q = tl.program_id(0), tl.program_id(1) * BLOCK_QUERIES
    n = tl.load(count + b)
    if q < n:
        e0 = tl.load(at + b) - tl.load(at)
        own_operands, own_stats = operands + e0 * (KEPT * MP), stats + e0 * NUMBERS
        rows = q + tl.arange(0, BLOCK_QUERIES)
        y, total_w, log_z = _attend(
            own_operands + 2 * MP if NARROW else g + e0 * M, gate + e0 * 4, own_operands, own_stats, n,
            tl.load(empty + b), rows, rows < n, SMOOTH, DOTR, M, KEPT * MP if NARROW else M, MP,
            BLOCK_QUERIES, BLOCK_KEYS, BLOCK_INNER, PREC,
        )  # fmt: skip
        store_rows(own_operands + MP, rows, rows < n, y, M, KEPT * MP, MP)
        tl.store(own_stats + place(rows) + TOTAL_W * STEP, total_w, mask=rows < n)
        tl.store(own_stats + place(rows) + LOG_Z * STEP, log_z, mask=rows < n)


@triton.jit(do_not_specialize=["blocks"])
def _attention_output_kernel(
    at, count, g, row, operands, stats,
    attended,  # (edges of the chunk, MP) out: (w g) W_vo + (Σ w) b_vo, for the backward pass
    g_out,  # (edges of the chunk, M) out, not for the last layer
    moments,  # (atoms, blocks, 4, MP) out, for the last layer
    matrices, vectors, blocks,
    EPS: tl.constexpr, LAST: tl.constexpr, M: tl.constexpr, MP: tl.constexpr,
    BLOCK_ROWS: tl.constexpr, BLOCK_INNER: tl.constexpr, PREC: tl.constexpr,
):  # fmt: skip
    b, block = tl.program_id(0), tl.program_id(1)
    n = tl.load(count + b)
    if block * BLOCK_ROWS < n:
        e0 = tl.load(at + b) - tl.load(at)
        rows = block * BLOCK_ROWS + tl.arange(0, BLOCK_ROWS)
        mask = rows < n
        cols = tl.arange(0, MP)
        norm = vectors + NORM * MP
        total_w = tl.load(stats + e0 * NUMBERS + place(rows) + TOTAL_W * STEP, mask=mask, other=0.0)
        added = times_matrix(
            total_w[:, None] * tl.load(norm + TO_VALUE * MP + cols)[None, :], operands + e0 * (KEPT * MP) + MP,
            rows, mask, matrices + VALUES * MP * MP, M, KEPT * MP, MP, BLOCK_INNER, PREC,
        )  # fmt: skip
        store_rows(attended + e0 * MP, rows, mask, added, M, MP, MP)
        z = added + load_rows(g + e0 * M, rows, mask, 0, M, M, MP) + tl.load(norm + OUT * MP + cols)[None, :]
        x, _rstd = _normalize(z, cols, M, EPS)
        x = x * tl.load(norm + GAMMA * MP + cols)[None, :] + tl.load(norm + BETA * MP + cols)[None, :]
        if LAST:
            s, a, b_, c = load_four(row + e0 * 4, rows, mask)
            store_moments(moments + (b.to(tl.int64) * blocks + block) * (4 * MP), x, s, a, b_, c, MP)
        else:
            store_rows(g_out + e0 * M, rows, mask, x, M, M, MP)
