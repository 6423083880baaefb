"""What instructions compute that numpy has no function for. Arrays of 32: an element a thread."""

from __future__ import annotations

from typing import Any

import numpy as np

from .number_types import F16, F64, I32, LANE, U16, U32, U64

Array = Any


def bit_field(x: Array, at: int, size: int) -> Array:
    """bfe: ``size`` bits from ``at`` on, with the sign of signed numbers."""
    if x.dtype == I32:
        return ((x.view(U32) << U32(32 - at - size)).view(I32)) >> I32(32 - size)
    return (x >> x.dtype.type(at)) & x.dtype.type((1 << size) - 1)


def permuted(a: Array, b: Array, how: Array) -> Array:
    """prmt: four bytes of the eight of a and b, or their signs."""
    both = a.astype(U64) | (b.astype(U64) << U64(32))
    out = np.zeros(32, dtype=U32)
    for j in range(4):
        which = (how >> U32(4 * j)) & U32(15)
        byte = ((both >> (U64(8) * (which & U32(7)).astype(U64))) & U64(255)).astype(U32)
        out |= np.where(which & U32(8), np.where(byte & U32(128), U32(255), U32(0)), byte) << U32(8 * j)
    return out


def shifted_left(x: Array, n: Array) -> Array:
    """shl by an amount that may be more than there are bits."""
    bits = x.dtype.itemsize * 8
    return np.where(n >= bits, x.dtype.type(0), x << np.minimum(n, bits - 1).astype(x.dtype))


def shifted_right(x: Array, n: Array) -> Array:
    """shr likewise."""
    bits = x.dtype.itemsize * 8
    return np.where(n >= bits, x.dtype.type(0), x >> np.minimum(n, bits - 1).astype(x.dtype))


def to_bfloat16(x: Array) -> Array:
    """float32 to the bits of bfloat16, to nearest even."""
    bits = x.view(U32)
    rounded = ((bits + U32(0x7FFF) + ((bits >> U32(16)) & U32(1))) >> U32(16)).astype(U16)
    return np.where(np.isnan(x), U16(0x7FFF), rounded)


def to_float16(x: Array) -> Array:
    """float32 to the bits of float16."""
    return x.astype(F16).view(U16)


def to_tf32(bits: Array) -> Array:
    """float32 to tf32, both as bits: to nearest, ties away from zero."""
    special = (bits & U32(0x7F800000)) == U32(0x7F800000)
    return np.where(special, bits, (bits + U32(0x1000)) & U32(0xFFFFE000))


def from_other_lane(x: Array, lane: Array, clamp: int) -> Array:
    """shfl.sync.idx: each thread gets the number of another one in its part of the warp."""
    segment = (clamp >> 8) & 31
    return x[(lane & (31 & ~segment)) | (LANE & segment)]


# --- float64 multiply-adds --------------------------------------------------------------------------------------------


def multiply_add(a: Array, b: Array, c: Array) -> Array:
    """fma.rn.f64: a·b + c rounded once, of numbers whose parts neither overflow nor vanish (Boldo and Melquiond, 2008).

    Product and sum are exact in two parts each; what the small parts add up to is rounded to odd before the last sum.
    """
    high, low = _exact_product(a, b)
    top, rest = _exact_sum(c, low)
    first, second = _exact_sum(high, top)
    out = first + _to_odd(*_exact_sum(rest, second))
    return np.where(np.isfinite(out), out, a * b + c)


def _exact_sum(a: Array, b: Array) -> tuple[Array, Array]:
    out = a + b
    part = out - a
    return out, (a - (out - part)) + (b - part)


def _exact_product(a: Array, b: Array) -> tuple[Array, Array]:
    out = a * b
    (a0, a1), (b0, b1) = _halves(a), _halves(b)
    return out, ((a0 * b0 - out) + a0 * b1 + a1 * b0) + a1 * b1


def _halves(x: Array) -> tuple[Array, Array]:
    high = x * 134217729.0  # 2²⁷ + 1
    high = high - (high - x)
    return high, x - high


def _to_odd(x: Array, error: Array) -> Array:
    """x + error: x, or its neighbour towards the error, of the two the one whose last bit is 1."""
    away = np.nextafter(x, np.where(error > 0, np.inf, -np.inf))
    even = (np.ascontiguousarray(x, F64).view(U64) & U64(1)) == 0
    return np.where((error != 0) & even, away, x)
