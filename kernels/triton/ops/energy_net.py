"""The energy net, forward and backward in one kernel (``reference.energy_network``).

A program takes R atoms through all layers and back. Activations and slopes go through memory that stays in the cache;
each layer is a product in tiles, h' = act(h W + b)·idt (+ h, or + [h, h]), and back h̄ = (h̄'·act′·idt) Wᵀ (+ …).
"""

from __future__ import annotations

import triton
import triton.language as tl

from .products import activate, dot


@triton.jit
def _forward(
    source, target, slopes, rows, mask, weight, vectors, source_stride, target_stride,
    K: tl.constexpr, N: tl.constexpr, KP: tl.constexpr, NP: tl.constexpr, RESIDUAL: tl.constexpr,
    KIND: tl.constexpr, T: tl.constexpr, R: tl.constexpr, C: tl.constexpr, W: tl.constexpr, PREC: tl.constexpr,
):  # fmt: skip
    """One layer. weight: (KP, NP). vectors: bias, idt (NP each)."""
    work = source.dtype.element_ty
    for n in range(0, NP, W):
        cols = n + tl.arange(0, W)
        acc = tl.zeros([R, W], work)
        for k in range(0, KP, C):
            inner = k + tl.arange(0, C)
            keep = mask[:, None] & (inner < K)[None, :]
            a = tl.load(source + (rows[:, None] * source_stride + inner[None, :]), mask=keep, other=0.0)
            acc = dot(a, tl.load(weight + (inner[:, None] * NP + cols[None, :])), acc, PREC)
        y, slope = activate(acc + tl.load(vectors + cols)[None, :], KIND, T)
        idt = tl.load(vectors + NP + cols)[None, :]
        y = y * idt
        keep = mask[:, None] & (cols < N)[None, :]
        if RESIDUAL != 0:
            y += tl.load(source + (rows[:, None] * source_stride + (cols % K)[None, :]), mask=keep, other=0.0)
        tl.store(target + (rows[:, None] * target_stride + cols[None, :]), y, mask=keep)
        tl.store(slopes + (rows[:, None] * target_stride + cols[None, :]), slope * idt, mask=keep)
    tl.debug_barrier()


@triton.jit
def _backward(
    d_y, slopes, d_x, rows, mask, weight, y_stride, x_stride,
    K: tl.constexpr, N: tl.constexpr, KP: tl.constexpr, NP: tl.constexpr, RESIDUAL: tl.constexpr,
    R: tl.constexpr, C: tl.constexpr, W: tl.constexpr, PREC: tl.constexpr,
):  # fmt: skip
    """dE/dh from dE/dh'. weight: Wᵀ (NP, KP)."""
    work = d_y.dtype.element_ty
    for k in range(0, KP, W):
        cols = k + tl.arange(0, W)
        keep_x = mask[:, None] & (cols < K)[None, :]
        acc = tl.zeros([R, W], work)
        for n in range(0, NP, C):
            inner = n + tl.arange(0, C)
            keep = mask[:, None] & (inner < N)[None, :]
            at = rows[:, None] * y_stride + inner[None, :]
            a = tl.load(d_y + at, mask=keep, other=0.0) * tl.load(slopes + at, mask=keep, other=0.0)
            acc = dot(a, tl.load(weight + (inner[:, None] * KP + cols[None, :])), acc, PREC)
        if RESIDUAL != 0:
            acc += tl.load(d_y + (rows[:, None] * y_stride + cols[None, :]), mask=keep_x, other=0.0)
        if RESIDUAL == 2:
            acc += tl.load(d_y + (rows[:, None] * y_stride + K + cols[None, :]), mask=keep_x, other=0.0)
        tl.store(d_x + (rows[:, None] * x_stride + cols[None, :]), acc, mask=keep_x)
    tl.debug_barrier()


@triton.jit(do_not_specialize=["atoms"])
def _energy_net_kernel(
    center_type,  # (B,)
    inputs,  # (B, IN) descriptor and parameters
    hidden, slopes, d_hidden,  # (B, total width) in between
    d_inputs,  # (B, IN) out
    energy,  # (B,) out, eV, float64
    weights, vectors,  # see packing.py
    last,  # (last width,) and a bias
    alive, bias,  # (types,) 1 or 0, and eV, float64
    atoms, in_stride, hidden_stride,
    WIDTHS: tl.constexpr, PADDED: tl.constexpr, RESIDUALS: tl.constexpr,  # from the input on
    AT: tl.constexpr, WEIGHTS: tl.constexpr, VECTORS: tl.constexpr,  # where each layer's numbers begin
    KIND: tl.constexpr, T: tl.constexpr, BACKWARD: tl.constexpr,
    R: tl.constexpr, C: tl.constexpr, W: tl.constexpr, PREC: tl.constexpr,
):  # fmt: skip
    start = tl.program_id(0).to(tl.int64) * R
    rows = tl.arange(0, R)
    mask = start + rows < atoms
    inputs += start * in_stride
    d_inputs += start * in_stride
    hidden += start * hidden_stride
    slopes += start * hidden_stride
    d_hidden += start * hidden_stride
    LAYERS: tl.constexpr = len(WIDTHS) - 1
    for k in tl.static_range(0, LAYERS):
        _forward(
            inputs if k == 0 else hidden + AT[k - 1], hidden + AT[k], slopes + AT[k], rows, mask,
            weights + WEIGHTS[k], vectors + VECTORS[k], in_stride if k == 0 else hidden_stride, hidden_stride,
            WIDTHS[k], WIDTHS[k + 1], PADDED[k], PADDED[k + 1], RESIDUALS[k], KIND, T, R, C, W, PREC,
        )  # fmt: skip
    source = inputs if LAYERS == 0 else hidden + AT[LAYERS - 1]
    d_source = d_inputs if LAYERS == 0 else d_hidden + AT[LAYERS - 1]
    stride = in_stride if LAYERS == 0 else hidden_stride
    types = tl.load(center_type + start + rows, mask=mask, other=0)
    lives = tl.load(alive + types)
    total = tl.zeros([R], tl.float64) + tl.load(last + PADDED[LAYERS]).to(tl.float64)
    for n in range(0, PADDED[LAYERS], C):
        cols = n + tl.arange(0, C)
        keep = mask[:, None] & (cols < WIDTHS[LAYERS])[None, :]
        w = tl.load(last + cols)
        h = tl.load(source + (rows[:, None] * stride + cols[None, :]), mask=keep, other=0.0)
        total += tl.sum(h.to(tl.float64) * w[None, :].to(tl.float64), axis=1)
        if BACKWARD:
            d = tl.where(lives > 0, 1.0, 0.0).to(h.dtype)[:, None] * w[None, :]
            tl.store(d_source + (rows[:, None] * stride + cols[None, :]), d, mask=keep)
    tl.store(energy + start + rows, total * lives + tl.load(bias + types), mask=mask)
    if BACKWARD:
        tl.debug_barrier()
        for m in tl.static_range(0, LAYERS):
            _backward(
                d_hidden + AT[LAYERS - 1 - m], slopes + AT[LAYERS - 1 - m],
                d_inputs if m == LAYERS - 1 else d_hidden + AT[LAYERS - 2 - m], rows, mask,
                weights + WEIGHTS[LAYERS - 1 - m] + PADDED[LAYERS - 1 - m] * PADDED[LAYERS - m],
                hidden_stride, in_stride if m == LAYERS - 1 else hidden_stride,
                WIDTHS[LAYERS - 1 - m], WIDTHS[LAYERS - m], PADDED[LAYERS - 1 - m], PADDED[LAYERS - m],
                RESIDUALS[LAYERS - 1 - m], R, C, W, PREC,
            )  # fmt: skip
