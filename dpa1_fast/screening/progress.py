"""How a running job shows itself: a bar on a terminal, a plain line a minute elsewhere."""

from __future__ import annotations

import math
import sys
import time
from types import TracebackType
from typing import TextIO

from rich.console import Console
from rich.progress import BarColumn, TextColumn
from rich.progress import Progress as Bar

from ..printable import clock
from .job import Progress

EVERY = 60.0
"""Seconds between two plain lines."""


class Watch:
    """Shows what it is told; use as a context manager.

    Args:
        file: where to; standard error unless told.
    """

    def __init__(self, file: TextIO | None = None) -> None:
        self._console = Console(file=file or sys.stderr, highlight=False)
        self._began = self._said = time.monotonic()
        self._first: tuple[float, float] | None = None
        self._bar: Bar | None = None
        if self._console.is_terminal:
            columns = (BarColumn(bar_width=28), TextColumn("{task.description}"))
            self._bar = Bar(*columns, console=self._console, transient=True)
            self._task = self._bar.add_task("reading", total=1.0)

    def __enter__(self) -> Watch:
        if self._bar is not None:
            self._bar.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._bar is not None:
            self._bar.stop()

    def __call__(self, now: Progress) -> None:
        """Shows how far a job is."""
        at = time.monotonic()
        words = self.words(now, at - self._began)
        if self._bar is not None:
            self._bar.update(self._task, completed=0.0 if math.isnan(now.share) else now.share, description=words)
        elif at - self._said >= EVERY:
            self._said = at
            self._console.print(words, soft_wrap=True)

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
