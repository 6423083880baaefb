"""A file as a source, and which reader it needs: by its content first, then by its name."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from .base import Item
from .reading import content_hash, settle
from .streams import head_of

HEAD = 2000
"""Bytes that tell what a file is, as many as ASE looks at."""

XYZ = re.compile(rb"[0-9]+[ \t\r]*\n[^\n]*\n[ \t]*[A-Z][a-z]?(?:[ \t]+[-+0-9.eE]+){3}[^\n]*\n")
"""A number, any line, then a symbol and its coordinates."""

JSON_KINDS = ("", "json", "jsonl", "ndjson", "extxyz")
"""What ASE calls files that may hold JSON: by such endings, or none. Its other formats may begin with a brace too."""


@dataclass(frozen=True)
class FileSource:
    """A file in any format. It is opened only to be read, so a hundred thousand of them cost nothing beforehand."""

    path: Path

    @property
    def name(self) -> str:
        """The path as it was given."""
        return str(self.path)

    def fingerprint(self) -> str:
        """SHA-256 of the content."""
        return content_hash([("", self.path)], labelled=False)

    def read(self, mark: Any = None) -> Iterator[Item]:
        """See ``Source.read``."""
        return settle(self.name, self._items(mark), mark)

    def _items(self, mark: Any) -> Iterator[Item]:
        # Each reader is imported where it is needed: a run over POSCAR files needs neither SQLite nor JSON.
        from .ase_file import format_of, knows, read_ase_file

        head = head_of(self.path, HEAD)
        text = head.lstrip()
        if not text and len(head) < HEAD:
            return
        # ASE's own guess takes longer than reading a small file, and of plain XYZ there may be very many.
        kind = "extxyz" if XYZ.match(text) else format_of(self.path)
        if head.startswith(b"SQLite format 3\0"):
            from .ase_db import read_sqlite

            yield from read_sqlite(self.path, mark)
        elif text[:1] in (b"{", b"[") and kind in JSON_KINDS:
            from .ase_db import is_ase_json, read_json_db
            from .optimade import read_json_file

            yield from (read_json_db if is_ase_json(text) else read_json_file)(self.path, mark)
        elif kind == "extxyz" or (not knows(kind) and text.split(b"\n")[0].strip().isdigit()):
            from .xyz import read_xyz_file

            yield from read_xyz_file(self.path, mark)
        else:
            yield from read_ase_file(self.path, mark, kind)
