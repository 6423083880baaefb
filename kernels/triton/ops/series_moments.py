"""Moments without the embedding, for models without attention: from distances to X and back by series.

There X = Σ_j g_j ⊗ row_j is all that the embedding is needed for, and with g_j = Σ_k c_tk T_k(x_j) for a neighbour of
type t (``series.py``) the sum over neighbours goes first:

    Y_tk = Σ_(j of type t) T_k(x_j) row_j,      X = Σ_tk c_tk ⊗ Y_tk

so that a neighbour costs terms × 4 multiply-adds for its moments and no net. Back, with P_tk = Σ_m c_tkm X̄_m,

    row̄_j = Σ_k T_k(x_j) P_tk,      x̄_j = Σ_k k U_(k−1)(x_j) P_tk·row_j.

In smooth strip mode a second set of coefficients belongs to rows that are multiplied by the switch. Y and P stand as
matrices with a column for each type, set and entry of row, (t·SETS + set)·4 + c, so that types are no loop over
neighbours: a neighbour's numbers stand in the columns of its own type, and are zero in all others.
"""

from __future__ import annotations

import triton
import triton.language as tl

from .env_matrix import environment_bwd, environment_fwd
from .products import dot, load_matrix
from .series import along_range, polynomials


@triton.jit
def own_columns(kind, COLUMNS: tl.constexpr, SETS: tl.constexpr):
    """Which of the columns are those of a neighbour's type. (rows, COLUMNS)"""
    return (tl.arange(0, COLUMNS) // (4 * SETS))[None, :] == kind[:, None]


@triton.jit
def rows_by_type(own, s, a, b, c, sw, COLUMNS: tl.constexpr, SETS: tl.constexpr):
    """The four columns of row (rows,) where they belong, times the switch in a second set. (rows, COLUMNS)"""
    cols = tl.arange(0, COLUMNS)[None, :]
    entry = cols % 4
    x = tl.where(entry == 0, s[:, None], a[:, None])
    x = tl.where(entry == 2, b[:, None], x)
    x = tl.where(entry == 3, c[:, None], x)
    if SETS == 2:
        x = tl.where((cols // 4) % 2 == 1, x * sw[:, None], x)
    return tl.where(own, x, 0.0)


@triton.jit
def _series_moments_kernel(
    vector,  # (edges of the batch, 3) Å, float64
    neighbor_type,  # (edges of the batch,) int32
    first, count, center_type,  # (atoms,) first edge in the batch, int64; neighbours; type
    statistics,  # (types, 8) float64
    series, ranges,  # (types, TYPES, SETS, TERMS, MP), (types, 2): scale and shift
    moments,  # (atoms, 4, MP) out
    SMTH: tl.constexpr, RCUT: tl.constexpr, PROTECTION: tl.constexpr,
    TYPES: tl.constexpr, SETS: tl.constexpr, TERMS: tl.constexpr, COLUMNS: tl.constexpr, MP: tl.constexpr,
    BLOCK_ROWS: tl.constexpr, BLOCK_INNER: tl.constexpr, SERIES_PREC: tl.constexpr,
):  # fmt: skip
    """One program an atom: its neighbours in blocks, then channels in blocks."""
    b = tl.program_id(0).to(tl.int64)
    n = tl.load(count + b)
    type_i = tl.load(center_type + b)
    edge = tl.load(first + b).to(tl.int64)
    work = moments.dtype.element_ty
    y = tl.zeros([COLUMNS, TERMS], work)
    for start in range(0, n, BLOCK_ROWS):
        rows = start + tl.arange(0, BLOCK_ROWS)
        mask = rows < n
        s, p, q, r, sw = environment_fwd(vector, edge, rows, mask, statistics + type_i * 8, SMTH, RCUT, PROTECTION)
        kind = tl.load(neighbor_type + edge + rows, mask=mask, other=0)
        t, _u = polynomials(along_range(s, mask, ranges + type_i * 2).to(work), TERMS)
        own = own_columns(kind, COLUMNS, SETS)
        x = rows_by_type(own, s.to(work), p.to(work), q.to(work), r.to(work), sw.to(work), COLUMNS, SETS)
        y = dot(tl.trans(x), t, y, SERIES_PREC)
    group, entry = (tl.arange(0, COLUMNS) // 4)[:, None], (tl.arange(0, COLUMNS) % 4)[:, None]
    series += type_i * (TYPES * SETS * TERMS * MP)
    for m in range(0, MP, BLOCK_INNER):
        x = tl.zeros([COLUMNS, BLOCK_INNER], work)
        for j in tl.static_range(0, TYPES * SETS):
            c = load_matrix(series + j * (TERMS * MP), 0, m, TERMS, MP, MP, TERMS, BLOCK_INNER)
            x = dot(tl.where(group == j, y, 0.0), c, x, SERIES_PREC)
        to = moments + b * (4 * MP) + m + tl.arange(0, BLOCK_INNER)
        for c in tl.static_range(0, 4):
            tl.store(to + c * MP, tl.sum(tl.where(entry == c, x, 0.0), axis=0))


@triton.jit
def _series_moments_bwd_kernel(
    vector, gradient,  # (edges of the batch, 3), float64; gradient out
    neighbor_type, first, count, center_type, statistics,
    series_t, ranges,  # (types, TYPES, SETS, MP, TERMS), (types, 2)
    d_x,  # (atoms, 4, MP) dE/dX
    SMTH: tl.constexpr, RCUT: tl.constexpr, PROTECTION: tl.constexpr,
    TYPES: tl.constexpr, SETS: tl.constexpr, TERMS: tl.constexpr, COLUMNS: tl.constexpr, MP: tl.constexpr,
    BLOCK_ROWS: tl.constexpr, BLOCK_INNER: tl.constexpr, SERIES_PREC: tl.constexpr,
):  # fmt: skip
    """One program an atom: channels in blocks, then its neighbours."""
    b = tl.program_id(0).to(tl.int64)
    n = tl.load(count + b)
    type_i = tl.load(center_type + b)
    edge = tl.load(first + b).to(tl.int64)
    work = d_x.dtype.element_ty
    cols = tl.arange(0, COLUMNS)
    group, entry = (cols // 4)[:, None], (cols % 4)[:, None]
    series_t += type_i * (TYPES * SETS * TERMS * MP)
    p = tl.zeros([COLUMNS, TERMS], work)
    for m in range(0, MP, BLOCK_INNER):
        d = tl.load(d_x + b * (4 * MP) + (entry * MP + m + tl.arange(0, BLOCK_INNER)[None, :]))
        for j in tl.static_range(0, TYPES * SETS):
            c = load_matrix(series_t + j * (TERMS * MP), m, 0, MP, TERMS, TERMS, BLOCK_INNER, TERMS)
            p = dot(tl.where(group == j, d, 0.0), c, p, SERIES_PREC)
    p = tl.trans(p)
    entry = (cols % 4)[None, :]
    scale = tl.load(ranges + type_i * 2)
    for start in range(0, n, BLOCK_ROWS):
        rows = start + tl.arange(0, BLOCK_ROWS)
        mask = rows < n
        s, x, y, z, sw = environment_fwd(vector, edge, rows, mask, statistics + type_i * 8, SMTH, RCUT, PROTECTION)
        kind = tl.load(neighbor_type + edge + rows, mask=mask, other=0)
        t, u = polynomials(along_range(s, mask, ranges + type_i * 2).to(work), TERMS)
        u *= tl.arange(0, TERMS).to(work)[None, :]
        own = own_columns(kind, COLUMNS, SETS)
        s, x, y, z, sw = s.to(work), x.to(work), y.to(work), z.to(work), sw.to(work)
        nothing = tl.zeros([BLOCK_ROWS, COLUMNS], work)
        along = rows_by_type(own, s, x, y, z, sw, COLUMNS, SETS)
        d_s = tl.sum(along * dot(u, p, nothing, SERIES_PREC), axis=1) * scale.to(work)
        back = tl.where(own, dot(t, p, nothing, SERIES_PREC), 0.0)
        d_sw = tl.zeros_like(sw)
        if SETS == 2:
            second = (cols[None, :] // 4) % 2 == 1
            bare = rows_by_type(own, s, x, y, z, sw, COLUMNS, 1)
            d_sw += tl.sum(tl.where(second, bare * back, 0.0), axis=1)
            back = tl.where(second, back * sw[:, None], back)
        environment_bwd(
            vector, gradient, edge, rows, mask, statistics + type_i * 8,
            d_s + tl.sum(tl.where(entry == 0, back, 0.0), axis=1), tl.sum(tl.where(entry == 1, back, 0.0), axis=1),
            tl.sum(tl.where(entry == 2, back, 0.0), axis=1), tl.sum(tl.where(entry == 3, back, 0.0), axis=1),
            d_sw, SMTH, RCUT, PROTECTION,
        )  # fmt: skip
