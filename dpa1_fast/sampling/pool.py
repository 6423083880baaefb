"""A pool of structures beside what an engine says of each, in constant memory, and a table of those that failed."""

from __future__ import annotations

import csv
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

from ..errors import StructureError
from ..printable import name_of, printable
from ..sources import Item, Source

T = TypeVar("T")
FAILURES = "failures.csv"
SHOWN = 5
"""Failures that a command prints; all are in the table."""


@dataclass(frozen=True)
class Member:
    """A structure of the pool. index: from 0, over all sources. source: which of these it is of."""

    index: int
    item: Item
    source: int = 0


def members(sources: Iterable[Source]) -> Iterator[Member]:
    """Every structure, in order; those that could not be read too."""
    items = ((n, item) for n, source in enumerate(sources) for item in source.read())
    return (Member(k, item, n) for k, (n, item) in enumerate(items))


def evaluated(
    pool: Iterable[Member], stream: Callable[[Iterator[Any]], Iterator[T | StructureError]]
) -> Iterator[tuple[Member, T | StructureError]]:
    """Each structure with what ``stream`` makes of it.

    Args:
        stream: as ``Engine.stream``: one result for each structure, in order; errors are passed on.
    """
    waiting: deque[Member] = deque()

    def structures() -> Iterator[Any]:
        for member in pool:
            waiting.append(member)
            item = member.item
            yield StructureError(item.source, item.error or "failed") if item.atoms is None else item.atoms

    for result in stream(structures()):
        yield waiting.popleft(), result


@dataclass
class Failures:
    """Structures that could not be done, as a table that is there only where there are any.

    Args:
        folder: where it goes. name: what it is called there.
    """

    folder: Path
    name: str = FAILURES
    count: int = 0
    first: list[str] = field(default_factory=list)
    _file: Any = None

    @property
    def path(self) -> Path:
        """The table."""
        return self.folder / self.name

    def __enter__(self) -> Failures:
        self.path.unlink(missing_ok=True)
        return self

    def __exit__(self, *_: object) -> None:
        if self._file is not None:
            self._file.close()

    def add(self, member: Member, reason: str) -> None:
        """Takes one in."""
        item, told = member.item, printable(" ".join(reason.split()))
        if self._file is None:
            self._file = self.path.open("w", newline="", encoding="utf-8")
            csv.writer(self._file).writerow(["index", "source", "frame", "error"])
        csv.writer(self._file).writerow([member.index, name_of(item.source), item.frame, told])
        self.count += 1
        if len(self.first) < SHOWN:
            self.first.append(f"{name_of(item.source)} frame {item.frame}: {told}")

    def told(self) -> list[str]:
        """Lines about them."""
        more = self.count - len(self.first)
        return self.first + ([f"… {more:,} more in {self.path}"] if more else [])
