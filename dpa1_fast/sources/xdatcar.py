"""VASP's XDATCAR, frame by frame: ASE's reader holds all of it, believes any count, and ends quietly where rows miss.

A frame is a line ``Direct configuration= k`` and a row an atom. The header (a name, a scale, three lattice vectors,
elements, their counts) stands once, or before every frame where the cell changes.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from ase import Atoms

from .base import Item, Told
from .names import kinds_of
from .reading import Damaged, reason
from .streams import Stream, opened

HEADER = 7
"""Lines of a header."""

NO_HEADER = "has no sound header before it: a name, a scale, three lattice vectors, elements and their counts"


@dataclass(frozen=True)
class Frame:
    """Lines of a frame.

    Attributes:
        header: of this frame, () where none is known. kind: the line that begins it. rows: what follows it.
    """

    header: tuple[str, ...]
    kind: str
    rows: list[str]


def read_xdatcar(path: Path, mark: Any) -> Iterator[Item]:
    """The frames of an XDATCAR; a mark is [frame, its offset in bytes, the header's lines]."""
    frame, offset, header = (0, 0, ()) if mark is None else mark
    with opened(path, offset) as stream:
        for one, following, after in _frames(stream, tuple(header)):
            atoms, told, error = None, None, None
            try:
                atoms, told = _structure(one)
            except (Damaged, ValueError) as fault:
                error = f"cannot be read: {reason(fault)}"
            frame += 1
            yield Item(
                str(path), frame - 1, atoms, error, [frame, after, list(following)], stream.share(after), told=told
            )


def _frames(stream: Stream, header: tuple[str, ...]) -> Iterator[tuple[Frame, tuple[str, ...], int]]:
    """Each frame, the header that holds behind it, and the offset there."""
    kind: str | None = None
    held: list[tuple[str, int]] = []  # lines since the last frame began, with their offsets
    while line := stream.file.readline():
        text, begin = line.decode("utf-8", "backslashreplace").strip(), stream.offset
        stream.offset += len(line)
        if "configuration=" not in text:
            held.append((text, begin))  # blank ones too: a header's name may be none
            continue
        lines = [x for x, _ in held]
        own = tuple(lines[-HEADER:]) if _is_header(lines[-HEADER:]) else ()
        rows = [x for x in lines[: len(lines) - len(own)] if x]
        if kind is not None:
            following = () if own or _hides_header(header, rows) else header
            yield Frame(header, kind, rows), following, held[-HEADER][1] if own else begin
            header = following
        elif rows:
            header = ()
        header, kind, held = own or header, text, []
    if kind is not None:
        yield Frame(header, kind, [x for x, _ in held if x]), header, stream.offset
    elif any(x for x, _ in held):
        raise Damaged("ends before its first configuration")


def _hides_header(header: tuple[str, ...], rows: list[str]) -> bool:
    """Whether a header with a fault may stand among a frame's rows: the frames behind it have another's cell then."""
    others = sum(not _is_row(row) for row in rows)
    surplus = bool(header) and len(rows) > sum(int(x) for x in header[-1].split())
    return others > 0 and (surplus or others > 2)


def _is_row(line: str) -> bool:
    try:
        return len([float(x) for x in line.split()[:3]]) == 3
    except ValueError:
        return False


def _is_header(lines: list[str]) -> bool:
    """Whether these are a header's lines, whatever its name is."""
    if len(lines) < HEADER:
        return False
    _, scale, *vectors, names, counts = lines
    try:
        return (
            len([float(x) for x in scale.split()]) == 1
            and all(map(_is_row, vectors))
            and not names[:1].isdigit()
            and len(names.split()) == len([int(x) for x in counts.split()]) > 0
        )
    except ValueError:
        return False


def _structure(frame: Frame) -> tuple[Atoms, Told]:
    """A frame's atoms.

    Raises:
        Damaged, ValueError: a header that is none or is not sound, rows that are too few, too many or no numbers.
    """
    if not frame.header:
        raise Damaged(NO_HEADER)
    if not frame.kind.startswith("Direct"):
        raise Damaged(f"its coordinates are {frame.kind.split()[0]!r}, and Direct is what is read")
    _, scale, *vectors, names, counts = frame.header
    cell = np.array([[float(x) for x in line.split()[:3]] for line in vectors])
    by = float(scale)
    if by < 0:  # VASP's way to give a volume
        by = float((-by / abs(np.linalg.det(cell))) ** (1 / 3))
    each = [int(x) for x in counts.split()]
    if min(each) < 0:
        raise Damaged(f"says {min(each)} atoms of an element")
    if sum(each) != len(frame.rows):
        raise Damaged(f"says {sum(each)} atoms, and has {len(frame.rows)} rows of atoms")
    places = np.array([[float(x) for x in row.split()[:3]] for row in frame.rows]).reshape(-1, 3)
    # VASP writes Fe_pv, O.s and Si/0123 for elements with a certain potential.
    symbols = [name.split("/")[0].split("_")[0].split(".")[0] for name in names.split()]
    atoms = Atoms(numbers=np.ones(len(frame.rows), int), cell=by * cell, pbc=True)
    atoms.set_scaled_positions(places)
    return atoms, Told(kinds=kinds_of(np.repeat(symbols, each).tolist()), no_virtual=True)
