"""(Extended) XYZ, frame by frame at any length of file: where frames begin and end, and what to do where they don't."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import Any

from .base import Item, Told
from .names import TypeNames
from .reading import Damaged, reason
from .streams import Stream, opened
from .xyz_frame import parse_frame, types_of_frame

LONGEST_LINE = 2**26
"""Bytes. What is longer is cut, and so it is no line of a frame."""

LONGEST_COUNT = 200
"""Bytes. A longer line is no number of atoms, and reading on could fill the memory."""

SHORTEST_ATOM = 2
"""Bytes of the shortest line that an atom could stand on; tells a damaged count before it is believed."""

MOST_ATOMS = 100_000_000
"""Of one frame, where the size of the file isn't known."""


def read_xyz_file(path: Path, mark: Any, names: TypeNames) -> Iterator[Item]:
    """The frames of a file, compressed or not, from the beginning or from a mark: [frame, its offset in bytes]."""
    with opened(path, 0 if mark is None else mark[1]) as stream:
        yield from read_xyz(stream, 0 if mark is None else mark[0], names)


def read_xyz(stream: Stream, first: int, names: TypeNames) -> Iterator[Item]:
    """The frames from where the stream stands; the first one has the number ``first``.

    Raises:
        Damaged: the end of a frame can't be found, so neither can the next one.
    """
    for frame, (lines, error) in enumerate(_frames(stream, first), start=first):
        mark, share = [frame + 1, stream.offset], stream.share(stream.offset)
        atoms, told = None, None
        if error is None:
            try:
                lines, kinds = types_of_frame(lines, names.unusual)
                atoms, told = parse_frame(lines), Told(kinds=kinds)
            except Exception as fault:  # ASE's reader decides what is right, and it raises anything
                error = f"cannot be read: {reason(fault)}"
        yield Item(stream.name, frame, atoms, error, mark, share, told=told)


class _Lines:
    """Lines of a stream that can be given back.

    Attributes:
        stream: its ``offset`` follows what was taken and not given back.
    """

    def __init__(self, stream: Stream) -> None:
        self.stream = stream
        self._back: list[bytes] = []

    def next(self, longest: int = LONGEST_LINE) -> bytes:
        """The next line, or b"" at the end."""
        line = self._back.pop() if self._back else self.stream.file.readline(longest)
        self.stream.offset += len(line)
        return line

    def back(self, lines: list[bytes]) -> None:
        """Gives lines back, which come again in the same order."""
        self._back += reversed(lines)
        self.stream.offset -= sum(map(len, lines))


def _frames(stream: Stream, frame: int) -> Iterator[tuple[list[bytes], str | None]]:
    """The lines of each frame (count, comment, atoms, and cell vectors on lines of their own, VEC1 …), or its fault."""
    source = _Lines(stream)
    while count := source.next(LONGEST_COUNT):
        if count.isspace():
            continue
        natoms = _number(count)
        left = None if stream.size is None else stream.size - stream.offset
        if natoms > MOST_ATOMS if left is None else natoms * SHORTEST_ATOM > left:
            raise Damaged(f"file ends in the middle of frame {frame}, which begins with {natoms} for its atoms")
        lines = [count, *islice(iter(source.next, b""), natoms + 1)]
        begins = _next_frame(lines)
        if begins is None and len(lines) < natoms + 2:
            raise Damaged(f"file ends in the middle of frame {frame}")
        if begins is not None:
            source.back(lines[begins:])
            yield [], f"says {natoms} atoms, and the next frame begins after {begins - 2}"
        else:
            after = source.next()
            while after.lstrip().startswith(b"VEC"):
                lines.append(after)
                after = source.next()
            more = 0
            if _is_row(after, lines):
                more, after = _skip_rows(source, after, lines)
            source.back([after])
            yield (lines, None) if not more else ([], f"says {natoms} atoms, and has {more} more rows of atoms")
        frame += 1


def _next_frame(lines: list[bytes]) -> int | None:
    """Where in a frame's own lines another one begins, because it has fewer rows than its count says."""
    for k in range(2, len(lines)):
        if lines[k].strip().isdigit() and (len(lines) <= k + 2 or _is_atom(lines[k + 2])):
            return k
    return None


def _is_atom(line: bytes) -> bool:
    """Whether a line looks like an atom's: a word or number among others of which three are coordinates."""
    words = line.split()
    return len(words) >= 4 and sum(map(_is_float, words)) >= 3


def _is_row(line: bytes, lines: list[bytes]) -> bool:
    """Whether the line behind a frame is one more atom of it."""
    return len(lines) > 2 and _is_atom(line) and len(line.split()) == len(lines[2].split())


def _is_float(word: bytes) -> bool:
    try:
        float(word)
    except ValueError:
        return False
    return True


def _skip_rows(source: _Lines, row: bytes, lines: list[bytes]) -> tuple[int, bytes]:
    """How many more rows there are, and the line behind them."""
    more = 0
    while _is_row(row, lines):
        more, row = more + 1, source.next()
    return more, row


def _number(line: bytes) -> int:
    try:
        natoms = int(line)
    except ValueError:
        natoms = -1
    if natoms < 0:
        raise Damaged(f"expected a number of atoms, found {line[:40].decode('utf-8', 'backslashreplace').strip()!r}")
    return natoms
