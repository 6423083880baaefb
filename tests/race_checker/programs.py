"""What the programs of one launch can do to one another: nothing orders them, whatever barriers each of them has."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np

from .phases import Access, Conflict

NOBODY = -1


class Owners:
    """Which program of a launch first stored to each cell, and which loaded it, by which lines."""

    def __init__(self, cells: int) -> None:
        self.writer, self.writer_line = (np.full(cells, NOBODY, dtype=np.int32) for _ in range(2))
        self.reader, self.reader_line = (np.full(cells, NOBODY, dtype=np.int32) for _ in range(2))

    def add(self, program: int, accesses: Sequence[Access]) -> Iterator[Conflict]:
        """Conflicts of one more program with those before it."""
        for x in accesses:
            found = [("WAW" if x.stores else "RAW", self.writer, self.writer_line)]
            if x.stores:
                found.append(("WAR", self.reader, self.reader_line))
            for kind, owner, line in found:
                foreign = x.cells[owner[x.cells] != NOBODY]
                if len(foreign):
                    yield Conflict(kind, False, int(foreign[0]), int(line[foreign[0]]), x.line, len(foreign))
        # Only now: what a program did itself is not foreign. The first of several is enough to find the others by.
        for x in accesses:
            owner, line = (self.writer, self.writer_line) if x.stores else (self.reader, self.reader_line)
            new = x.cells[owner[x.cells] == NOBODY]
            owner[new], line[new] = program, x.line
