"""The backward pass of the first layer in coordinates, down to dE/d(row) and dE/d(sw); see ``reduced_attention.py``.

ȳ = z̄ (C W_vo)ᵀ,    φ̄ = z̄ Cᵀ + what comes back from pairs of neighbours,    s̄ = φ̄ · dφ/ds.
"""

from __future__ import annotations

import triton
import triton.language as tl

from .gated_attention import KEPT, NUMBERS, WIDE, _attended, _fresh_zero
from .gated_attention_bwd import _back_to_rows, _gates_back, _norm_bwd, _pairs
from .products import dot, load_matrix, load_rows, store_rows
from .reduced_attention import SPAN_T, TO_Y, WIDE_MATRICES, _widened
from .series import along_range, series_bwd


@triton.jit
def _to_coordinates(
    d_z, own_rows, own_operands, rows, mask, zero, wide,
    N: tl.constexpr, NP: tl.constexpr, M: tl.constexpr, B: tl.constexpr, W: tl.constexpr, PREC: tl.constexpr,
):  # fmt: skip
    """From z̄ of rows, in memory, to ȳ among the operands, and to φ̄'s first part in scratch."""
    d_phi, d_y = tl.zeros([B, M], own_rows.dtype.element_ty), tl.zeros([B, M], own_rows.dtype.element_ty)
    for c in range(0, NP, W):
        part = load_rows(d_z, rows, mask, zero + c, N, NP, W)
        d_phi = dot(part, load_matrix(wide + SPAN_T * (M * NP), c, zero, NP, M, M, W, M), d_phi, PREC)
        d_y = dot(part, load_matrix(wide + TO_Y * (M * NP), c, zero, NP, M, M, W, M), d_y, PREC)
    store_rows(own_rows, rows, mask, d_phi, zero, M, WIDE * M, M)
    store_rows(own_operands + M, rows, mask, d_y, zero, M, KEPT * M, M)


@triton.jit(do_not_specialize=["atoms"])
def _reduced_attention_bwd_kernel(
    at, count, empty, center_type, first,  # (B,)
    phi, row, gate, lengths,  # (edges of the chunk, M), (…, 4), (…, 4), (…, 3)
    d_g,  # (edges of the chunk, N), not for the last layer
    d_row, d_gate,  # (edges of the chunk, 4); in (but for the last layer) and out, the latter's last column
    d_x,  # (B, 4, NP) dE/dX, for the last layer
    scratch, operands, stats,  # (programs, rows, WIDE, M), (programs, rows, KEPT, M), (programs, rows, NUMBERS)
    d_z,  # (programs, rows, NP), in the products' precision
    matrices, vectors, wide, norm,
    neighbor_type, series, ranges,  # (edges of the batch,), (types, TYPES, SETS, M, TERMS), (types, 2)
    atoms, scratch_rows,
    SCALE: tl.constexpr, EPS: tl.constexpr, SMOOTH: tl.constexpr, DOTR: tl.constexpr, NORMALIZE: tl.constexpr,
    LAST: tl.constexpr, N: tl.constexpr, NP: tl.constexpr, M: tl.constexpr,
    MATRICES: tl.constexpr, VECTORS: tl.constexpr, TYPES: tl.constexpr, SETS: tl.constexpr, TERMS: tl.constexpr,
    Q: tl.constexpr, K: tl.constexpr, B: tl.constexpr, R: tl.constexpr, E: tl.constexpr, W: tl.constexpr,
    PREC: tl.constexpr, SERIES_PREC: tl.constexpr,
):  # fmt: skip
    """Programs walk over atoms. Q: keys of a block, by which K queries pass at a time; B, R as in the forward pass; E:
    edges at a time in the end; W: chunk of N channels."""
    program = tl.program_id(0).to(tl.int64) * scratch_rows
    for b in range(tl.program_id(0), atoms, tl.num_programs(0)):
        n = tl.load(count + b)
        kind = tl.load(center_type + b)
        own_matrices, own_vectors = matrices + kind * MATRICES, vectors + kind * VECTORS
        _attended(
            at, count, empty, b, n, phi, gate, lengths, operands, stats, program, own_matrices, own_vectors,
            SCALE, SMOOTH, DOTR, NORMALIZE, False, M, M, K, M, M, B, PREC,
        )  # fmt: skip
        for r in range(0, n, R):
            zero = _fresh_zero(count, b, n)
            e0 = tl.load(at + b) - tl.load(at) + zero
            few = r + zero + tl.arange(0, R)
            own_stats = stats + (program + zero) * NUMBERS
            z, attended, to_value = _widened(
                phi + e0 * M, operands + (program + zero) * (KEPT * M), own_stats, few, few < n, zero,
                wide + zero + kind * (WIDE_MATRICES * M * NP), norm + zero, NP, M, PREC,
            )  # fmt: skip
            d_rows = _norm_bwd(
                z, attended, to_value, row + e0 * 4, d_g + e0 * N, d_row + e0 * 4,
                d_x + zero + tl.full((), 4 * NP, tl.int64) * b, own_stats, few, few < n, zero, norm + zero, EPS, LAST,
                N, NP,
            )  # fmt: skip
            store_rows(d_z + (program + zero) * NP, few, few < n, d_rows, zero, N, NP, NP)
        tl.debug_barrier()
        for r in range(0, n, B):
            zero = _fresh_zero(count, b, n)
            many = r + zero + tl.arange(0, B)
            _to_coordinates(
                d_z + (program + zero) * NP, scratch + (program + zero) * (WIDE * M),
                operands + (program + zero) * (KEPT * M), many, many < n, zero,
                wide + zero + kind * (WIDE_MATRICES * M * NP), N, NP, M, B, W, PREC,
            )  # fmt: skip
        tl.debug_barrier()
        for k in range(0, n, Q):
            zero = _fresh_zero(count, b, n)
            e0 = tl.load(at + b) - tl.load(at) + zero
            keys = k + zero + tl.arange(0, Q)
            _pairs(
                phi + e0 * M, gate + e0 * 4, scratch + (program + zero) * (WIDE * M),
                operands + (program + zero) * (KEPT * M), stats + (program + zero) * NUMBERS, n, keys, keys < n, k > 0,
                zero, SMOOTH, DOTR, M, M, M, Q, K, M, PREC,
            )  # fmt: skip
            tl.debug_barrier()
        for r in range(0, n, B):
            zero = _fresh_zero(count, b, n)
            e0 = tl.load(at + b) - tl.load(at) + zero
            many = r + zero + tl.arange(0, B)
            _gates_back(
                row + e0 * 4, gate + e0 * 4, lengths + e0 * 3, d_row + e0 * 4, d_gate + e0 * 4,
                stats + (program + zero) * NUMBERS, many, many < n, SMOOTH, DOTR, NORMALIZE, True, LAST,
            )  # fmt: skip
        tl.debug_barrier()
        for r in range(0, n, E):
            zero = _fresh_zero(count, b, n)
            e0 = tl.load(at + b) - tl.load(at) + zero
            rows = r + zero + tl.arange(0, E)
            mask = rows < n
            d_phi = _back_to_rows(
                phi + e0 * M, scratch + (program + zero) * (WIDE * M), stats + (program + zero) * NUMBERS, rows, mask,
                zero, own_matrices + zero, own_vectors + zero, NORMALIZE, M, M, E, M, PREC,
            )  # fmt: skip
            at_s, at_sw = d_row + e0 * 4 + rows * 4, d_gate + e0 * 4 + 3 + rows * 4
            x = along_range(tl.load(row + e0 * 4 + rows * 4, mask=mask, other=0.0), mask, ranges + kind * 2)
            sw = tl.load(gate + e0 * 4 + 3 + rows * 4, mask=mask, other=0.0)
            edge = (tl.load(first + b) + zero).to(tl.int64)
            around = tl.load(neighbor_type + edge + rows, mask=mask, other=0)
            d_along, d_sw = series_bwd(
                d_phi, x, sw, around, series + zero + kind * (TYPES * SETS * TERMS * M), zero, TYPES, SETS, TERMS, M,
                SERIES_PREC,
            )  # fmt: skip
            d_s = tl.load(at_s, mask=mask, other=0.0) + d_along * tl.load(ranges + kind * 2)
            tl.store(at_s, d_s, mask=mask)
            if SETS == 2:
                tl.store(at_sw, tl.load(at_sw, mask=mask, other=0.0) + d_sw, mask=mask)
