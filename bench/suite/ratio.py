"""Whether one thing takes longer than another, from runs of both in turns."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

NOISE = 1.05
"""A slow-down is one that is certain to be larger than this: less may come from where code lies in memory."""


@dataclass(frozen=True)
class Ratio:
    """New over old: the median of pairs, and an interval that holds it with at least ``CONFIDENCE``."""

    median: float
    low: float
    high: float

    @property
    def slower(self) -> bool:
        """Whether it is certain, beyond noise."""
        return self.low > NOISE

    @property
    def settled(self) -> bool:
        """Whether more pairs would not change the verdict: certainly slower, or certainly not by 15 %."""
        return self.slower or self.high < 1.15


CONFIDENCE = 0.99


def ratio(new: Sequence[float], old: Sequence[float]) -> Ratio:
    """Of seconds measured in pairs.

    The interval is that of the sign test: order statistics of the pairs' ratios, which no outlier moves and for which
    no distribution is assumed. With fewer than eight pairs it is all there is.
    """
    ratios = sorted(a / b for a, b in zip(new, old, strict=True))
    n = len(ratios)
    median = ratios[n // 2] if n % 2 else math.sqrt(ratios[n // 2 - 1] * ratios[n // 2])
    # The largest k with P(fewer than k of n fair coins) ≤ (1 − CONFIDENCE)/2.
    k, below = 0, 0.0
    while below + math.comb(n, k) / 2**n <= (1 - CONFIDENCE) / 2:
        below += math.comb(n, k) / 2**n
        k += 1
    k = max(k, 1)
    return Ratio(median, ratios[k - 1], ratios[n - k])
