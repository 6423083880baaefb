"""Matrices that lie spread over the registers of a warp, as tensor cores take them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from .number_types import F16, F32, LANE, U16, U32

Array = Any

GROUP, MEMBER = LANE >> 2, LANE & 3
"""Four threads hold a row."""


def tf32_value(bits: Array) -> Array:
    """What tensor cores read of 32 bits."""
    return (bits & U32(0xFFFFE000)).view(F32)


def half_value(bits: Array, how: str) -> Array:
    """16 bits, "bf16" or "f16", as float32."""
    return (bits.astype(U32) << U32(16)).view(F32) if how == "bf16" else bits.view(F16).astype(F32)


def halves(bits: Array, how: str) -> tuple[Array, Array]:
    """Lower and upper half of 32 bits as numbers."""
    return half_value((bits & U32(0xFFFF)).astype(U16), how), half_value((bits >> U32(16)).astype(U16), how)


def left(a: Sequence[Array], how: str) -> Array:
    """A: (16, 8) of tf32, (16, 16) of half precisions."""
    if how == "tf32":
        out = np.empty((16, 8), dtype=F32)
        out[GROUP, MEMBER], out[GROUP + 8, MEMBER] = tf32_value(a[0]), tf32_value(a[1])
        out[GROUP, MEMBER + 4], out[GROUP + 8, MEMBER + 4] = tf32_value(a[2]), tf32_value(a[3])
        return out
    out = np.empty((16, 16), dtype=F32)
    first, second = 2 * MEMBER, 2 * MEMBER + 8
    for x, row, column in zip(a, (GROUP, GROUP + 8) * 2, (first, first, second, second), strict=True):
        out[row, column], out[row, column + 1] = halves(x, how)
    return out


def right(b: Sequence[Array], how: str) -> Array:
    """B: (8, 8) of tf32, (16, 8) of half precisions."""
    if how == "tf32":
        out = np.empty((8, 8), dtype=F32)
        out[MEMBER, GROUP], out[MEMBER + 4, GROUP] = tf32_value(b[0]), tf32_value(b[1])
        return out
    out = np.empty((16, 8), dtype=F32)
    out[2 * MEMBER, GROUP], out[2 * MEMBER + 1, GROUP] = halves(b[0], how)
    out[2 * MEMBER + 8, GROUP], out[2 * MEMBER + 9, GROUP] = halves(b[1], how)
    return out


PLACES = ((GROUP, 2 * MEMBER), (GROUP, 2 * MEMBER + 1), (GROUP + 8, 2 * MEMBER), (GROUP + 8, 2 * MEMBER + 1))
"""Rows and columns of an accumulator's four registers."""


def multiply_add(how: str) -> Callable[[Sequence[Array], Sequence[Array], Sequence[Array]], tuple[Array, ...]]:
    """mma.sync: C + A·B from registers to registers."""

    def run(a: Sequence[Array], b: Sequence[Array], c: Sequence[Array]) -> tuple[Array, ...]:
        out = left(a, how) @ right(b, how)
        return tuple((out[at] + x.view(F32)).view(U32) for at, x in zip(PLACES, c, strict=True))

    return run


def packed(matrix: Array) -> Array:
    """Half-precision bits (8, 8) as ldmatrix gives them: two neighbouring columns a thread."""
    return matrix[GROUP, 2 * MEMBER].astype(U32) | (matrix[GROUP, 2 * MEMBER + 1].astype(U32) << U32(16))


def unpacked(bits: Array) -> Array:
    """The same, back."""
    matrix = np.empty((8, 8), dtype=U16)
    matrix[GROUP, 2 * MEMBER] = (bits & U32(0xFFFF)).astype(U16)
    matrix[GROUP, 2 * MEMBER + 1] = (bits >> U32(16)).astype(U16)
    return matrix
