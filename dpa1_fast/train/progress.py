"""What a training shows while it runs: a bar on a terminal, plain lines elsewhere."""

from __future__ import annotations

import time
from typing import TextIO

from ..printable import clock
from ..progress_bar import ProgressBar
from .loop import Shown
from .loss import SHORT

UNITS = {"energy": ("meV/atom", 1e3), "force": ("meV/Å", 1e3), "virial": ("meV/atom", 1e3), "atomic": ("meV", 1e3)}


class Watch(ProgressBar):
    """Shows what it is told; use as a context manager.

    Args:
        used: the terms of the loss. file: where to; standard error unless told.
    """

    def __init__(self, used: list[str], file: TextIO | None = None) -> None:
        super().__init__("training", file, stays=True)
        self._used, self._began, self._first = used, time.monotonic(), -1
        self._words = ""

    def __call__(self, now: Shown) -> None:
        """Shows how far a training is."""
        if self._first < 0:
            self._first, self._began = now.step, time.monotonic()
        if now.trained is not None:
            self._words = self._errors(now)
        if self.has_bar:
            self.show(now.step / now.steps, f"{self.pace(now)}; {self._words}")
        elif now.trained is not None:
            self.show(now.step / now.steps, f"step {now.step:,}/{now.steps:,}: {self._words}; {self.pace(now)}")

    def pace(self, now: Shown) -> str:
        """Seconds a step and the time that is left, once there is something to go by."""
        done = now.step - self._first
        if done <= 0:
            return f"{now.step:,} of {now.steps:,} steps"
        each = (time.monotonic() - self._began) / done
        return f"{each:.3g} s/step, {clock(each * (now.steps - now.step))} left"

    def _errors(self, now: Shown) -> str:
        assert now.trained is not None
        parts = []
        for term in self._used:
            unit, scale = UNITS[term]
            there = [x.rmse[term] * scale for x in (now.valid, now.trained) if x is not None]
            parts.append(f"{SHORT[term]} {' / '.join(f'{x:.4g}' for x in there)} {unit}")
        which = "validation / training" if now.valid is not None else "training"
        return f"RMSE {which}: {', '.join(parts)}, lr {now.rate:.2e}"
