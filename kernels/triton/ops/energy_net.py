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
    x,  # (B, K) the layer's input, read where it is added again
    z,  # (B, N) in: x W; out: the slope act′·idt
    y,  # (B, N) out
    narrow,  # (B, N) out where NARROW: y as the next product takes it
    vectors,  # (2, N) bias and idt
    atoms,
    K: tl.constexpr, N: tl.constexpr, RESIDUAL: tl.constexpr, KIND: tl.constexpr, T: tl.constexpr,
    NARROW: tl.constexpr, R: tl.constexpr, W: tl.constexpr,
):  # fmt: skip
    """R atoms, W columns."""
    start = tl.program_id(0).to(tl.int64) * R
    rows, cols = tl.arange(0, R), tl.program_id(1) * W + tl.arange(0, W)
    mask = (start + rows < atoms)[:, None] & (cols < N)[None, :]
    at = rows[:, None] * N + cols[None, :]
    z += start * N
    bias = tl.load(vectors + cols, mask=cols < N, other=0.0)
    idt = tl.load(vectors + N + cols, mask=cols < N, other=0.0)
    value, slope = activate(tl.load(z + at, mask=mask, other=0.0) + bias[None, :], KIND, T)
    value *= idt[None, :]
    if RESIDUAL != 0:
        value += tl.load(x + start * K + (rows[:, None] * K + (cols % K)[None, :]), mask=mask, other=0.0)
    tl.store(y + start * N + at, value, mask=mask)
    if NARROW:
        tl.store(narrow + start * N + at, value, mask=mask)
    tl.store(z + at, slope * idt[None, :], mask=mask)


@triton.jit(do_not_specialize=["atoms"])
def _energy_last_kernel(
    center_type,  # (B,)
    h, slopes,  # (B, N) output of the last hidden layer, and its slopes where HIDDEN: there is one
    d_h, d_p,  # (B, N) out where BACKWARD: dE/dh; where HIDDEN times the slopes, as a product takes it
    energy,  # (B,) out, eV, float64
    last,  # (N,) and a bias
    alive, bias,  # (types,) 1 or 0, and eV, float64
    atoms,
    N: tl.constexpr, HIDDEN: tl.constexpr, BACKWARD: tl.constexpr, R: tl.constexpr, W: tl.constexpr,
):  # fmt: skip
    """R atoms, all columns: energies, and where the backward pass begins."""
    start = tl.program_id(0).to(tl.int64) * R
    rows = tl.arange(0, R)
    mask = start + rows < atoms
    types = tl.load(center_type + start + rows, mask=mask, other=0)
    lives = tl.load(alive + types, mask=mask, other=0.0)
    total = tl.zeros([R], tl.float64) + tl.load(last + N).to(tl.float64)
    for n in range(0, N, W):
        cols = n + tl.arange(0, W)
        keep = mask[:, None] & (cols < N)[None, :]
        at = rows[:, None] * N + cols[None, :]
        w = tl.load(last + cols, mask=cols < N, other=0.0)
        x = tl.load(h + start * N + at, mask=keep, other=0.0)
        total += tl.sum(x.to(tl.float64) * w[None, :].to(tl.float64), axis=1)
        if BACKWARD:
            d = tl.where(lives > 0, 1.0, 0.0).to(x.dtype)[:, None] * w[None, :]
            tl.store(d_h + start * N + at, d, mask=keep)
            if HIDDEN:
                tl.store(d_p + start * N + at, d * tl.load(slopes + start * N + at, mask=keep, other=0.0), mask=keep)
    tl.store(energy + start + rows, total * lives + tl.load(bias + types, mask=mask, other=0.0), mask=mask)


@triton.jit(do_not_specialize=["atoms"])
def _energy_layer_bwd_kernel(
    d_x,  # (B, K) in: p̄ Wᵀ; out: dE/dx
    d_y,  # (B, N) dE/dy, read where x is added to y
    slopes,  # (B, K) those of the layer before, where HIDDEN: there is one
    d_p,  # (B, K) out where HIDDEN: dE/dx times the slopes, as a product takes it
    atoms,
    K: tl.constexpr, N: tl.constexpr, RESIDUAL: tl.constexpr, HIDDEN: tl.constexpr,
    R: tl.constexpr, W: tl.constexpr,
):  # fmt: skip
    """R atoms, W columns."""
    start = tl.program_id(0).to(tl.int64) * R
    rows, cols = tl.arange(0, R), tl.program_id(1) * W + tl.arange(0, W)
    mask = (start + rows < atoms)[:, None] & (cols < K)[None, :]
    at = rows[:, None] * K + cols[None, :]
    d = tl.load(d_x + start * K + at, mask=mask, other=0.0)
    if RESIDUAL != 0:
        above = d_y + start * N + (rows[:, None] * N + cols[None, :])
        d += tl.load(above, mask=mask, other=0.0)
        if RESIDUAL == 2:
            d += tl.load(above + K, mask=mask, other=0.0)
        tl.store(d_x + start * K + at, d, mask=mask)
    if HIDDEN:
        tl.store(d_p + start * K + at, d * tl.load(slopes + start * K + at, mask=mask, other=0.0), mask=mask)
