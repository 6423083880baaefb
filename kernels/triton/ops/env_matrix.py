"""The environment matrix and its gradient, in float64 in every precision (``reference.environment_matrix``).

    row = (sw·[1/q, d/q²] − davg)/dstd,   q = r + protection,   r = |d|

With h = row̄/dstd, split in h₀ and h⃗, r̂ = d/r and sw′ = −30 u²(1−u)²/(rcut − rcut_smth):

    d̄ = h⃗ sw/q² + r̂ [h₀ (sw′/q − sw/q²) + (h⃗·d)(sw′/q² − 2 sw/q³) + sw̄ sw′]

The attention's gate is u⃗ = v⃗/|v⃗|, v⃗ = row[1:4], times sw where the attention is smooth; v̄ = (ū − u⃗ (u⃗·ū))/|v⃗|.
"""

from __future__ import annotations

import triton
import triton.language as tl

from .products import load_four


@triton.jit
def distances(vector, rows, mask, SMTH: tl.constexpr, RCUT: tl.constexpr, PROTECTION: tl.constexpr):
    """d (three times (R,)) in Å, r, q, u and the switch of each edge, float64; a length past the cut-off if masked."""
    x = tl.load(vector + rows * 3, mask=mask, other=2.0 * RCUT)
    y = tl.load(vector + rows * 3 + 1, mask=mask, other=0.0)
    z = tl.load(vector + rows * 3 + 2, mask=mask, other=0.0)
    r = tl.sqrt(x * x + y * y + z * z)
    u = tl.minimum(tl.maximum(r, SMTH), RCUT) - SMTH
    u = u / (RCUT - SMTH)
    u2 = u * u
    sw = u2 * u * (-6.0 * u2 + 15.0 * u - 10.0) + 1.0
    return x, y, z, r, r + PROTECTION, u, tl.where(mask, sw, 0.0)


@triton.jit
def environment_fwd(
    vector, rows, mask, statistics, SMTH: tl.constexpr, RCUT: tl.constexpr, PROTECTION: tl.constexpr
):  # fmt: skip
    """The four columns of row and the switch (R,), float64, zero where masked.

    statistics: davg (4) and dstd (4) of the centre's type, one after the other.
    """
    x, y, z, _r, q, _u, sw = distances(vector, rows, mask, SMTH, RCUT, PROTECTION)
    f = sw / (q * q)
    s = (sw / q - tl.load(statistics)) / tl.load(statistics + 4)
    a = (x * f - tl.load(statistics + 1)) / tl.load(statistics + 5)
    b = (y * f - tl.load(statistics + 2)) / tl.load(statistics + 6)
    c = (z * f - tl.load(statistics + 3)) / tl.load(statistics + 7)
    return tl.where(mask, s, 0.0), tl.where(mask, a, 0.0), tl.where(mask, b, 0.0), tl.where(mask, c, 0.0), sw


@triton.jit
def environment_bwd(
    vector, gradient, rows, mask, statistics, d_s, d_a, d_b, d_c, d_sw,
    SMTH: tl.constexpr, RCUT: tl.constexpr, PROTECTION: tl.constexpr,
):  # fmt: skip
    """Stores dE/dd (R, 3) eV/Å from dE/d(row) and dE/d(sw)."""
    x, y, z, r, q, u, sw = distances(vector, rows, mask, SMTH, RCUT, PROTECTION)
    slope = -30.0 * u * u * (1.0 - u) * (1.0 - u) / (RCUT - SMTH)
    hs = d_s.to(tl.float64) / tl.load(statistics + 4)
    ha = d_a.to(tl.float64) / tl.load(statistics + 5)
    hb = d_b.to(tl.float64) / tl.load(statistics + 6)
    hc = d_c.to(tl.float64) / tl.load(statistics + 7)
    f = sw / (q * q)
    along = hs * (slope / q - f) + (ha * x + hb * y + hc * z) * (slope / (q * q) - 2.0 * f / q)
    along = (along + d_sw.to(tl.float64) * slope) / r
    tl.store(gradient + rows * 3, ha * f + x * along, mask=mask)
    tl.store(gradient + rows * 3 + 1, hb * f + y * along, mask=mask)
    tl.store(gradient + rows * 3 + 2, hc * f + z * along, mask=mask)


@triton.jit
def gate_fwd(a, b, c, sw, mask, SMOOTH: tl.constexpr, DOTR: tl.constexpr):
    """u (three columns; one counts without DOTR) and the attention's switch, which is 1 where it is hard."""
    w = sw if SMOOTH else tl.where(mask, 1.0, 0.0).to(sw.dtype)
    if DOTR:
        inverse = w / tl.maximum(tl.sqrt(a * a + b * b + c * c), 1e-12)
        return a * inverse, b * inverse, c * inverse, w
    else:
        return w, tl.zeros_like(w), tl.zeros_like(w), w


@triton.jit
def gate_bwd(a, b, c, sw, d_u0, d_u1, d_u2, d_sw, SMOOTH: tl.constexpr, DOTR: tl.constexpr):
    """What dE/du and dE/d(the attention's switch) mean for row[1:4] and the switch."""
    if DOTR:
        length = tl.maximum(tl.sqrt(a * a + b * b + c * c), 1e-12)
        a, b, c = a / length, b / length, c / length
        along = a * d_u0 + b * d_u1 + c * d_u2
        f = (sw if SMOOTH else 1.0) / length
        d_a, d_b, d_c = (d_u0 - a * along) * f, (d_u1 - b * along) * f, (d_u2 - c * along) * f
        return d_a, d_b, d_c, (d_sw + along if SMOOTH else tl.zeros_like(d_sw))
    else:
        zero = tl.zeros_like(a)
        return zero, zero, zero, (d_sw + d_u0 if SMOOTH else tl.zeros_like(d_sw))


@triton.jit
def _environment_bwd_kernel(
    vector, gradient,  # (edges of the batch, 3), float64; gradient out
    first, at, count, center_type,  # (B,)
    statistics,  # (types, 8) float64
    d_row, d_gate,  # (edges of the chunk, 4); dE/d(sw) is the last column of d_gate
    SMTH: tl.constexpr, RCUT: tl.constexpr, PROTECTION: tl.constexpr, R: tl.constexpr,
):  # fmt: skip
    b, block = tl.program_id(0), tl.program_id(1)
    n = tl.load(count + b)
    if block * R < n:
        rows = block * R + tl.arange(0, R)
        mask = rows < n
        local = tl.load(at + b) - tl.load(at)
        edge = tl.load(first + b).to(tl.int64)
        d_s, d_a, d_b, d_c = load_four(d_row + local * 4, rows, mask)
        d_sw = tl.load(d_gate + local * 4 + 3 + rows * 4, mask=mask, other=0.0)
        environment_bwd(
            vector + edge * 3, gradient + edge * 3, rows, mask, statistics + tl.load(center_type + b) * 8,
            d_s, d_a, d_b, d_c, d_sw, SMTH, RCUT, PROTECTION,
        )  # fmt: skip
