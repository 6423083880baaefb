"""Every other format that ASE reads, one structure at a time as far as ASE's own reader does that."""

from __future__ import annotations

import io
import os
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import islice
from pathlib import Path
from typing import Any

from ase.io import iread
from ase.io.formats import UnknownFileTypeError, filetype, ioformats

from .ase_process import read_elsewhere
from .ase_told import told_of
from .base import Item
from .reading import Damaged, reason
from .streams import opened

NOT_BY_NAME = {
    "db by name": "its name says ASE database, its content is no SQLite file",
    "json by name": "its name says JSON, its content is none",
    "postgresql": "is no file",
    "mysql": "is no file",
    "bundletrajectory": "is a folder",
}
"""Formats that ASE would open by name alone: it may write tables into a file, or ask a server for one."""


SOUND = ("vasp", "traj", "proteindatabank", "res", "xsf")
"""Formats whose readers ended soon over ten thousands of damaged files (tests/fuzz); others get a process of their own,
which takes a second to start."""


def read_ase_file(path: Path, mark: Any, kind: str) -> Iterator[Item]:
    """The structures of a file, from the beginning or from a mark: [structures done].

    Args:
        kind: ASE's name of the format, or what stands in its place.

    Raises:
        Exception: whatever ASE's reader raises.
    """
    if not knows(kind):
        raise Damaged(NOT_BY_NAME.get(kind, f"ASE knows no format {kind!r}, and the content does not tell one"))
    done = 0 if mark is None else int(mark[0])
    # Trajectories find a frame by its number; readers of other formats would mostly read up to it as well.
    skip = done if kind == "traj" else 0
    found = images(path, kind, skip) if kind in SOUND else read_elsewhere(path, kind, skip)
    for frame, atoms in enumerate(islice(found, done - skip, None), start=done):
        told, error = None, None
        try:
            told = told_of(kind, path, atoms)
        except Damaged as fault:
            error = reason(fault)
        yield Item(str(path), frame, None if error else atoms, error, [frame + 1], told=told)


def images(path: Path, kind: str, skip: int) -> Iterator[Any]:
    """What ASE's reader gives, from number ``skip`` on, in this process.

    Raises:
        Exception: whatever it raises.
    """
    with for_ase(path, kind) as given:
        yield from iread(given, index=slice(skip, None), format=kind, do_not_split_by_at_sign=True)


@contextmanager
def for_ase(path: Path, kind: str) -> Iterator[Any]:
    """What ASE's reader of a format takes: the content, or the path where the reader opens it itself.

    Text is UTF-8, whatever the locale is. Bytes that are none are shown escaped: they are names and remarks.
    """
    known = ioformats[kind]
    if not known.acceptsfd:
        yield local(path)
        return
    with opened(path, text=not known.isbinary, bounded=True) as stream:
        if known.isbinary:
            yield stream.file
        else:
            yield io.TextIOWrapper(stream.file, encoding="utf-8", errors="backslashreplace")


def format_of(path: Path, head: bytes) -> str:
    """ASE's name of a file's format, by content and name. Where ASE knows none: the ending, or "".

    Args:
        head: the first bytes of the content, uncompressed.
    """
    file = io.BytesIO(head)
    file.name = local(path)  # type: ignore[attr-defined]
    try:
        return filetype(file)
    except UnknownFileTypeError:
        return ""


def knows(kind: str) -> bool:
    """Whether there is a reader of that name that may be used."""
    return kind in ioformats and kind not in (*NOT_BY_NAME, "db", "json") and ioformats[kind].can_read


def local(path: Path) -> str:
    """A file name that ASE can't take for the address of a database server."""
    return os.path.join(".", path)
