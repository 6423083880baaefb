"""What commands that take a while show: a bar on a terminal, plain lines elsewhere."""

from __future__ import annotations

import sys
from typing import Self, TextIO

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn


class ProgressBar:
    """The bar, or the lines; use as a context manager. Commands derive from it what they say.

    Args:
        before: what stands beside the bar until something is shown. file: where to; standard error unless told.
        stays: whether the bar is still there at the end.
    """

    def __init__(self, before: str, file: TextIO | None = None, stays: bool = False) -> None:
        self._console = Console(file=file or sys.stderr, highlight=False)
        self._bar: Progress | None = None
        if self._console.is_terminal:
            columns = (BarColumn(bar_width=28), TextColumn("{task.description}"))
            self._bar = Progress(*columns, console=self._console, transient=not stays)
            self._task = self._bar.add_task(before, total=1.0)

    @property
    def has_bar(self) -> bool:
        """Whether there is a terminal for it."""
        return self._bar is not None

    def __enter__(self) -> Self:
        if self._bar is not None:
            self._bar.start()
        return self

    def __exit__(self, *_: object) -> None:
        if self._bar is not None:
            self._bar.stop()

    def show(self, share: float, words: str) -> None:
        """Moves the bar to a share from 0 to 1, with words beside it; without one, prints them as a line."""
        if self._bar is not None:
            self._bar.update(self._task, completed=share, description=words)
        else:
            self._console.print(words, soft_wrap=True)
