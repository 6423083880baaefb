"""The embedding net as polynomials of s, equal to the net to rounding.

For a given pair of types every channel of the embedding is a smooth function of one number, s, on a bounded interval.
Its Chebyshev series converges geometrically (water: 24 terms to 1e-8, 41 to 1e-13), so that

    g(s) = Σ_k C_k T_k(x),   x = (2s − lo − hi)/(hi − lo),

and no net is needed per neighbour. A net whose series does not reach ``TOLERANCE`` (kinks, as in relu) is evaluated as
it is.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

TOLERANCE = {torch.float64: 1e-13, torch.float32: 1e-8, torch.bfloat16: 1e-6}
"""The series stops where what is left out is below this part of the largest value."""

MOST_TERMS = 96
ACTIVATION = 25
"""Multiply-adds that take as long as one activation, there and back (a tanh, on AVX-512)."""

SAMPLES = 128


class Series(NamedTuple):
    """Chebyshev series on [lo, hi]: c (sets, terms, M); a second set is multiplied by the switch."""

    lo: float
    hi: float
    c: Tensor

    @property
    def slope(self) -> Tensor:
        """Coefficients of dg/ds, (sets, terms, M)."""
        return derivative(self.c.shape[1]).t() @ self.c * (2.0 / (self.hi - self.lo))


def most_terms(shapes: Sequence[tuple[int, int]]) -> int:
    """How many terms are still faster than the net, where g itself is needed and every term costs M multiply-adds.

    Args:
        shapes: (n_in, n_out) of the net's layers; of the first, only s is evaluated for each neighbour.
    """
    products = 2 * sum(a * b for a, b in shapes[1:]) + ACTIVATION * sum(b for _, b in shapes)
    return min(MOST_TERMS, products // (2 * shapes[-1][1]))


def fit(
    net: Callable[[Tensor], Tensor], lo: float, hi: float, tolerance: float, most: int = MOST_TERMS
) -> Series | None:
    """The series, in float64, of ``net(s)`` (sets, n, M), or None where ``most`` terms do not reach the tolerance.

    The result is checked on points between the nodes that it was made from.
    """
    k = torch.arange(SAMPLES, dtype=torch.float64)
    angle = torch.pi * (k + 0.5) / SAMPLES
    s = lo + (hi - lo) * (torch.cos(angle) + 1.0) / 2.0
    cosines = torch.cos(k.unsqueeze(1) * angle) * (2.0 / SAMPLES)
    cosines[0] /= 2.0
    series = cosines @ net(s)
    largest = series.abs().amax((1, 2), keepdim=True).clamp_min(1e-300)
    left = (series.abs() / largest).amax((0, 2))
    terms = int(torch.nonzero(left > tolerance).max()) + 1
    if terms > most:
        return None
    found = Series(lo, hi, series[:, :terms])
    between = torch.linspace(lo, hi, 2 * SAMPLES - 1, dtype=torch.float64)
    exact = net(between)
    error = (polynomials(2.0 * (between - lo) / (hi - lo) - 1.0, terms).t() @ found.c - exact).abs()
    return found if float(error.max()) <= 100 * tolerance * float(exact.abs().max()) else None


def polynomials(x: Tensor, terms: int) -> Tensor:
    """T_0 … T_(terms−1) at x (n,), as cos(k arccos x). (terms, n)."""
    return torch.cos(torch.arange(terms, dtype=torch.float64).unsqueeze(1) * torch.arccos(x.clamp(-1.0, 1.0)))


def derivative(terms: int) -> Tensor:
    """D (terms, terms) with T_k' = Σ_l D_kl T_l, in float64."""
    d = torch.zeros(terms, terms, dtype=torch.float64)
    for k in range(1, terms):
        d[k, (k - 1) % 2 : k : 2] = 2.0 * k
        if k % 2:
            d[k, 0] = float(k)
    return d
