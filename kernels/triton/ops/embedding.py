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
def _first_layer(
    s, pair, net, WIDTH: tl.constexpr, RESIDUAL: tl.constexpr, KIND: tl.constexpr, THRESHOLD: tl.constexpr
):
    """Layer one and its slope in s, (rows, WIDTH). net: w_s, idt, r_s (WIDTH each), then tables over pairs: bias,
    residual."""
    cols = tl.arange(0, WIDTH)
    w_s, idt = tl.load(net + cols), tl.load(net + WIDTH + cols)
    at = pair[:, None] * (2 * WIDTH) + 3 * WIDTH + cols[None, :]
    y, slope = activate(s[:, None] * w_s[None, :] + tl.load(net + at), KIND, THRESHOLD)
    y, slope = y * idt[None, :], slope * (idt * w_s)[None, :]
    if RESIDUAL:
        r_s = tl.load(net + 2 * WIDTH + cols)
        y += s[:, None] * r_s[None, :] + tl.load(net + at + WIDTH)
        slope += r_s[None, :]
    return y, slope


@triton.jit
def _layer_fwd(
    x, net, N_IN: tl.constexpr, N_OUT: tl.constexpr, REAL_IN: tl.constexpr, REAL_OUT: tl.constexpr,
    RESIDUAL: tl.constexpr, KIND: tl.constexpr, THRESHOLD: tl.constexpr, PREC: tl.constexpr,
):  # fmt: skip
    """One layer and act′·idt, (rows, N_OUT). net: bias, idt (N_OUT each), W (N_IN, N_OUT), Wᵀ
    (N_OUT, N_IN), of which (REAL_IN, REAL_OUT) count."""
    cols = tl.arange(0, N_OUT)
    idt = tl.load(net + N_OUT + cols)[None, :]
    weight = load_matrix(net + 2 * N_OUT, 0, 0, REAL_IN, REAL_OUT, N_OUT, N_IN, N_OUT)
    z = dot(x, weight, tl.zeros([x.shape[0], N_OUT], x.dtype), PREC)
    y, slope = activate(z + tl.load(net + cols)[None, :], KIND, THRESHOLD)
    y = y * idt
    if RESIDUAL == 1:
        y += x
    if RESIDUAL == 2:
        y += tl.interleave(x, x)
    return y, slope * idt


@triton.jit
def _layer_bwd(
    d_y, slope, net, N_IN: tl.constexpr, N_OUT: tl.constexpr, REAL_IN: tl.constexpr, REAL_OUT: tl.constexpr,
    RESIDUAL: tl.constexpr, PREC: tl.constexpr,
):  # fmt: skip
    # Half of the channels at a time, every other one, so that the operands of a product fit in registers.
    even, odd = tl.split(tl.reshape(d_y, (d_y.shape[0], N_OUT // 2, 2)))
    slope_even, slope_odd = tl.split(tl.reshape(slope, (d_y.shape[0], N_OUT // 2, 2)))
    weight = net + 2 * N_OUT + N_IN * N_OUT
    d_x = tl.zeros([d_y.shape[0], N_IN], d_y.dtype)
    d_z = even * slope_even
    d_x = dot(d_z, load_matrix(weight, 0, 0, (REAL_OUT + 1) // 2, REAL_IN, 2 * N_IN, N_OUT // 2, N_IN), d_x, PREC)
    d_z = odd * slope_odd
    d_x = dot(d_z, load_matrix(weight + N_IN, 0, 0, REAL_OUT // 2, REAL_IN, 2 * N_IN, N_OUT // 2, N_IN), d_x, PREC)
    if RESIDUAL == 1:
        d_x += d_y
    if RESIDUAL == 2:
        d_x += even + odd
    return d_x


@triton.jit
def embed_fwd(
    s, pair, net, WIDTHS: tl.constexpr, REAL: tl.constexpr, RESIDUALS: tl.constexpr, STARTS: tl.constexpr,
    KIND: tl.constexpr, THRESHOLD: tl.constexpr, PREC: tl.constexpr,
):  # fmt: skip
    """The net at s (rows,): its last layer (rows, MP), and the slopes of all layers for the backward pass."""
    x, slope = _first_layer(s, pair, net, WIDTHS[0], RESIDUALS[0], KIND, THRESHOLD)
    slopes = (slope,)
    for k in tl.static_range(1, len(WIDTHS)):
        x, slope = _layer_fwd(
            x, net + STARTS[k], WIDTHS[k - 1], WIDTHS[k], REAL[k - 1], REAL[k], RESIDUALS[k], KIND, THRESHOLD, PREC
        )  # fmt: skip
        slopes = slopes + (slope,)
    return x, slopes


@triton.jit
def embed_bwd(
    d_g, slopes, net,
    WIDTHS: tl.constexpr, REAL: tl.constexpr, RESIDUALS: tl.constexpr, STARTS: tl.constexpr, PREC: tl.constexpr,
):  # fmt: skip
    """dE/ds (rows,) from dE/dg (rows, MP)."""
    for m in tl.static_range(0, len(WIDTHS) - 1):
        d_g = _layer_bwd(
            d_g, slopes[len(WIDTHS) - 1 - m], net + STARTS[len(WIDTHS) - 1 - m],
            WIDTHS[len(WIDTHS) - 2 - m], WIDTHS[len(WIDTHS) - 1 - m],
            REAL[len(WIDTHS) - 2 - m], REAL[len(WIDTHS) - 1 - m], RESIDUALS[len(WIDTHS) - 1 - m], PREC,
        )  # fmt: skip
    return tl.sum(d_g * slopes[0], axis=1)


@triton.jit
def pairs_of_types(neighbor_type, rows, mask, center_type, TYPES: tl.constexpr):
    """t_i·ntypes + t_j of each edge. (rows,)"""
    return center_type * TYPES + tl.load(neighbor_type + rows, mask=mask, other=0)


@triton.jit
def strip_factor(factors, pair, sw, MP: tl.constexpr, SMOOTH: tl.constexpr):
    """g_t·sw, or g_t, and what stands beside sw. (rows, MP)"""
    f = tl.load(factors + (pair[:, None] * MP + tl.arange(0, MP)[None, :]))
    return (f * sw[:, None] if SMOOTH else f), f


@triton.jit
def lengths_of(
    g, rows, mask, lengths, factors, biases, M: tl.constexpr, MP: tl.constexpr, FACTOR_REAL: tl.constexpr,
    FACTOR_WIDTH: tl.constexpr, BLOCK_ROWS: tl.constexpr, BLOCK_INNER: tl.constexpr, PREC: tl.constexpr,
):  # fmt: skip
    """|q|, |k| and |v| of rows of g in memory, through factors L with |ĝL| = |ĝŴ|; stored as (…, 3).

    factors: L (MP, FACTOR_WIDTH) of q, k and v, lower triangles of which FACTOR_REAL columns count; biases
    (FACTOR_WIDTH) likewise.
    """
    BLOCK_FACTORS: tl.constexpr = 64 if FACTOR_WIDTH > 64 else FACTOR_WIDTH
    work = biases.dtype.element_ty
    q_squares, k_squares = tl.zeros([BLOCK_ROWS], work), tl.zeros([BLOCK_ROWS], work)
    v_squares = tl.zeros([BLOCK_ROWS], work)
    for n in range(0, FACTOR_WIDTH, BLOCK_FACTORS):
        at = biases + n + tl.arange(0, BLOCK_FACTORS)
        q = tl.zeros([BLOCK_ROWS, BLOCK_FACTORS], work) + tl.load(at)[None, :]
        k = tl.zeros([BLOCK_ROWS, BLOCK_FACTORS], work) + tl.load(at + FACTOR_WIDTH)[None, :]
        v = tl.zeros([BLOCK_ROWS, BLOCK_FACTORS], work) + tl.load(at + 2 * FACTOR_WIDTH)[None, :]
        for c in range(n, MP, BLOCK_INNER):
            a = load_rows(g, rows, mask, c, M, M, BLOCK_INNER)
            part = load_matrix(factors, c, n, M, FACTOR_REAL, FACTOR_WIDTH, BLOCK_INNER, BLOCK_FACTORS)
            q = dot(a, part, q, PREC)
            part = load_matrix(
                factors + MP * FACTOR_WIDTH, c, n, M, FACTOR_REAL, FACTOR_WIDTH, BLOCK_INNER, BLOCK_FACTORS
            )
            k = dot(a, part, k, PREC)
            part = load_matrix(
                factors + 2 * (MP * FACTOR_WIDTH), c, n, M, FACTOR_REAL, FACTOR_WIDTH, BLOCK_INNER, BLOCK_FACTORS
            )
            v = dot(a, part, v, PREC)
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
    """dE/dg (rows, MP) from dE/dX (4, MP) in memory."""
    cols = tl.arange(0, MP)
    d_g = s[:, None] * tl.load(d_x + cols)[None, :]
    d_g += a[:, None] * tl.load(d_x + MP + cols)[None, :]
    d_g += b[:, None] * tl.load(d_x + 2 * MP + cols)[None, :]
    return d_g + c[:, None] * tl.load(d_x + 3 * MP + cols)[None, :]


@triton.jit
def rows_bwd(d_x, g, MP: tl.constexpr):
    """dE/d(row), four columns (rows,), from dE/dX (4, MP) in memory and g (rows, MP)."""
    cols = tl.arange(0, MP)
    d_s = tl.sum(g * tl.load(d_x + cols)[None, :], axis=1)
    d_a = tl.sum(g * tl.load(d_x + MP + cols)[None, :], axis=1)
    d_b = tl.sum(g * tl.load(d_x + 2 * MP + cols)[None, :], axis=1)
    return d_s, d_a, d_b, tl.sum(g * tl.load(d_x + 3 * MP + cols)[None, :], axis=1)


@triton.jit(do_not_specialize=["blocks"])
def _embedding_fwd_kernel(
    vector,  # (edges of the batch, 3) Å, float64
    neighbor_type,  # (edges of the batch,) int32
    first, at, count, center_type,  # (atoms,) first edge in the batch, at − at[0] in the chunk, int64; neighbours; type
    statistics,  # (types, 8) float64
    net, factors,  # see packing.py
    row, gate, g,  # (edges of the chunk, 4), (…, 4), (…, M) out; with attention
    moments,  # (atoms, blocks, 4, MP) out; without attention
    blocks,
    SMTH: tl.constexpr, RCUT: tl.constexpr, PROTECTION: tl.constexpr, TYPES: tl.constexpr,
    SMOOTH: tl.constexpr, DOTR: tl.constexpr, STRIP: tl.constexpr, ATTENTION: tl.constexpr,
    WIDTHS: tl.constexpr, REAL: tl.constexpr, RESIDUALS: tl.constexpr, STARTS: tl.constexpr,
    KIND: tl.constexpr, THRESHOLD: tl.constexpr,
    M: tl.constexpr, MP: tl.constexpr, BLOCK_ROWS: tl.constexpr, PREC: tl.constexpr,
):  # fmt: skip
    b, block = tl.program_id(0), tl.program_id(1)
    n = tl.load(count + b)
    if block * BLOCK_ROWS < n:
        rows = block * BLOCK_ROWS + tl.arange(0, BLOCK_ROWS)
        mask = rows < n
        type_i = tl.load(center_type + b)
        edge = tl.load(first + b).to(tl.int64)
        s, x, y, z, sw = environment_fwd(
            vector, edge, rows, mask, statistics + type_i * 8, SMTH, RCUT, PROTECTION
        )  # fmt: skip
        pair = pairs_of_types(neighbor_type + edge, rows, mask, type_i, TYPES)
        work = row.dtype.element_ty
        s, x, y, z, sw = s.to(work), x.to(work), y.to(work), z.to(work), sw.to(work)
        e, _ = embed_fwd(s, pair, net, WIDTHS, REAL, RESIDUALS, STARTS, KIND, THRESHOLD, PREC)
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
def net_bwd(
    d_g, e, slopes, sw, pair, net, factors, SMOOTH: tl.constexpr, STRIP: tl.constexpr,
    WIDTHS: tl.constexpr, REAL: tl.constexpr, RESIDUALS: tl.constexpr, STARTS: tl.constexpr,
    MP: tl.constexpr, PREC: tl.constexpr,
):  # fmt: skip
    """From dE/dg (rows, MP) of some edges to dE/ds and, in strip mode, dE/d(sw). e, slopes: of ``embed_fwd``."""
    d_sw = tl.zeros_like(sw)
    if STRIP:
        factor, bare = strip_factor(factors, pair, sw, MP, SMOOTH)
        if SMOOTH:
            d_sw += tl.sum(d_g * e * bare, axis=1)
        d_g = d_g * factor + d_g
    return embed_bwd(d_g, slopes, net, WIDTHS, REAL, RESIDUALS, STARTS, PREC), d_sw


@triton.jit
def edges_bwd(
    d_g, s, sw, pair, net, factors, SMOOTH: tl.constexpr, STRIP: tl.constexpr,
    WIDTHS: tl.constexpr, REAL: tl.constexpr, RESIDUALS: tl.constexpr, STARTS: tl.constexpr,
    KIND: tl.constexpr, THRESHOLD: tl.constexpr, MP: tl.constexpr, PREC: tl.constexpr,
):  # fmt: skip
    """The same, where the net is to be evaluated first."""
    e, slopes = embed_fwd(s, pair, net, WIDTHS, REAL, RESIDUALS, STARTS, KIND, THRESHOLD, PREC)
    return net_bwd(
        d_g, e, slopes, sw, pair, net, factors, SMOOTH, STRIP, WIDTHS, REAL, RESIDUALS, STARTS, MP, PREC
    )  # fmt: skip


@triton.jit
def _embedding_bwd_kernel(
    vector, gradient,  # (edges of the batch, 3), float64; gradient out
    neighbor_type, first, count, center_type, statistics, net, factors,
    d_x,  # (atoms, 4, MP) dE/dX
    SMTH: tl.constexpr, RCUT: tl.constexpr, PROTECTION: tl.constexpr, TYPES: tl.constexpr,
    SMOOTH: tl.constexpr, STRIP: tl.constexpr,
    WIDTHS: tl.constexpr, REAL: tl.constexpr, RESIDUALS: tl.constexpr, STARTS: tl.constexpr,
    KIND: tl.constexpr, THRESHOLD: tl.constexpr,
    MP: tl.constexpr, BLOCK_ROWS: tl.constexpr, PREC: tl.constexpr,
):  # fmt: skip
    """The backward pass of a model without attention."""
    b, block = tl.program_id(0), tl.program_id(1)
    n = tl.load(count + b)
    if block * BLOCK_ROWS < n:
        rows = block * BLOCK_ROWS + tl.arange(0, BLOCK_ROWS)
        mask = rows < n
        type_i = tl.load(center_type + b)
        edge = tl.load(first + b).to(tl.int64)
        moment = d_x + b.to(tl.int64) * (4 * MP)
        work = d_x.dtype.element_ty
        s, x, y, z, sw = environment_fwd(vector, edge, rows, mask, statistics + type_i * 8, SMTH, RCUT, PROTECTION)
        s, x, y, z = s.to(work), x.to(work), y.to(work), z.to(work)
        pair = pairs_of_types(neighbor_type + edge, rows, mask, type_i, TYPES)
        net_of_s, slopes = embed_fwd(s, pair, net, WIDTHS, REAL, RESIDUALS, STARTS, KIND, THRESHOLD, PREC)
        e = net_of_s
        if STRIP:
            factor, _ = strip_factor(factors, pair, sw.to(work), MP, SMOOTH)
            e = e * factor + e
        d_s, d_a, d_b, d_c = rows_bwd(moment, e, MP)
        own = gradient + (edge + rows) * 3
        if work == tl.float64:
            # Here the compiler forgets what it knows, and the net is evaluated once more: but for d_s nothing is held
            # over its gradient, or that would need a stack. The rows' gradients stand where the edges' will.
            tl.store(own, d_a, mask=mask)
            tl.store(own + 1, d_b, mask=mask)
            tl.store(own + 2, d_c, mask=mask)
            tl.debug_barrier()
            net_of_s, slopes = embed_fwd(s, pair, net, WIDTHS, REAL, RESIDUALS, STARTS, KIND, THRESHOLD, PREC)
            s, x, y, z, sw = environment_fwd(vector, edge, rows, mask, statistics + type_i * 8, SMTH, RCUT, PROTECTION)
        d_s_of_g, d_sw = net_bwd(
            moments_bwd(moment, s, x, y, z, MP), net_of_s, slopes, sw.to(work), pair, net, factors, SMOOTH, STRIP,
            WIDTHS, REAL, RESIDUALS, STARTS, MP, PREC,
        )  # fmt: skip
        d_s += d_s_of_g
        if work == tl.float64:
            d_a = tl.load(own, mask=mask, other=0.0)
            d_b = tl.load(own + 1, mask=mask, other=0.0)
            d_c = tl.load(own + 2, mask=mask, other=0.0)
        environment_bwd(
            vector, gradient, edge, rows, mask, statistics + type_i * 8, d_s, d_a, d_b, d_c, d_sw,
            SMTH, RCUT, PROTECTION,
        )  # fmt: skip
