"""Structures from a pipe: (extended) XYZ or JSON Lines, told by the first byte that isn't blank."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from io import BufferedReader
from typing import Any

from .base import Item
from .names import NO_NAMES, TypeNames
from .reading import Damaged
from .settle import settle
from .streams import HEAD, MARK, OTHER_MARKS, Reader, Stream, old_line_ends, unknown

CHUNK = 2**20


class StandardInput:
    """What comes in by the pipe. It can be read once; who goes on from a mark has to send the same bytes again."""

    name = "-"

    def __init__(self, names: TypeNames = NO_NAMES) -> None:
        self.names = names

    def fingerprint(self) -> str:
        """An empty string: nothing can be said of it before it is read."""
        return ""

    def read(self, mark: Any = None) -> Iterator[Item]:
        """See ``Source.read``. A mark is [structure, bytes before it, …]; that many bytes are read and left out."""
        return settle(self.name, _items(mark, self.names), mark, self.names)


def _items(mark: Any, names: TypeNames) -> Iterator[Item]:
    from .optimade import read_json
    from .xyz import read_xyz

    frame, offset, *entry = [0, 0] if mark is None else mark
    pipe: BufferedReader = sys.stdin.buffer  # type: ignore[assignment]
    head = pipe.peek(HEAD)
    if head.startswith(OTHER_MARKS):
        raise Damaged("is text in UTF-16; send it as UTF-8")
    if head.startswith(MARK):
        left = max(offset, len(MARK))
        offset = left
    else:
        left = offset
    if old_line_ends(head):
        pipe = BufferedReader(Reader(pipe, returns=True))
    while left and (passed := pipe.read(min(left, CHUNK))):
        left -= len(passed)
    while (head := pipe.peek(1)) and not head.strip():
        offset += len(pipe.read(len(head)))
    stream = Stream(StandardInput.name, pipe, offset, None, unknown)
    if head.lstrip()[:1] in (b"{", b"["):
        yield from read_json(stream, frame, *entry)
    else:
        yield from read_xyz(stream, frame, names)
