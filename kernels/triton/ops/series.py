"""The embedding of a neighbour in the coordinates of the first attention layer (``prepare/bases.py``).

For a centre type, φ(s) = Σ_k c_k T_k(x) with x = scale·s + shift in [−1, 1]: Chebyshev polynomials times a small matrix
for each type of neighbour, instead of the net. The polynomials double up from T_s(x), s = 1, 2, 4 …, as T is a cosine
and U_(k−1) the sine over the root of 1 − x²:

    T_(a+b) = T_a T_b − (1 − x²) U_(a−1) U_(b−1),     U_(a+b−1) = U_(a−1) T_b + T_a U_(b−1),     T_k' = k U_(k−1).

In smooth strip mode a second set of coefficients is multiplied by the switch.
"""

from __future__ import annotations

import triton
import triton.language as tl

from .env_matrix import environment_fwd, gate_fwd
from .products import dot, load_matrix, store_four, store_rows


@triton.jit
def polynomials(x, TERMS: tl.constexpr):
    """T_k and U_(k−1) at x (rows,), k below TERMS, a power of two. (rows, TERMS) twice."""
    powers = ((x, tl.full(x.shape, 1.0, x.dtype)),)
    for _ in tl.static_range(1, TERMS.bit_length() - 1):
        t, u = powers[len(powers) - 1]
        powers = powers + ((2.0 * t * t - 1.0, 2.0 * t * u),)
    square = ((1.0 - x) * (1.0 + x))[:, None]
    t = tl.full([x.shape[0], 1], 1.0, x.dtype)
    u = tl.zeros([x.shape[0], 1], x.dtype)
    # The highest bit of k first: what is interleaved later moves it up.
    for level in tl.static_range(0, TERMS.bit_length() - 1):
        t_s, u_s = powers[len(powers) - 1 - level]
        t_s, u_s = t_s[:, None], u_s[:, None]
        further = u * t_s + t * u_s
        t = tl.interleave(t, t * t_s - square * u * u_s)
        u = tl.interleave(u, further)
    return t, u


@triton.jit
def along_range(s, mask, ranges):
    """x of neighbours, 0 where masked. ranges: scale and shift."""
    return tl.where(mask, s * tl.load(ranges) + tl.load(ranges + 1), 0.0)


@triton.jit
def series_fwd(
    x, sw, kind, series,
    TYPES: tl.constexpr, SETS: tl.constexpr, TERMS: tl.constexpr, M: tl.constexpr, PREC: tl.constexpr,
):  # fmt: skip
    """φ (rows, M) of neighbours of types ``kind``. series: (TYPES, SETS, TERMS, M)."""
    t, _u = polynomials(x, TERMS)
    phi = tl.zeros([x.shape[0], M], x.dtype)
    for j in tl.static_range(0, TYPES):
        own = tl.where((kind == j)[:, None], t, 0.0)
        for k in tl.static_range(0, SETS):
            if k == 1:
                own = own * sw[:, None]
            c = load_matrix(series + (j * SETS + k) * (TERMS * M), 0, 0, TERMS, M, M, TERMS, M)
            phi = dot(own, c, phi, PREC)
    return phi


@triton.jit
def series_bwd(
    d_phi, x, sw, kind, series_t,
    TYPES: tl.constexpr, SETS: tl.constexpr, TERMS: tl.constexpr, M: tl.constexpr, PREC: tl.constexpr,
):  # fmt: skip
    """dE/dx and dE/d(sw) (rows,) from dE/dφ (rows, M). series_t: (TYPES, SETS, M, TERMS)."""
    t, u = polynomials(x, TERMS)
    u = u * tl.arange(0, TERMS).to(x.dtype)[None, :]
    d_x, d_sw = tl.zeros_like(x), tl.zeros_like(x)
    for k in tl.static_range(0, SETS):
        p = tl.zeros([x.shape[0], TERMS], x.dtype)
        for j in tl.static_range(0, TYPES):
            own = tl.where((kind == j)[:, None], d_phi, 0.0)
            at = series_t + (j * SETS + k) * (TERMS * M)
            p = dot(own, load_matrix(at, 0, 0, M, TERMS, TERMS, M, TERMS), p, PREC)
        if k == 1:
            d_x += sw * tl.sum(p * u, axis=1)
            d_sw += tl.sum(p * t, axis=1)
        else:
            d_x += tl.sum(p * u, axis=1)
    return d_x, d_sw


@triton.jit
def _coordinates_kernel(
    vector,  # (edges of the batch, 3) Å, float64
    neighbor_type,  # (edges of the batch,) int32
    first, at, count, center_type,  # (atoms,) first edge in the batch, at − at[0] in the chunk, int64; neighbours; type
    statistics,  # (types, 8) float64
    series, ranges,  # (types, TYPES, SETS, TERMS, M), (types, 2): scale and shift
    row, gate, phi,  # (edges of the chunk, 4), (…, 4), (…, M) out
    SMTH: tl.constexpr, RCUT: tl.constexpr, PROTECTION: tl.constexpr, SMOOTH: tl.constexpr, DOTR: tl.constexpr,
    TYPES: tl.constexpr, SETS: tl.constexpr, TERMS: tl.constexpr, M: tl.constexpr, BLOCK_ROWS: tl.constexpr,
    SERIES_PREC: tl.constexpr,
):  # fmt: skip
    b, block = tl.program_id(0), tl.program_id(1)
    n = tl.load(count + b)
    if block * BLOCK_ROWS < n:
        rows = block * BLOCK_ROWS + tl.arange(0, BLOCK_ROWS)
        mask = rows < n
        type_i = tl.load(center_type + b)
        edge = tl.load(first + b).to(tl.int64)
        local = tl.load(at + b) - tl.load(at)
        s, x, y, z, sw = environment_fwd(
            vector, edge, rows, mask, statistics + type_i * 8, SMTH, RCUT, PROTECTION
        )  # fmt: skip
        work = row.dtype.element_ty
        s, x, y, z, sw = s.to(work), x.to(work), y.to(work), z.to(work), sw.to(work)
        u0, u1, u2, w = gate_fwd(x, y, z, sw, mask, SMOOTH, DOTR)
        store_four(row + local * 4, rows, mask, s, x, y, z)
        store_four(gate + local * 4, rows, mask, u0, u1, u2, w)
        kind = tl.load(neighbor_type + edge + rows, mask=mask, other=0)
        along = along_range(s, mask, ranges + type_i * 2)
        own = series + type_i * (TYPES * SETS * TERMS * M)
        e = series_fwd(along, sw, kind, own, TYPES, SETS, TERMS, M, SERIES_PREC)
        store_rows(phi + local * M, rows, mask, e, M, M, M)
