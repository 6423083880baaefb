"""The backward pass of the first layer in coordinates, down to dE/d(row) and dE/d(sw); see ``reduced_attention.py``.

ȳ = z̄ (C W_vo)ᵀ,    φ̄ = z̄ Cᵀ + what comes back from pairs of neighbours,    s̄ = φ̄ · dφ/ds.
"""

from __future__ import annotations

import triton
import triton.language as tl

from .gated_attention import KEPT, NUMBERS, WIDE
from .gated_attention_bwd import _back_to_rows, _gates_back, _norm_bwd
from .products import dot, load_matrix, load_rows, store_rows
from .reduced_attention import SPAN_T, TO_Y, WIDE_MATRICES, _widened
from .series import along_range, series_bwd


@triton.jit
def _to_coordinates(
    d_z, own_rows, own_operands, rows, mask, wide,
    N: tl.constexpr, NP: tl.constexpr, M: tl.constexpr, BLOCK_ROWS: tl.constexpr, BLOCK_INNER: tl.constexpr,
    PREC: tl.constexpr,
):  # fmt: skip
    """From z̄ of rows, in memory, to ȳ among the operands, and to φ̄'s first part in scratch."""
    d_phi, d_y = (
        tl.zeros([BLOCK_ROWS, M], own_rows.dtype.element_ty),
        tl.zeros([BLOCK_ROWS, M], own_rows.dtype.element_ty),
    )
    for c in range(0, NP, BLOCK_INNER):
        part = load_rows(d_z, rows, mask, c, N, NP, BLOCK_INNER)
        d_phi = dot(part, load_matrix(wide + SPAN_T * (M * NP), c, 0, NP, M, M, BLOCK_INNER, M), d_phi, PREC)
        d_y = dot(part, load_matrix(wide + TO_Y * (M * NP), c, 0, NP, M, M, BLOCK_INNER, M), d_y, PREC)
    store_rows(own_rows, rows, mask, d_phi, M, WIDE * M, M)
    store_rows(own_operands + M, rows, mask, d_y, M, KEPT * M, M)


@triton.jit
def _reduced_output_bwd_kernel(
    at, count, center_type,  # (atoms,)
    phi, row,  # (edges of the chunk, M), (…, 4)
    d_g,  # (edges of the chunk, N), not for the last layer
    d_row,  # (edges of the chunk, 4) out, for the last layer
    d_x,  # (atoms, 4, NP) dE/dX, for the last layer
    d_z,  # (edges of the chunk, NP) out, in the products' precision
    scratch, operands, stats,  # (…, WIDE, M) out: φ̄'s first part; (…, KEPT, M) in y, out ȳ; (…, NUMBERS)
    wide, norm,
    EPS: tl.constexpr, LAST: tl.constexpr, N: tl.constexpr, NP: tl.constexpr, M: tl.constexpr,
    BLOCK_ROWS: tl.constexpr, BLOCK_INNER: tl.constexpr, PREC: tl.constexpr,
):  # fmt: skip
    """BLOCK_INNER: of N channels."""
    b, r = tl.program_id(0), tl.program_id(1) * BLOCK_ROWS
    n = tl.load(count + b)
    if r < n:
        e0 = tl.load(at + b) - tl.load(at)
        rows = r + tl.arange(0, BLOCK_ROWS)
        mask = rows < n
        wide += tl.load(center_type + b) * (WIDE_MATRICES * M * NP)
        own_operands, own_stats = operands + e0 * (KEPT * M), stats + e0 * NUMBERS
        z, attended, to_value = _widened(
            phi + e0 * M, own_operands, own_stats, rows, mask, wide, norm, NP, M, PREC
        )  # fmt: skip
        d_rows = _norm_bwd(
            z, attended, to_value, row + e0 * 4, d_g + e0 * N, d_row + e0 * 4, d_x + b.to(tl.int64) * (4 * NP),
            own_stats, rows, mask, norm, EPS, LAST, N, NP,
        )  # fmt: skip
        store_rows(d_z + e0 * NP, rows, mask, d_rows, N, NP, NP)
        tl.debug_barrier()
        _to_coordinates(
            d_z + e0 * NP, scratch + e0 * (WIDE * M), own_operands, rows, mask, wide, N, NP, M,
            BLOCK_ROWS, BLOCK_INNER, PREC
        )  # fmt: skip


@triton.jit
def _reduced_project_bwd_kernel(
    at, count, center_type, first,  # (atoms,)
    phi, row, gate, lengths,  # (edges of the chunk, M), (…, 4), (…, 4), (…, 3)
    d_row, d_gate,  # (edges of the chunk, 4); in (but for the last layer) and out, the latter's last column
    scratch, stats, matrices, vectors,
    neighbor_type, series, ranges,  # (edges of the batch,), (types, TYPES, SETS, M, TERMS), (types, 2)
    SMOOTH: tl.constexpr, DOTR: tl.constexpr, NORMALIZE: tl.constexpr, LAST: tl.constexpr, M: tl.constexpr,
    MATRICES: tl.constexpr, VECTORS: tl.constexpr, TYPES: tl.constexpr, SETS: tl.constexpr, TERMS: tl.constexpr,
    BLOCK_ROWS: tl.constexpr, PREC: tl.constexpr, SERIES_PREC: tl.constexpr,
):  # fmt: skip
    """dE/d(row) and dE/d(sw), through t, the lengths and the series."""
    b, r = tl.program_id(0), tl.program_id(1) * BLOCK_ROWS
    n = tl.load(count + b)
    if r < n:
        e0 = tl.load(at + b) - tl.load(at)
        kind = tl.load(center_type + b)
        rows = r + tl.arange(0, BLOCK_ROWS)
        mask = rows < n
        own_stats = stats + e0 * NUMBERS
        _gates_back(
            row + e0 * 4, gate + e0 * 4, lengths + e0 * 3, d_row + e0 * 4, d_gate + e0 * 4, own_stats, rows, mask,
            SMOOTH, DOTR, NORMALIZE, True, LAST,
        )  # fmt: skip
        tl.debug_barrier()
        d_phi = _back_to_rows(
            phi + e0 * M, scratch + e0 * (WIDE * M), own_stats, rows, mask, matrices + kind * MATRICES,
            vectors + kind * VECTORS, NORMALIZE, M, M, BLOCK_ROWS, M, PREC,
        )  # fmt: skip
        at_s, at_sw = d_row + e0 * 4 + rows * 4, d_gate + e0 * 4 + 3 + rows * 4
        x = along_range(tl.load(row + e0 * 4 + rows * 4, mask=mask, other=0.0), mask, ranges + kind * 2)
        sw = tl.load(gate + e0 * 4 + 3 + rows * 4, mask=mask, other=0.0)
        edge = tl.load(first + b).to(tl.int64)
        around = tl.load(neighbor_type + edge + rows, mask=mask, other=0)
        d_along, d_sw = series_bwd(
            d_phi, x, sw, around, series + kind * (TYPES * SETS * TERMS * M), TYPES, SETS, TERMS, M, SERIES_PREC
        )  # fmt: skip
        tl.store(at_s, tl.load(at_s, mask=mask, other=0.0) + d_along * tl.load(ranges + kind * 2), mask=mask)
        if SETS == 2:
            tl.store(at_sw, tl.load(at_sw, mask=mask, other=0.0) + d_sw, mask=mask)
