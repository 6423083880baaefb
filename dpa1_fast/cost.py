"""What an atom costs: c₀ + c₁ n + c₂ n² seconds for n neighbours, learned while the work is done."""

from __future__ import annotations

from collections import deque
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from .config import DPA1Config

Array = NDArray[np.float64]

RATE = 2e10
"""Operations a second that are believed of a machine until it was seen at work."""
REMEMBERED = 64
"""Timings that the fit looks at: the latest, since a machine is not always equally fast."""


def features(counts: NDArray[np.int64]) -> Array:
    """Of atoms with so many neighbours each: how many they are, Σ n, Σ n². (3,)"""
    n = counts.astype(np.float64)
    return np.array([len(n), n.sum(), n @ n])


def operations(config: DPA1Config) -> Array:
    """Floating-point operations of an atom, forward and backward: a constant, per neighbour, per pair of them. (3,)

    Counted from the widths of the networks; only their proportions matter once the machine is known.
    """

    def net(widths: list[int]) -> float:
        return 2.0 * sum(a * b for a, b in pairwise(widths))

    m = config.neuron[-1]
    one = net([config.dim_descrpt, *config.fitting.neuron, 1])
    embedding = net([1, *config.neuron]) + 8.0 * m
    layer, pair = 8.0 * m * config.attn, 4.0 * config.attn
    return 3.0 * np.array([one, embedding + config.attn_layer * layer, config.attn_layer * pair])


class Cost:
    """Predicts seconds, and learns from what was measured.

    Args:
        config: the model's, for a first guess.
    """

    def __init__(self, config: DPA1Config) -> None:
        self.seconds: Array = operations(config) / RATE
        self._guess = self.seconds
        self._seen: deque[tuple[Array, float]] = deque(maxlen=REMEMBERED)
        self._told = 0

    def of(self, features: Array) -> float:
        """Seconds for work with these features."""
        return float(self.seconds @ features)

    def learn(self, features: Array, seconds: float) -> None:
        """Takes a timing in. The fit is made again at every power of two of them, and then at every ``REMEMBERED``."""
        self._seen.append((features, seconds))
        self._told += 1
        if self._told & (self._told - 1) == 0 or self._told % REMEMBERED == 0:
            self._fit()

    def _fit(self) -> None:
        # Relative errors count; what is not known yet stays near the first guess, brought to this machine's speed.
        rows = np.stack([f / s for f, s in self._seen])
        guess = self._guess * float(np.median([s / (self._guess @ f) for f, s in self._seen]))
        weak = 0.02 * np.diag(1.0 / np.maximum(guess, 1e-6 * guess.max()))
        left, right = np.concatenate([rows, weak]), np.concatenate([np.ones(len(rows)), weak @ guess])
        found = np.maximum(np.linalg.lstsq(left, right, rcond=None)[0], 0.0)
        if found.any():
            self.seconds = found
