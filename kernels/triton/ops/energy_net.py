"""What the energy net does between its products, forward and backward (``reference.energy_network``).

Products are those of torch, see ``energy.py``. A hidden layer is h' = act(h W + b)·idt (+ h, or + [h, h]); its slope
act′·idt is kept. Backward, p̄ = h̄'·act′·idt is what is multiplied by Wᵀ, and h̄ = p̄ Wᵀ (+ h̄', or + both halves of it).
"""

from __future__ import annotations

import triton
import triton.language as tl

from .products import activate


@triton.jit(do_not_specialize=["atoms"])
def _energy_layer_fwd_kernel(
    x,  # (atoms, N_IN) the layer's input, read where it is added again
    z,  # (atoms, N_OUT) in: x W; out: the slope act′·idt
    y,  # (atoms, N_OUT) out
    narrow,  # (atoms, N_OUT) out where NARROW: y as the next product takes it
    vectors,  # (2, N) bias and idt
    atoms,
    N_IN: tl.constexpr, N_OUT: tl.constexpr, RESIDUAL: tl.constexpr, KIND: tl.constexpr, THRESHOLD: tl.constexpr,
    NARROW: tl.constexpr, BLOCK_ROWS: tl.constexpr, BLOCK_COLUMNS: tl.constexpr,
):  # fmt: skip
    """BLOCK_ROWS atoms, BLOCK_COLUMNS columns."""
    start = tl.program_id(0).to(tl.int64) * BLOCK_ROWS
    rows, cols = tl.arange(0, BLOCK_ROWS), tl.program_id(1) * BLOCK_COLUMNS + tl.arange(0, BLOCK_COLUMNS)
    mask = (start + rows < atoms)[:, None] & (cols < N_OUT)[None, :]
    at = rows[:, None] * N_OUT + cols[None, :]
    z += start * N_OUT
    bias = tl.load(vectors + cols, mask=cols < N_OUT, other=0.0)
    idt = tl.load(vectors + N_OUT + cols, mask=cols < N_OUT, other=0.0)
    value, slope = activate(tl.load(z + at, mask=mask, other=0.0) + bias[None, :], KIND, THRESHOLD)
    value *= idt[None, :]
    if RESIDUAL != 0:
        value += tl.load(x + start * N_IN + (rows[:, None] * N_IN + (cols % N_IN)[None, :]), mask=mask, other=0.0)
    tl.store(y + start * N_OUT + at, value, mask=mask)
    if NARROW:
        tl.store(narrow + start * N_OUT + at, value, mask=mask)
    tl.store(z + at, slope * idt[None, :], mask=mask)


@triton.jit(do_not_specialize=["atoms"])
def _energy_last_kernel(
    center_type,  # (atoms,)
    h, slopes,  # (atoms, N_OUT) output of the last hidden layer, and its slopes where HIDDEN: there is one
    d_h, d_p,  # (atoms, N_OUT) out where BACKWARD: dE/dh; where HIDDEN times the slopes, as a product takes it
    energy,  # (atoms,) out, eV, float64
    last,  # (N,) and a bias
    alive, bias,  # (types,) 1 or 0, and eV, float64
    atoms,
    N_OUT: tl.constexpr, HIDDEN: tl.constexpr, BACKWARD: tl.constexpr,
    BLOCK_ROWS: tl.constexpr, BLOCK_COLUMNS: tl.constexpr,
):  # fmt: skip
    """BLOCK_ROWS atoms, all columns: energies, and where the backward pass begins."""
    start = tl.program_id(0).to(tl.int64) * BLOCK_ROWS
    rows = tl.arange(0, BLOCK_ROWS)
    mask = start + rows < atoms
    types = tl.load(center_type + start + rows, mask=mask, other=0)
    lives = tl.load(alive + types, mask=mask, other=0.0)
    total = tl.zeros([BLOCK_ROWS], tl.float64) + tl.load(last + N_OUT).to(tl.float64)
    for n in range(0, N_OUT, BLOCK_COLUMNS):
        cols = n + tl.arange(0, BLOCK_COLUMNS)
        keep = mask[:, None] & (cols < N_OUT)[None, :]
        at = rows[:, None] * N_OUT + cols[None, :]
        w = tl.load(last + cols, mask=cols < N_OUT, other=0.0)
        x = tl.load(h + start * N_OUT + at, mask=keep, other=0.0)
        total += tl.sum(x.to(tl.float64) * w[None, :].to(tl.float64), axis=1)
        if BACKWARD:
            d = tl.where(lives > 0, 1.0, 0.0).to(x.dtype)[:, None] * w[None, :]
            tl.store(d_h + start * N_OUT + at, d, mask=keep)
            if HIDDEN:
                tl.store(
                    d_p + start * N_OUT + at, d * tl.load(slopes + start * N_OUT + at, mask=keep, other=0.0), mask=keep
                )
    tl.store(energy + start + rows, total * lives + tl.load(bias + types, mask=mask, other=0.0), mask=mask)


@triton.jit(do_not_specialize=["atoms"])
def _energy_layer_bwd_kernel(
    d_x,  # (atoms, N_IN) in: p̄ Wᵀ; out: dE/dx
    d_y,  # (atoms, N_OUT) dE/dy, read where x is added to y
    slopes,  # (atoms, N_IN) those of the layer before, where HIDDEN: there is one
    d_p,  # (atoms, N_IN) out where HIDDEN: dE/dx times the slopes, as a product takes it
    atoms,
    N_IN: tl.constexpr, N_OUT: tl.constexpr, RESIDUAL: tl.constexpr, HIDDEN: tl.constexpr,
    BLOCK_ROWS: tl.constexpr, BLOCK_COLUMNS: tl.constexpr,
):  # fmt: skip
    """BLOCK_ROWS atoms, BLOCK_COLUMNS columns."""
    start = tl.program_id(0).to(tl.int64) * BLOCK_ROWS
    rows, cols = tl.arange(0, BLOCK_ROWS), tl.program_id(1) * BLOCK_COLUMNS + tl.arange(0, BLOCK_COLUMNS)
    mask = (start + rows < atoms)[:, None] & (cols < N_IN)[None, :]
    at = rows[:, None] * N_IN + cols[None, :]
    d = tl.load(d_x + start * N_IN + at, mask=mask, other=0.0)
    if RESIDUAL != 0:
        above = d_y + start * N_OUT + (rows[:, None] * N_OUT + cols[None, :])
        d += tl.load(above, mask=mask, other=0.0)
        if RESIDUAL == 2:
            d += tl.load(above + N_IN, mask=mask, other=0.0)
        tl.store(d_x + start * N_IN + at, d, mask=mask)
    if HIDDEN:
        tl.store(d_p + start * N_IN + at, d * tl.load(slopes + start * N_IN + at, mask=mask, other=0.0), mask=mask)
