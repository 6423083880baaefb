"""The descriptor from the moments, forward and backward (``reference.contraction``).

    X = (Σ_j g_j ⊗ row_j + n_empty·E)/nsel,   D = X X[:AXIS]ᵀ;       X̄ = D̄ X[:AXIS],   X̄[:AXIS] += D̄ᵀ X

E is what one empty slot adds, a table over pairs of types where davg is not zero. Moments stand as (4, MP), channels in
the order of ``embedding.py``; ``axis`` names the places of the first AXIS channels.
"""

from __future__ import annotations

import triton
import triton.language as tl


@triton.jit(do_not_specialize=["blocks"])
def _contraction_fwd_kernel(
    count, center_type, first_type,  # (atoms,)
    moments,  # (atoms, blocks, 4, MP)
    n_empty, empty,  # (atoms,) empty slots that carry −davg/dstd; (types, types, 4, MP)
    order, axis,  # (M,) original channel of each, (AXIS,) where the first AXIS stand; int32
    extras,  # (atoms, EXTRA) what the energy net reads besides D
    x_out,  # (atoms, 4, MP) out
    d_out,  # (atoms, WIDTH) out: D in M·AXIS columns, then extras
    blocks, width,
    NSEL: tl.constexpr, TYPES: tl.constexpr, EMPTY: tl.constexpr, EXTRA: tl.constexpr, EXTRA_PADDED: tl.constexpr,
    M: tl.constexpr, MP: tl.constexpr, AXIS: tl.constexpr, AXIS_PADDED: tl.constexpr, BLOCK_ROWS: tl.constexpr,
):  # fmt: skip
    """One program an atom."""
    b = tl.program_id(0).to(tl.int64)
    n = tl.load(count + b)
    cols, axes = tl.arange(0, MP), tl.arange(0, AXIS_PADDED)
    places = tl.load(axis + axes, mask=axes < AXIS, other=0)
    x_b = x_out + b * (4 * MP)
    for c in tl.static_range(0, 4):
        x = tl.zeros([MP], x_out.dtype.element_ty)
        for block in range(0, tl.minimum(tl.cdiv(n, BLOCK_ROWS), blocks)):
            x += tl.load(moments + (b * blocks + block) * (4 * MP) + c * MP + cols)
        if EMPTY:
            pair = tl.load(first_type + b) * TYPES + tl.load(center_type + b)
            x += tl.load(n_empty + b) * tl.load(empty + pair * (4 * MP) + c * MP + cols)
        tl.store(x_b + c * MP + cols, tl.where(cols < M, x / NSEL, 0.0))
    tl.debug_barrier()
    d = tl.zeros([MP, AXIS_PADDED], x_out.dtype.element_ty)
    for c in tl.static_range(0, 4):
        d += tl.load(x_b + c * MP + cols)[:, None] * tl.load(x_b + c * MP + places)[None, :]
    keep = (cols < M)[:, None] & (axes < AXIS)[None, :]
    original = tl.load(order + cols, mask=cols < M, other=0)
    tl.store(d_out + b * width + (original[:, None] * AXIS + axes[None, :]), d, mask=keep)
    if EXTRA > 0:
        more = tl.arange(0, EXTRA_PADDED)
        also = tl.load(extras + b * EXTRA + more, mask=more < EXTRA)
        tl.store(d_out + b * width + M * AXIS + more, also, mask=more < EXTRA)


@triton.jit
def _contraction_bwd_kernel(
    x_in, order, axis,  # (atoms, 4, MP), (M,), (AXIS,)
    d_d,  # (atoms, WIDTH) dE/dD in its first M·AXIS columns
    d_x,  # (atoms, 4, MP) out
    width,
    NSEL: tl.constexpr, M: tl.constexpr, MP: tl.constexpr, AXIS: tl.constexpr, AXIS_PADDED: tl.constexpr,
):  # fmt: skip
    """One program an atom."""
    b = tl.program_id(0).to(tl.int64)
    cols, axes = tl.arange(0, MP), tl.arange(0, AXIS_PADDED)
    places = tl.load(axis + axes, mask=axes < AXIS, other=0)
    keep = (cols < M)[:, None] & (axes < AXIS)[None, :]
    original = tl.load(order + cols, mask=cols < M, other=0)
    g = tl.load(d_d + b * width + (original[:, None] * AXIS + axes[None, :]), mask=keep, other=0.0) / NSEL
    for c in tl.static_range(0, 4):
        at = b * (4 * MP) + c * MP
        d_axis = tl.sum(g * tl.load(x_in + at + cols)[:, None], axis=0)
        tl.store(d_x + at + cols, tl.sum(g * tl.load(x_in + at + places)[None, :], axis=1))
        tl.debug_barrier()
        here = tl.load(d_x + at + places, mask=axes < AXIS, other=0.0)
        tl.store(d_x + at + places, here + d_axis, mask=axes < AXIS)
