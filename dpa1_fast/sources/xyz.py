"""(Extended) XYZ, frame by frame at any length of file: where frames begin and end, and what to do where they don't."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import Any

from .base import Item
from .reading import Damaged, reason
from .streams import Stream, opened
from .xyz_frame import parse_frame

LONGEST_COUNT = 200
"""Bytes. A longer line is no number of atoms, and reading on could fill the memory."""

SHORTEST_ATOM = 2
"""Bytes of the shortest line that an atom could stand on; tells a damaged count before it is believed."""

MOST_ATOMS = 100_000_000
"""Of one frame, where the size of the file isn't known."""


def read_xyz_file(path: Path, mark: Any) -> Iterator[Item]:
    """The frames of a file, compressed or not, from the beginning or from a mark: [frame, its offset in bytes]."""
    with opened(path, 0 if mark is None else mark[1]) as stream:
        yield from read_xyz(stream, 0 if mark is None else mark[0])


def read_xyz(stream: Stream, first: int) -> Iterator[Item]:
    """The frames from where the stream stands; the first one has the number ``first``.

    Raises:
        Damaged: the end of a frame can't be found, so neither can the next one.
    """
    for frame, lines in enumerate(_frames(stream, first), start=first):
        mark, share = [frame + 1, stream.offset], stream.share(stream.offset)
        try:
            atoms = parse_frame(lines)
        except Exception as error:  # ASE's reader decides what is right, and it raises anything
            yield Item(stream.name, frame, None, f"cannot be read: {reason(error)}", mark, share)
        else:
            yield Item(stream.name, frame, atoms, None, mark, share)


def _frames(stream: Stream, frame: int) -> Iterator[list[bytes]]:
    """The lines of each frame: count, comment, atoms, and cell vectors on lines of their own (VEC1 …) if any."""
    file = stream.file
    count = file.readline(LONGEST_COUNT)
    while count:
        if count.isspace():
            stream.offset += len(count)
            count = file.readline(LONGEST_COUNT)
            continue
        natoms = _number(count)
        left = None if stream.size is None else stream.size - stream.offset
        if natoms > MOST_ATOMS if left is None else natoms * SHORTEST_ATOM > left:
            raise Damaged(f"file ends in the middle of frame {frame}, which begins with {natoms} for its atoms")
        lines = [count, *islice(file, natoms + 1)]
        if len(lines) < natoms + 2:
            raise Damaged(f"file ends in the middle of frame {frame}")
        count = file.readline(LONGEST_COUNT)
        while count.lstrip().startswith(b"VEC"):
            lines.append(count)
            count = file.readline(LONGEST_COUNT)
        stream.offset += sum(map(len, lines))
        yield lines
        frame += 1


def _number(line: bytes) -> int:
    try:
        natoms = int(line)
    except ValueError:
        natoms = -1
    if natoms < 0:
        raise Damaged(f"expected a number of atoms, found {line[:40].decode('utf-8', 'backslashreplace').strip()!r}")
    return natoms
