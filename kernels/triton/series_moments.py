"""The embedding as series, as the Triton kernels of models without attention read it (``ops/series_moments.py``)."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from ..prepare import bases, chebyshev
from ..prepare.weights import Weights
from .packing import SMALLEST, fill, padded

MOST_COLUMNS = 32
"""Of Y: four for each type and set."""
MOST_TERMS = 64
SPARED = 2.0
"""Kernels take a power of two of terms. What is left out may be so many times the tolerance where half as many then do
and it is below the numbers' own rounding, so never in float64: water in strip mode needs 33 at 1e-8 in float32, of
which the last is 1.2e-8, and rounding is 1.2e-7."""


@dataclass(frozen=True)
class SeriesMoments:
    """Series of all pairs of types, filled up to ``terms`` and the channels that kernels see.

    Attributes:
        types, sets, columns: of Y, see ``ops/series_moments.py``.
        series, series_t: (types, types, sets, terms, MP), and its last two turned round. ranges: (types, 2).
    """

    types: int
    sets: int
    terms: int
    columns: int
    series: Tensor
    series_t: Tensor
    ranges: Tensor


def find(w: Weights, order: Tensor, mp: int, dtype: torch.dtype) -> SeriesMoments | None:
    """The series of a model without attention; None where there are too many types, or a net needs too many terms.

    Args:
        order: the original channel of each that kernels see, of which there are ``mp`` when filled up.
        dtype: by which precision of the CPU engine series are cut off, see ``precision.py``.
    """
    n = w.config.ntypes
    if w.attention or padded(4 * n) > MOST_COLUMNS:
        return None
    found = []
    for pair in range(n * n):
        series = bases.series_of_pair(w, pair, chebyshev.TOLERANCE[dtype], MOST_TERMS)
        if series is None:
            return None
        found.append(series)
    sets, terms = found[0].c.shape[0], padded(max(x.c.shape[1] for x in found))
    spared = SPARED * chebyshev.TOLERANCE[dtype]
    if terms > SMALLEST and spared < torch.finfo(dtype).eps and max(_beyond(x, terms // 2) for x in found) <= spared:
        terms //= 2
    columns = padded(4 * n * sets)
    if columns > MOST_COLUMNS:
        return None
    table = torch.stack([fill(x.c[:, :terms, order], sets, terms, mp) for x in found]).view(n, n, sets, terms, mp)
    return SeriesMoments(n, sets, terms, columns, table, table.transpose(-1, -2), ranges(found[::n]))


def _beyond(x: chebyshev.Series, terms: int) -> float:
    """The largest coefficient of a series after so many terms, over the largest of its set."""
    after = x.c[:, terms:].abs() / x.c.abs().amax((1, 2), keepdim=True).clamp_min(1e-300)
    return float(after.max()) if after.numel() else 0.0


def ranges(series: list[chebyshev.Series]) -> Tensor:
    """What makes x of s, for each of them: scale and shift. (len(series), 2) float64."""
    return torch.tensor([[2.0 / (x.hi - x.lo), -(x.hi + x.lo) / (x.hi - x.lo)] for x in series], dtype=torch.float64)
