"""How a running job shows itself: a bar on a terminal, a plain line a minute elsewhere."""

from __future__ import annotations

import math
import time
from typing import TextIO

from ..printable import clock
from ..progress_bar import ProgressBar
from .job import Progress

EVERY = 60.0
"""Seconds between two plain lines."""


class Watch(ProgressBar):
    """Shows what it is told; use as a context manager.

    Args:
        file: where to; standard error unless told.
    """

    def __init__(self, file: TextIO | None = None) -> None:
        super().__init__("reading", file)
        self._began = self._said = time.monotonic()
        self._first: tuple[float, float] | None = None

    def __call__(self, now: Progress) -> None:
        """Shows how far a job is."""
        at = time.monotonic()
        words = self.words(now, at - self._began)  # at every call: it notes where the job began
        if self.has_bar or at - self._said >= EVERY:
            self._said = at
            self.show(0.0 if math.isnan(now.share) else now.share, words)

    def words(self, now: Progress, seconds: float) -> str:
        """Structures, speed and the time that is left, as far as that is known."""
        seconds = max(seconds, 1e-9)
        parts = [
            f"{now.before + now.structures:,} structures",
            f"{now.structures / seconds:,.0f}/s",
            f"{now.atoms / seconds:,.0f} atoms/s",
        ]
        if now.failed:
            parts.append(f"{now.failed:,} failed")
        if not math.isnan(now.share):
            parts.insert(0, f"{now.share:.0%}")
            left = self._left(now.share, seconds)
            if left is not None:
                parts.append(f"{clock(left)} left")
        return ", ".join(parts)

    def _left(self, share: float, seconds: float) -> float | None:
        """Seconds, from how much of the input this run has done; None until there is something to go by."""
        if self._first is None:
            self._first = (share, seconds)
            return None
        before, since = self._first
        gone = share - before
        return (1.0 - share) * (seconds - since) / gone if gone > 0 else None
