"""Some of a source's structures: ``FILE@0:10``, ``FILE@-1``, ``FILE@::5``, as ASE writes it."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from .base import Item, Source

SLICE = re.compile(r"(?P<start>[-+]?\d+)?(?P<colon>:(?P<stop>[-+]?\d+)?(:(?P<step>\d+)?)?)?")


def cut(argument: str) -> tuple[str, slice] | None:
    """What stands before the last ``@`` of an argument and which structures of it are meant; None where none are."""
    before, at, after = argument.rpartition("@")
    found = SLICE.fullmatch(after)
    if not at or not before or not after or found is None or found["step"] == "0":
        return None
    start, stop, step = (None if found[k] is None else int(found[k]) for k in ("start", "stop", "step"))
    if found["colon"] is None:  # one structure
        assert start is not None
        return before, slice(start, start + 1 or None)
    return before, slice(start, stop, step)


@dataclass(frozen=True)
class SliceSource:
    """Another source's structures by their numbers in it; they keep their own. A mark is the other one's.

    Attributes:
        inner: the source. which: of its structures. text: as it was given.
    """

    inner: Source
    which: slice
    text: str

    @property
    def path(self) -> Path:
        """Of the source."""
        inner: Any = self.inner
        return Path(getattr(inner, "path", getattr(inner, "folder", inner.name)))

    @property
    def name(self) -> str:
        """As it was given."""
        return f"{self.inner.name}@{self.text}"

    def fingerprint(self) -> str:
        """The source's; which structures are meant, the name says."""
        return self.inner.fingerprint()

    def read(self, mark: Any = None) -> Iterator[Item]:
        """See ``Source.read``. Numbers from the end take reading it twice."""
        held: Item | None = None
        for item in self._chosen(mark):
            if held is not None:
                yield held
            held = item
        if held is not None:
            yield replace(held, mark=None, share=1.0)
        elif mark is None:
            yield Item(self.name, -1, None, f"holds no structure {self.text}", share=1.0)

    def _chosen(self, mark: Any) -> Iterator[Item]:
        start, stop, step = self.which.start or 0, self.which.stop, self.which.step or 1
        if start < 0 or (stop is not None and stop < 0):
            start, stop, step = self.which.indices(sum(1 for item in self.inner.read() if item.frame >= 0))
        if stop is not None and stop <= start:
            return
        number = 0 if mark is None else int(mark[0])
        for item in self.inner.read(mark):
            if item.frame < 0:
                yield item
                continue
            if number >= start and (number - start) % step == 0:
                yield item
            number += 1
            if number == stop:
                return  # what comes after is not even read
