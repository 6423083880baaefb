"""The embedding of a neighbour, forward and backward, and what surrounds it: environment before, contraction after.

The first layer is linear in [s, T_j, T_i] before its activation: its type part is a table over pairs of types. The
others are products with their weights on chip, y = act(xW + b)·idt (+ x, or + [x, x]), and back

    x̄ = (ȳ·act′·idt) Wᵀ (+ ȳ, or + both halves of ȳ).

Channels stand in an order that makes [x, x] an interleaving of registers: where a layer doubles its width, channel
2k + h is the k-th of half h. ``packing.py`` orders every weight alike, so nobody notices but the energy net's first
matrix. Widths are filled up to powers of two; what is filled up stays at the end and is never stored.

Strip mode multiplies by a table over pairs of types: g = g_s·(g_t·sw) + g_s.
"""

from __future__ import annotations

import triton
import triton.language as tl

from .env_matrix import environment_bwd, environment_fwd, gate_fwd
from .products import SHORTEST, activate, at_least, dot, load_matrix, load_rows, store_four, store_rows


@triton.jit
def _first_layer(s, pair, net, W1: tl.constexpr, RESIDUAL: tl.constexpr, KIND: tl.constexpr, T: tl.constexpr):
    """Layer one and its slope in s, (R, W1). net: w_s, idt, r_s (W1 each), then tables over pairs: bias, residual."""
    cols = tl.arange(0, W1)
    w_s, idt = tl.load(net + cols), tl.load(net + W1 + cols)
    at = pair[:, None] * (2 * W1) + 3 * W1 + cols[None, :]
    y, slope = activate(s[:, None] * w_s[None, :] + tl.load(net + at), KIND, T)
    y, slope = y * idt[None, :], slope * (idt * w_s)[None, :]
    if RESIDUAL:
        r_s = tl.load(net + 2 * W1 + cols)
        y += s[:, None] * r_s[None, :] + tl.load(net + at + W1)
        slope += r_s[None, :]
    return y, slope


@triton.jit
def _layer_fwd(
    x, net, K: tl.constexpr, N: tl.constexpr, KR: tl.constexpr, NR: tl.constexpr, RESIDUAL: tl.constexpr,
    KIND: tl.constexpr, T: tl.constexpr, PREC: tl.constexpr,
):  # fmt: skip
    """One layer and act′·idt, (R, N). net: bias, idt (N each), W (K, N), Wᵀ (N, K), of which (KR, NR) count."""
    cols = tl.arange(0, N)
    idt = tl.load(net + N + cols)[None, :]
    z = dot(x, load_matrix(net + 2 * N, 0, 0, KR, NR, N, K, N), tl.zeros([x.shape[0], N], x.dtype), PREC)
    y, slope = activate(z + tl.load(net + cols)[None, :], KIND, T)
    y = y * idt
    if RESIDUAL == 1:
        y += x
    if RESIDUAL == 2:
        y += tl.interleave(x, x)
    return y, slope * idt


@triton.jit
def _layer_bwd(
    d_y, slope, net, K: tl.constexpr, N: tl.constexpr, KR: tl.constexpr, NR: tl.constexpr,
    RESIDUAL: tl.constexpr, PREC: tl.constexpr,
):  # fmt: skip
    # Half of the channels at a time, every other one, so that the operands of a product fit in registers.
    even, odd = tl.split(tl.reshape(d_y, (d_y.shape[0], N // 2, 2)))
    slope_even, slope_odd = tl.split(tl.reshape(slope, (d_y.shape[0], N // 2, 2)))
    weight = net + 2 * N + K * N
    d_x = tl.zeros([d_y.shape[0], K], d_y.dtype)
    d_x = dot(even * slope_even, load_matrix(weight, 0, 0, (NR + 1) // 2, KR, 2 * K, N // 2, K), d_x, PREC)
    d_x = dot(odd * slope_odd, load_matrix(weight + K, 0, 0, NR // 2, KR, 2 * K, N // 2, K), d_x, PREC)
    if RESIDUAL == 1:
        d_x += d_y
    if RESIDUAL == 2:
        d_x += even + odd
    return d_x


@triton.jit
def embed_fwd(
    s, pair, net, WIDTHS: tl.constexpr, REAL: tl.constexpr, RESIDUALS: tl.constexpr, STARTS: tl.constexpr,
    KIND: tl.constexpr, T: tl.constexpr, PREC: tl.constexpr,
):  # fmt: skip
    """The net at s (R,): its last layer (R, MP), and the slopes of all layers for the backward pass."""
    x, slope = _first_layer(s, pair, net, WIDTHS[0], RESIDUALS[0], KIND, T)
    slopes = (slope,)
    for k in tl.static_range(1, len(WIDTHS)):
        x, slope = _layer_fwd(
            x, net + STARTS[k], WIDTHS[k - 1], WIDTHS[k], REAL[k - 1], REAL[k], RESIDUALS[k], KIND, T, PREC
        )  # fmt: skip
        slopes = slopes + (slope,)
    return x, slopes


@triton.jit
def embed_bwd(
    d_g, slopes, net,
    WIDTHS: tl.constexpr, REAL: tl.constexpr, RESIDUALS: tl.constexpr, STARTS: tl.constexpr, PREC: tl.constexpr,
):  # fmt: skip
    """dE/ds (R,) from dE/dg (R, MP)."""
    for m in tl.static_range(0, len(WIDTHS) - 1):
        d_g = _layer_bwd(
            d_g, slopes[len(WIDTHS) - 1 - m], net + STARTS[len(WIDTHS) - 1 - m],
            WIDTHS[len(WIDTHS) - 2 - m], WIDTHS[len(WIDTHS) - 1 - m],
            REAL[len(WIDTHS) - 2 - m], REAL[len(WIDTHS) - 1 - m], RESIDUALS[len(WIDTHS) - 1 - m], PREC,
        )  # fmt: skip
    return tl.sum(d_g * slopes[0], axis=1)


@triton.jit
def pairs_of_types(neighbor_type, rows, mask, center_type, TYPES: tl.constexpr):
    """t_i·ntypes + t_j of each edge. (R,)"""
    return center_type * TYPES + tl.load(neighbor_type + rows, mask=mask, other=0)


@triton.jit
def strip_factor(factors, pair, sw, MP: tl.constexpr, SMOOTH: tl.constexpr):
    """g_t·sw, or g_t, and what stands beside sw. (R, MP)"""
    f = tl.load(factors + (pair[:, None] * MP + tl.arange(0, MP)[None, :]))
    return (f * sw[:, None] if SMOOTH else f), f


@triton.jit
def lengths_of(
    g, rows, mask, lengths, factors, biases, M: tl.constexpr, MP: tl.constexpr, LM: tl.constexpr,
    LW: tl.constexpr, R: tl.constexpr, W: tl.constexpr, PREC: tl.constexpr,
):  # fmt: skip
    """|q|, |k| and |v| of rows of g in memory, through factors L with |ĝL| = |ĝŴ|; stored as (…, 3).

    factors: L (MP, LW) of q, k and v, lower triangles of which LM columns count; biases (LW) likewise.
    """
    LC: tl.constexpr = 64 if LW > 64 else LW
    work = biases.dtype.element_ty
    q_squares, k_squares, v_squares = tl.zeros([R], work), tl.zeros([R], work), tl.zeros([R], work)
    for n in range(0, LW, LC):
        at = biases + n + tl.arange(0, LC)
        q = tl.zeros([R, LC], work) + tl.load(at)[None, :]
        k = tl.zeros([R, LC], work) + tl.load(at + LW)[None, :]
        v = tl.zeros([R, LC], work) + tl.load(at + 2 * LW)[None, :]
        for c in range(n, MP, W):
            a = load_rows(g, rows, mask, c, M, M, W)
            q = dot(a, load_matrix(factors, c, n, M, LM, LW, W, LC), q, PREC)
            k = dot(a, load_matrix(factors + MP * LW, c, n, M, LM, LW, W, LC), k, PREC)
            v = dot(a, load_matrix(factors + 2 * (MP * LW), c, n, M, LM, LW, W, LC), v, PREC)
        q_squares += tl.sum(q * q, axis=1)
        k_squares += tl.sum(k * k, axis=1)
        v_squares += tl.sum(v * v, axis=1)
    own = lengths + rows * 3
    tl.store(own, at_least(tl.sqrt(q_squares), SHORTEST), mask=mask)
    tl.store(own + 1, at_least(tl.sqrt(k_squares), SHORTEST), mask=mask)
    tl.store(own + 2, at_least(tl.sqrt(v_squares), SHORTEST), mask=mask)


@triton.jit
def store_moments(moments, g, s, a, b, c, MP: tl.constexpr):
    """Σ_j g_j ⊗ row_j of this program's rows, as (4, MP)."""
    cols = tl.arange(0, MP)
    tl.store(moments + cols, tl.sum(g * s[:, None], axis=0))
    tl.store(moments + MP + cols, tl.sum(g * a[:, None], axis=0))
    tl.store(moments + 2 * MP + cols, tl.sum(g * b[:, None], axis=0))
    tl.store(moments + 3 * MP + cols, tl.sum(g * c[:, None], axis=0))


@triton.jit
def moments_bwd(d_x, s, a, b, c, MP: tl.constexpr):
    """dE/dg (R, MP) from dE/dX (4, MP) in memory."""
    cols = tl.arange(0, MP)
    d_g = s[:, None] * tl.load(d_x + cols)[None, :]
    d_g += a[:, None] * tl.load(d_x + MP + cols)[None, :]
    d_g += b[:, None] * tl.load(d_x + 2 * MP + cols)[None, :]
    return d_g + c[:, None] * tl.load(d_x + 3 * MP + cols)[None, :]


@triton.jit
def rows_bwd(d_x, g, MP: tl.constexpr):
    """dE/d(row), four columns (R,), from dE/dX (4, MP) in memory and g (R, MP)."""
    cols = tl.arange(0, MP)
    d_s = tl.sum(g * tl.load(d_x + cols)[None, :], axis=1)
    d_a = tl.sum(g * tl.load(d_x + MP + cols)[None, :], axis=1)
    d_b = tl.sum(g * tl.load(d_x + 2 * MP + cols)[None, :], axis=1)
    return d_s, d_a, d_b, tl.sum(g * tl.load(d_x + 3 * MP + cols)[None, :], axis=1)


@triton.jit(do_not_specialize=["blocks"])
def _embedding_fwd_kernel(
    vector,  # (edges of the batch, 3) Å, float64
    neighbor_type,  # (edges of the batch,) int32
    first, at, count, center_type,  # (B,) first edge in the batch, at − at[0] in the chunk (int64), neighbours, type
    statistics,  # (types, 8) float64
    net, factors,  # see packing.py
    row, gate, g,  # (edges of the chunk, 4), (…, 4), (…, M) out; with attention
    moments,  # (B, blocks, 4, MP) out; without attention
    blocks,
    SMTH: tl.constexpr, RCUT: tl.constexpr, PROTECTION: tl.constexpr, TYPES: tl.constexpr,
    SMOOTH: tl.constexpr, DOTR: tl.constexpr, STRIP: tl.constexpr, ATTENTION: tl.constexpr,
    WIDTHS: tl.constexpr, REAL: tl.constexpr, RESIDUALS: tl.constexpr, STARTS: tl.constexpr,
    KIND: tl.constexpr, T: tl.constexpr,
    M: tl.constexpr, MP: tl.constexpr, R: tl.constexpr, PREC: tl.constexpr,
):  # fmt: skip
    b, block = tl.program_id(0), tl.program_id(1)
    n = tl.load(count + b)
    if block * R < n:
        rows = block * R + tl.arange(0, R)
        mask = rows < n
        type_i = tl.load(center_type + b)
        edge = tl.load(first + b).to(tl.int64)
        s, x, y, z, sw = environment_fwd(
            vector, edge, rows, mask, statistics + type_i * 8, SMTH, RCUT, PROTECTION
        )  # fmt: skip
        pair = pairs_of_types(neighbor_type + edge, rows, mask, type_i, TYPES)
        work = row.dtype.element_ty
        s, x, y, z, sw = s.to(work), x.to(work), y.to(work), z.to(work), sw.to(work)
        e, _ = embed_fwd(s, pair, net, WIDTHS, REAL, RESIDUALS, STARTS, KIND, T, PREC)
        if STRIP:
            factor, _ = strip_factor(factors, pair, sw, MP, SMOOTH)
            e = e * factor + e
        if ATTENTION:
            local = tl.load(at + b) - tl.load(at)
            u0, u1, u2, w = gate_fwd(x, y, z, sw, mask, SMOOTH, DOTR)
            store_four(row + local * 4, rows, mask, s, x, y, z)
            store_four(gate + local * 4, rows, mask, u0, u1, u2, w)
            store_rows(g + local * M, rows, mask, e, M, M, MP)
        else:
            store_moments(moments + (b * blocks + block).to(tl.int64) * (4 * MP), e, s, x, y, z, MP)


@triton.jit
def edges_bwd(
    d_g, s, sw, pair, net, factors, SMOOTH: tl.constexpr, STRIP: tl.constexpr,
    WIDTHS: tl.constexpr, REAL: tl.constexpr, RESIDUALS: tl.constexpr, STARTS: tl.constexpr,
    KIND: tl.constexpr, T: tl.constexpr, MP: tl.constexpr, PREC: tl.constexpr,
):  # fmt: skip
    """From dE/dg (R, MP) of some edges to dE/ds and, in strip mode, dE/d(sw)."""
    e, slopes = embed_fwd(s, pair, net, WIDTHS, REAL, RESIDUALS, STARTS, KIND, T, PREC)
    d_sw = tl.zeros_like(sw)
    if STRIP:
        factor, bare = strip_factor(factors, pair, sw, MP, SMOOTH)
        if SMOOTH:
            d_sw += tl.sum(d_g * e * bare, axis=1)
        d_g = d_g * factor + d_g
    return embed_bwd(d_g, slopes, net, WIDTHS, REAL, RESIDUALS, STARTS, PREC), d_sw


@triton.jit
def _embedding_bwd_kernel(
    vector, gradient,  # (edges of the batch, 3), float64; gradient out
    neighbor_type, first, count, center_type, statistics, net, factors,
    d_x,  # (B, 4, MP) dE/dX
    SMTH: tl.constexpr, RCUT: tl.constexpr, PROTECTION: tl.constexpr, TYPES: tl.constexpr,
    SMOOTH: tl.constexpr, STRIP: tl.constexpr,
    WIDTHS: tl.constexpr, REAL: tl.constexpr, RESIDUALS: tl.constexpr, STARTS: tl.constexpr,
    KIND: tl.constexpr, T: tl.constexpr,
    MP: tl.constexpr, R: tl.constexpr, PREC: tl.constexpr,
):  # fmt: skip
    """The backward pass of a model without attention."""
    b, block = tl.program_id(0), tl.program_id(1)
    n = tl.load(count + b)
    if block * R < n:
        rows = block * R + tl.arange(0, R)
        mask = rows < n
        type_i = tl.load(center_type + b)
        edge = tl.load(first + b).to(tl.int64)
        moment = d_x + b.to(tl.int64) * (4 * MP)
        work = d_x.dtype.element_ty
        s, x, y, z, sw = environment_fwd(vector, edge, rows, mask, statistics + type_i * 8, SMTH, RCUT, PROTECTION)
        s, x, y, z = s.to(work), x.to(work), y.to(work), z.to(work)
        pair = pairs_of_types(neighbor_type + edge, rows, mask, type_i, TYPES)
        e, _ = embed_fwd(s, pair, net, WIDTHS, REAL, RESIDUALS, STARTS, KIND, T, PREC)
        if STRIP:
            factor, _ = strip_factor(factors, pair, sw.to(work), MP, SMOOTH)
            e = e * factor + e
        d_s, d_a, d_b, d_c = rows_bwd(moment, e, MP)
        d_s_of_g, d_sw = edges_bwd(
            moments_bwd(moment, s, x, y, z, MP), s, sw.to(work), pair, net, factors, SMOOTH, STRIP,
            WIDTHS, REAL, RESIDUALS, STARTS, KIND, T, MP, PREC,
        )  # fmt: skip
        d_s += d_s_of_g
        environment_bwd(
            vector, gradient, edge, rows, mask, statistics + type_i * 8, d_s, d_a, d_b, d_c, d_sw,
            SMTH, RCUT, PROTECTION,
        )  # fmt: skip
