"""Matrix products with operands rounded as a tensor core would have them, in plain torch on a CPU.

What is not emulated is the inside of a tensor core: sums are float32 here, in another order, and some cards truncate
where they add.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

DROPPED = 0x1FFF  # the 13 bits of a float32's mantissa that TF32 does not have


def truncated(x: Tensor) -> Tensor:
    """float32 cut to TF32's 10 bits, as a tensor core does to what it is given."""
    return (x.contiguous().view(torch.int32) & ~DROPPED).view(torch.float32)


def nearest(x: Tensor) -> Tensor:
    """float32 rounded to TF32, ties away from zero (``cvt.rna.tf32``)."""
    return ((x.contiguous().view(torch.int32) + (DROPPED + 1) // 2) & ~DROPPED).view(torch.float32)


def via(dtype: torch.dtype) -> Callable[[Tensor], Tensor]:
    """Rounds to a shorter type and back."""
    return lambda x: x.to(dtype).to(torch.float32)


Split = Callable[[Tensor], tuple[Tensor, ...]]


def two(high: Callable[[Tensor], Tensor], low: Callable[[Tensor], Tensor]) -> Split:
    """An operand as a sum of two parts."""

    def split(x: Tensor) -> tuple[Tensor, ...]:
        first = high(x)
        return first, low(x - first)

    return split


MODES: dict[str, Split] = {
    "float64": lambda x: (x,),
    "ieee": lambda x: (x,),
    # Triton rounds the first part and leaves the second to the tensor core.
    "tf32x3": two(nearest, truncated),
    "bf16x3": two(via(torch.bfloat16), via(torch.bfloat16)),
    "tf32": lambda x: (nearest(x),),
    "tf32, truncated": lambda x: (truncated(x),),
    "float16": lambda x: (via(torch.float16)(x),),
    "bfloat16": lambda x: (via(torch.bfloat16)(x),),
}
"""How operands are rounded. float64 rounds nothing, and what surrounds the products is float64 too: it proves the
formulas."""


SHORT = ("float16", "bfloat16")
"""Modes in which what only products read stands in memory as they round it."""


class Products:
    """a·b with rounded operands; keeps the sizes of the operands that it has seen."""

    def __init__(self, mode: str, watch: bool = False) -> None:
        self.mode, self.split, self.watch = mode, MODES[mode], watch
        self.dtype = torch.float64 if mode == "float64" else torch.float32
        self.largest, self.seen, self.short, self.lost = 0.0, 0, 0, 0

    def __call__(self, a: Tensor, b: Tensor) -> Tensor:
        """(…, n, k) · (…, k, m), no gradient."""
        if self.watch:
            for x in (a.abs(), b.abs()):
                self.largest = max(self.largest, float(x.max()))
                self.seen += int((x > 0).sum())
                self.short += int(((x > 0) & (x < 2.0**-14)).sum())
                self.lost += int(((x > 0) & (x <= 2.0**-25)).sum())
        a_parts, b_parts = self.split(a), self.split(b)
        if len(a_parts) == 1:
            return a_parts[0] @ b_parts[0]
        return (a_parts[1] @ b_parts[0] + a_parts[0] @ b_parts[1]) + a_parts[0] @ b_parts[0]


class TimesWeight(torch.autograd.Function):
    """x·W with rounded operands, in the backward pass too; no gradient for W."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, products: Products) -> Tensor:
        """(…, n) · (n, m), or · (…, n, m)."""
        ctx.weight, ctx.products = weight, products
        return products(x, weight)

    @staticmethod
    def backward(ctx: Any, *d_out: Tensor) -> tuple[Tensor, None, None]:
        """dE/dx."""
        return ctx.products(d_out[0], ctx.weight.mT), None, None


class Kept(torch.autograd.Function):
    """x as it stands in memory where only products read it; its gradient is not rounded."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, products: Products) -> Tensor:
        """Rounded in the modes of ``SHORT``."""
        return products.split(x)[0] if products.mode in SHORT else x.clone()

    @staticmethod
    def backward(ctx: Any, *d_out: Tensor) -> tuple[Tensor, None]:
        """dE/dx."""
        return d_out[0], None
