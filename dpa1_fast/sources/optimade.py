"""JSON with structures in it: a structure a line (OPTIMADE's JSON Lines and their like), or one document."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from io import BytesIO
from itertools import chain
from pathlib import Path
from typing import Any

from .base import Item
from .ids import identity
from .json_structures import is_mapping, is_structure, structure
from .reading import Damaged, reason
from .streams import Stream, opened

LARGEST_DOCUMENT = 2**30
"""Bytes. JSON in one piece has to be held in memory as a whole, and several times over."""


def read_json_file(path: Path, mark: Any) -> Iterator[Item]:
    """The structures of a file, compressed or not; a mark is [structure, offset in bytes of its line, entry in it]."""
    frame, offset, entry = (0, 0, 0) if mark is None else mark
    with opened(path, offset) as stream:
        yield from read_json(stream, frame, entry)


def read_json(stream: Stream, frame: int, entry: int = 0) -> Iterator[Item]:
    """The structures from where the stream stands.

    A line holds a structure, or several in a list or as ``data``. Where the first line only begins a value, the whole
    stream is taken for one document; it is held in memory then.

    Args:
        frame: number of the first structure.
        entry: how many entries of the first line are done.

    Raises:
        Damaged: a document in one piece that is too large.
    """
    lines: Iterable[bytes] = iter(lambda: _line(stream), b"")
    if frame == 0 or entry:
        first = b""
        while line := _line(stream):
            first += line
            if not line.isspace():
                break
        lines = chain([first], lines) if first else lines
        if _only_begins(first):
            text = first + stream.file.read(LARGEST_DOCUMENT)
            if len(text) > LARGEST_DOCUMENT:
                raise Damaged("is one JSON document of more than 1 GiB; give a structure a line (JSON Lines)")
            try:
                document = json.loads(text)
            except (ValueError, RecursionError):
                lines = BytesIO(text)  # lines after all, and the first one is damaged
            else:
                begin = stream.offset
                yield from _entries(stream, document, frame, entry, begin, begin + len(text))
                return
    yield from _read_lines(stream, lines, frame, entry)


def _line(stream: Stream) -> bytes:
    line = stream.file.readline(LARGEST_DOCUMENT + 1)
    if len(line) > LARGEST_DOCUMENT:
        raise Damaged("has a line of more than 1 GiB; give a structure a line (JSON Lines)")
    return line


def _read_lines(stream: Stream, lines: Iterable[bytes], frame: int, entry: int) -> Iterator[Item]:
    for line in lines:
        here, stream.offset = stream.offset, stream.offset + len(line)
        if line.isspace():
            continue
        try:
            value = json.loads(line)
        except (ValueError, RecursionError) as error:
            why = f"cannot be read: {reason(error)}"
            yield Item(stream.name, frame, None, why, [frame + 1, stream.offset, 0], stream.share(stream.offset))
            frame += 1
        else:
            for item in _entries(stream, value, frame, entry, here, stream.offset):
                yield item
                frame = item.frame + 1
        entry = 0


def _entries(stream: Stream, value: Any, frame: int, entry: int, begin: int, end: int) -> Iterator[Item]:
    """The structures in one parsed value that lies between two offsets, without its first ``entry`` entries."""
    entries = value if isinstance(value, list) else [value]
    ids: list[str] | None = None
    if isinstance(value, dict) and isinstance(value.get("data"), list):  # the answer of an OPTIMADE server
        entries = value["data"]
    elif is_mapping(value):
        ids, entries = list(value), list(value.values())
    for k, one in enumerate(entries[entry:], start=entry + 1):
        if not is_structure(one):
            continue
        atoms, told, error = None, None, None
        try:
            atoms, told = structure(one)
        except (Damaged, LookupError, TypeError, ValueError, AttributeError, RecursionError) as fault:
            error = f"cannot be read: {reason(fault)}"
        if ids is not None and atoms is not None and identity(atoms.info) is None:
            atoms.info["id"] = ids[k - 1]
        if ids is not None and error is not None:
            error = f"{ids[k - 1]} {error}"
        mark = [frame + 1, begin, k] if k < len(entries) else [frame + 1, end, 0]
        yield Item(stream.name, frame, atoms, error, mark, stream.share(end), told=told)
        frame += 1


def _only_begins(line: bytes) -> bool:
    """Whether a line is right as far as it goes, but ends before its JSON value does."""
    try:
        json.loads(line)
    except json.JSONDecodeError as error:
        return error.pos >= len(error.doc.rstrip()) > 0
    except (ValueError, RecursionError):
        return False
    return False
