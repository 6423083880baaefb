"""Small functions that all Triton kernels share: products at a chosen precision, activations, rows in and out.

Matrices are walked in chunks of the inner dimension, so that what a program holds at a time is one accumulator and one
chunk of each operand, whatever the model's widths: nothing spills.
"""

from __future__ import annotations

import triton
import triton.language as tl

SHORTEST = tl.constexpr(1e-12)
"""The smallest length by which a vector is divided, ``reference.NORM_EPS``."""


@triton.jit
def number(value: tl.constexpr, like):
    """A number of a tensor's own type, once for each element. Triton takes it for float32 where it stands in
    ``tl.maximum`` or ``tl.minimum``, up to 3.6 in comparisons too: beside float64, 1e-12 is off by 4e-9 of itself."""
    return tl.full(like.shape, value, like.dtype)


@triton.jit
def at_least(x, limit: tl.constexpr):
    """x, or the limit where it is smaller."""
    least = number(limit, x)
    return tl.where(x < least, least, x)


@triton.jit
def _settled(x):
    """x (rows, columns) itself, as the sum over an axis of one number.

    Up to Triton 3.8 the compiler takes an operand's width from the narrowest number in all that it is computed from; a
    mask has one bit, and float64 products then end in ``MMAv2.cpp: PassManager::run failed``. It does not look behind
    a sum.
    """
    return tl.sum(tl.reshape(x, (x.shape[0], x.shape[1], 1)), axis=2)


@triton.jit
def dot(a, b, acc, PREC: tl.constexpr):
    """acc + a·b. PREC: bfloat16, float16 (operands rounded), or ieee, tf32, tf32x3, bf16x3 as Triton knows them."""
    if PREC == "bfloat16":
        return tl.dot(a.to(tl.bfloat16), b.to(tl.bfloat16), acc, out_dtype=tl.float32)
    elif PREC == "rounded_bfloat16":  # for the interpreter, which can't multiply bfloat16, and cuts off bits
        a, b = a.to(tl.bfloat16).to(acc.dtype), b.to(tl.bfloat16).to(acc.dtype)
        return tl.dot(a, b, acc, input_precision="ieee", out_dtype=tl.float32)
    elif PREC == "float16":
        return tl.dot(a.to(tl.float16), b.to(tl.float16), acc, out_dtype=tl.float32)
    else:
        if acc.dtype == tl.float64:
            a = _settled(a)
        return tl.dot(a, b.to(a.dtype), acc, input_precision=PREC, out_dtype=acc.dtype)


@triton.jit
def load_rows(base, rows, mask, c0, WIDTH: tl.constexpr, STRIDE: tl.constexpr, COLUMNS: tl.constexpr):
    """(rows, COLUMNS) from column c0 on, of the rows of an array (…, STRIDE) of which the first WIDTH columns count."""
    cols = c0 + tl.arange(0, COLUMNS)
    keep = mask[:, None] & (cols < WIDTH)[None, :]
    return tl.load(base + (rows[:, None] * STRIDE + cols[None, :]), mask=keep, other=0.0)


@triton.jit
def load_columns(base, rows, mask, c0, WIDTH: tl.constexpr, STRIDE: tl.constexpr, COLUMNS: tl.constexpr):
    """The same, transposed. (COLUMNS, rows)."""
    cols = c0 + tl.arange(0, COLUMNS)
    keep = (cols < WIDTH)[:, None] & mask[None, :]
    return tl.load(base + (rows[None, :] * STRIDE + cols[:, None]), mask=keep, other=0.0)


@triton.jit
def store_four(base, rows, mask, a, b, c, d):
    """Four columns of an array (…, 4)."""
    tl.store(base + rows * 4, a, mask=mask)
    tl.store(base + rows * 4 + 1, b, mask=mask)
    tl.store(base + rows * 4 + 2, c, mask=mask)
    tl.store(base + rows * 4 + 3, d, mask=mask)


@triton.jit
def load_four(base, rows, mask):
    """Four columns of an array (…, 4), zero where masked."""
    a = tl.load(base + rows * 4, mask=mask, other=0.0)
    b = tl.load(base + rows * 4 + 1, mask=mask, other=0.0)
    c = tl.load(base + rows * 4 + 2, mask=mask, other=0.0)
    return a, b, c, tl.load(base + rows * 4 + 3, mask=mask, other=0.0)


@triton.jit
def load_matrix(
    base, k0, n0, HEIGHT: tl.constexpr, WIDTH: tl.constexpr, STRIDE: tl.constexpr,
    ROWS: tl.constexpr, COLUMNS: tl.constexpr,
):  # fmt: skip
    """Part (ROWS, COLUMNS) from (k0, n0) of a weight matrix of which HEIGHT rows and WIDTH columns count."""
    rows, cols = k0 + tl.arange(0, ROWS), n0 + tl.arange(0, COLUMNS)
    keep = (rows < HEIGHT)[:, None] & (cols < WIDTH)[None, :]
    return tl.load(base + (rows[:, None] * STRIDE + cols[None, :]), mask=keep, other=0.0)


@triton.jit
def times_matrix(
    acc, base, rows, mask, w_ptr,
    M: tl.constexpr, STRIDE: tl.constexpr, MP: tl.constexpr, BLOCK_INNER: tl.constexpr, PREC: tl.constexpr,
):  # fmt: skip
    """acc (rows, MP) + rows (rows, M) of an array in memory times a matrix (M, M)."""
    for k in range(0, MP, BLOCK_INNER):
        a = load_rows(base, rows, mask, k, M, STRIDE, BLOCK_INNER)
        acc = dot(a, load_matrix(w_ptr, k, 0, M, M, MP, BLOCK_INNER, MP), acc, PREC)
    return acc


@triton.jit
def store_rows(base, rows, mask, x, M: tl.constexpr, STRIDE: tl.constexpr, MP: tl.constexpr, c0=0):
    """Rows x (rows, MP) into an array (…, STRIDE) from column c0 on, of whose columns the first M count."""
    cols = c0 + tl.arange(0, MP)
    tl.store(base + (rows[:, None] * STRIDE + cols[None, :]), x, mask=mask[:, None] & (cols < M)[None, :])


@triton.jit
def _tanh(x):
    e = tl.exp(-2.0 * tl.abs(x))
    t = (1.0 - e) / (1.0 + e)
    return tl.where(x < 0, -t, t)


@triton.jit
def _sigmoid(x):
    e = tl.exp(-tl.abs(x))
    return tl.where(x < 0, e, 1.0) / (1.0 + e)


@triton.jit
def activate(x, KIND: tl.constexpr, THRESHOLD: tl.constexpr):
    """Value and slope of an activation function; THRESHOLD is silut's. Formulas: ``reference.ACTIVATIONS``."""
    if KIND == "tanh":
        y = _tanh(x)
        return y, 1.0 - y * y
    elif KIND == "relu":
        return tl.where(x > 0, x, 0.0), tl.where(x > 0, 1.0, 0.0).to(x.dtype)
    elif KIND == "relu6":
        inside = (x > 0) & (x < 6)
        return tl.where(x > 0, tl.where(x < 6, x, 6.0), 0.0), tl.where(inside, 1.0, 0.0).to(x.dtype)
    elif KIND == "softplus":
        return tl.where(x > 0, x, 0.0) + tl.log(1.0 + tl.exp(-tl.abs(x))), _sigmoid(x)
    elif KIND == "sigmoid":
        y = _sigmoid(x)
        return y, y * (1.0 - y)
    elif KIND == "silu":
        y = _sigmoid(x)
        return x * y, y * (1.0 + x * (1.0 - y))
    elif KIND == "silut":
        y = _sigmoid(x)
        at = tl.sigmoid(tl.full(x.shape, THRESHOLD, x.dtype))
        slope = at + THRESHOLD * at * (1.0 - at)
        high = _tanh(slope * (x - THRESHOLD))
        return (
            tl.where(x >= THRESHOLD, high + THRESHOLD * at, x * y),
            tl.where(x >= THRESHOLD, slope * (1.0 - high * high), y * (1.0 + x * (1.0 - y))),
        )
    elif KIND == "gelu":
        INNER: tl.constexpr = 0.7978845608028654
        CUBIC: tl.constexpr = 0.044715
        t = _tanh(INNER * (x + CUBIC * x * x * x))
        return 0.5 * x * (1.0 + t), 0.5 * (1.0 + t) + 0.5 * x * (1.0 - t * t) * INNER * (1.0 + 3.0 * CUBIC * x * x)
    elif KIND == "linear":
        return x, tl.full(x.shape, 1.0, x.dtype)
    else:
        tl.static_assert(False, "an activation function that the Triton kernels do not have: " + KIND)
