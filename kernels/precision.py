"""What each precision means, in one object: who knows it, and what its numbers are stored and multiplied in.

Environment matrix, energies and sums over edges are float64 in all. What each precision costs in forces is in
docs/precision.md.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch


@dataclass(frozen=True)
class Precision:
    """A precision of the networks' arithmetic.

    Attributes:
        name: as a user gives it.
        backends: those that have it.
        work: LayerNorm, softmax, and what is kept between products.
        operand: what products of matrices take: the large weight matrices of the Triton kernels stand in it.
        products: how those kernels multiply. bfloat16 and float16 round the operands and sum in float32; the others are
            Triton's names. tf32x3 has the errors of true float32; the energy net's products are torch's, and true
            float32.
        series_products: the same for the products of series, which are not rounded as far.
        series: by which precision of the CPU engine series and bases are cut off.
        reordered: how far forces may be apart, RMS over RMS, where two launch configurations differ in nothing but the
            order of their sums.
    """

    name: str
    backends: tuple[str, ...]
    work: torch.dtype
    operand: torch.dtype
    products: str
    series_products: str
    series: torch.dtype
    reordered: float


F64, F32, BF16, F16 = torch.float64, torch.float32, torch.bfloat16, torch.float16
EVERYWHERE = ("cpu", "triton", "reference")
PRECISIONS = {
    p.name: p
    for p in (
        Precision("float64", EVERYWHERE, F64, F64, "ieee", "ieee", F64, 1e-10),
        Precision("float32", EVERYWHERE, F32, F32, "tf32x3", "tf32x3", F32, 2e-5),
        Precision("tf32", ("triton",), F32, F32, "tf32", "tf32", F32, 3e-3),
        Precision("bfloat16", ("cpu", "triton"), F32, BF16, "bfloat16", "tf32", BF16, 2e-2),
        Precision("float16", ("triton",), F32, F16, "float16", "tf32", BF16, 3e-3),
    )
}


def known_to(backend: str) -> tuple[str, ...]:
    """The names of those that a backend has."""
    return tuple(p.name for p in PRECISIONS.values() if backend in p.backends)
