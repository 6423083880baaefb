"""The embedding net as polynomials of s, equal to the net to rounding.

For a given pair of types every channel of the embedding is a smooth function of one number, s, on a bounded interval.
Its Chebyshev series converges geometrically (water: 24 terms to 1e-8, 41 to 1e-13), so that

    g(s) = Σ_k C_k T_k(x),   x = (2s − lo − hi)/(hi − lo),

and the moments X = Σ_j g_j ⊗ row_j need no net per neighbour: Σ_j T_k(x_j) ⊗ row_j per neighbour type, then one small
product with C per centre. A net whose series does not reach ``TOLERANCE`` (kinks, as in relu) is evaluated as it is.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

TOLERANCE = {torch.float64: 1e-13, torch.float32: 1e-8}
"""The series stops where what is left out is below this part of the largest value."""

MOST_TERMS = 96
SAMPLES = 256


class Series(NamedTuple):
    """Chebyshev series on [lo, hi]: c (sets, T, terms, M) for T neighbour types.

    g = Σ_k c[0, t, k] T_k(x) and, in smooth strip mode (two sets), + sw·Σ_k c[1, t, k] T_k(x).
    """

    lo: float
    hi: float
    c: Tensor

    @property
    def gated(self) -> bool:
        """Whether there is a second set, which the switch multiplies."""
        return self.c.shape[0] == 2

    @property
    def terms(self) -> int:
        """Number of terms."""
        return self.c.shape[2]


def fit(
    net: Callable[[int, Tensor], Tensor],
    types: tuple[int, ...],
    lo: float,
    hi: float,
    tolerance: float,
    g_type: Tensor | None,
) -> Series | None:
    """The series, in float64, of ``net(type, s)`` (n, M) for all types, or None where it does not reach the tolerance.

    The result is checked on points between the nodes it was made from.

    Args:
        g_type: (T, M) factors of the second set in smooth strip mode, where ``net`` is the radial part alone.
    """
    k = torch.arange(SAMPLES, dtype=torch.float64)
    angle = torch.pi * (k + 0.5) / SAMPLES
    s = lo + (hi - lo) * (torch.cos(angle) + 1.0) / 2.0
    cosines = torch.cos(k.unsqueeze(1) * angle) * (2.0 / SAMPLES)
    cosines[0] /= 2.0
    series = torch.stack([cosines @ net(t, s) for t in types])
    largest = series.abs().amax((1, 2), keepdim=True).clamp_min(1e-300)
    left = (series.abs() / largest).amax((0, 2)).flip(0).cummax(0)[0].flip(0)
    terms = int((left > tolerance).sum()) + 1
    if terms > MOST_TERMS:
        return None
    c = series[:, :terms]
    found = Series(lo, hi, torch.stack([c] if g_type is None else [c, c * g_type.double().unsqueeze(1)]))
    between = torch.linspace(lo, hi, 997, dtype=torch.float64)
    t = polynomials(scaled(between, found), terms)
    for n, kind in enumerate(types):
        exact = net(kind, between)
        if float((t.t() @ c[n] - exact).abs().max()) > 100 * tolerance * float(exact.abs().max()):
            return None
    return found


def scaled(s: Tensor, series: Series) -> Tensor:
    """x in [−1, 1]."""
    return (s - 0.5 * (series.lo + series.hi)) * (2.0 / (series.hi - series.lo))


def polynomials(x: Tensor, terms: int, out: Tensor | None = None) -> Tensor:
    """T_0 … T_(terms−1) at x (n,), by doubling: T_(m+k) = 2 T_m T_k − T_(m−k). (terms, n)."""
    t = torch.empty(terms, x.shape[0], dtype=x.dtype) if out is None else out
    t[0] = 1.0
    if terms > 1:
        t[1] = x
    m = 1
    while m + 1 < terms:
        n = min(m, terms - 1 - m)
        torch.mul(t[1 : n + 1], 2.0 * t[m], out=t[m + 1 : m + 1 + n])
        t[m + 1 : m + 1 + n] -= t[m - n : m].flip(0)
        m += n
    return t


def derivative(terms: int) -> Tensor:
    """D (terms, terms) with T_k' = Σ_l D_kl T_l, in float64."""
    d = torch.zeros(terms, terms, dtype=torch.float64)
    for k in range(1, terms):
        d[k, (k - 1) % 2 : k : 2] = 2.0 * k
        if k % 2:
            d[k, 0] = float(k)
    return d
