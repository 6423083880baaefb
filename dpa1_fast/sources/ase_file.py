"""Every other format that ASE reads, one structure at a time as far as ASE's own reader does that."""

from __future__ import annotations

import os
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import Any

from ase.io import iread
from ase.io.formats import UnknownFileTypeError, filetype, ioformats

from .base import Item
from .reading import Damaged

NOT_BY_NAME = {
    "db": "its name says ASE database, its content is no SQLite file",
    "json": "its name says JSON, its content is none",
    "postgresql": "is no file",
    "mysql": "is no file",
}
"""Formats that ASE would open by name alone: it may write tables into a file, or ask a server for one."""


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
    images = iread(local(path), index=slice(skip, None), format=kind, do_not_split_by_at_sign=True)
    for frame, atoms in enumerate(islice(images, done - skip, None), start=done):
        yield Item(str(path), frame, atoms, None, [frame + 1])


def format_of(path: Path) -> str:
    """ASE's name of a file's format, by content and name. Where ASE knows none: the ending, or "".

    Raises:
        OSError: the file cannot be opened.
    """
    try:
        return filetype(local(path))
    except UnknownFileTypeError:
        return ""


def knows(kind: str) -> bool:
    """Whether there is a reader of that name that may be used."""
    return kind in ioformats and kind not in NOT_BY_NAME


def local(path: Path) -> str:
    """A file name that ASE can't take for the address of a database server."""
    return os.path.join(".", path)
