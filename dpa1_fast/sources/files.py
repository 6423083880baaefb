"""A file as a source, and which reader it needs: by its content first, then by its name."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from .base import Item
from .names import NO_NAMES, TypeNames
from .reading import Damaged, content_hash
from .settle import settle
from .streams import OTHER_MARKS, head_of, plain_head

HEAD = 2000
"""Bytes that tell what a file is, as many as ASE looks at."""

HDF5 = b"\x89HDF\r\n\x1a\n"

XYZ = re.compile(rb"[0-9]+[ \t\r]*\n[^\n]*\n[ \t]*[A-Z][a-z]?(?:[ \t]+[-+0-9.eE]+){3}[^\n]*\n")
"""A number, any line, then a symbol and its coordinates."""

LAMMPS_DATA = re.compile(rb"^[^\n]*\n(?s:.*?)^[ \t]*[0-9]+[ \t]+atoms\b(?s:.*?)\bxlo[ \t]+xhi\b", re.MULTILINE)
"""A first line that says nothing, how many atoms there are, and a box: by its ending ASE takes ``.data`` for n2p2's."""

JSON_KINDS = ("", "json", "jsonl", "ndjson", "extxyz")
"""What ASE calls files that may hold JSON: by such endings, or none. Its other formats may begin with a brace too."""


OURS = ("extxyz", "json", "db", "lammps-dump-text", "lammps-data", "cif", "vasp-xdatcar")
"""Formats that are read here; ASE's other names of formats are for its readers."""


@dataclass(frozen=True)
class FileSource:
    """A file in any format. It is opened only to be read, so a hundred thousand of them cost nothing beforehand.

    Attributes:
        names: see ``check.checked``. format: ASE's name of it; None: by content and name.
        nested: whether it comes out of an archive, in which there may be no other.
    """

    path: Path
    names: TypeNames = NO_NAMES
    format: str | None = None
    nested: bool = False

    @property
    def name(self) -> str:
        """The path as it was given."""
        return str(self.path)

    def fingerprint(self) -> str:
        """SHA-256 of the content."""
        return content_hash([("", self.path)], labelled=False)

    def read(self, mark: Any = None) -> Iterator[Item]:
        """See ``Source.read``."""
        return settle(self.name, self.items(mark), mark, self.names)

    def items(self, mark: Any) -> Iterator[Item]:
        """What ``read`` gives, not checked yet.

        Raises:
            Exception: whatever readers raise where they can't go on.
        """
        # Each reader is imported where it is needed: a run over POSCAR files needs neither SQLite nor JSON.
        kind, text = self._kind()
        if kind == "db":
            from .ase_db import read_sqlite

            yield from read_sqlite(self.path, mark)
        elif kind == "json":
            from .ase_db import is_ase_json, read_json_db
            from .optimade import read_json_file

            yield from (read_json_db if is_ase_json(text) else read_json_file)(self.path, mark)
        elif kind == "archive":
            from .archives import read_archive

            yield from read_archive(self.path, mark, self.names, self.format)
        elif kind == "hdf5":
            from .deepmd_hdf5 import read_hdf5

            yield from read_hdf5(self.path, mark, self.names)
        elif kind == "extxyz":
            from .xyz import read_xyz_file

            yield from read_xyz_file(self.path, mark, self.names)
        elif kind == "cif":
            from .cif import read_cif_file

            yield from read_cif_file(self.path, mark)
        elif kind == "lammps-dump-text":
            from .lammps import read_dump_file

            yield from read_dump_file(self.path, mark, self.names)
        elif kind == "lammps-data":
            from .lammps import read_data_file

            yield from read_data_file(self.path, mark, self.names)
        elif kind == "vasp-xdatcar":
            from .xdatcar import read_xdatcar

            yield from read_xdatcar(self.path, mark)
        elif kind is not None:
            from .ase_file import read_ase_file

            yield from read_ase_file(self.path, mark, kind)

    def _kind(self) -> tuple[str | None, bytes]:
        """The format, None for an empty file; and how it begins, without blanks."""
        from .archives import is_archive
        from .ase_file import format_of, knows

        raw = head_of(self.path, HEAD)
        head = plain_head(raw)
        text = head.lstrip()
        if not text and len(raw) < HEAD:
            return None, text
        if is_archive(raw):
            if self.nested:
                raise Damaged("is an archive in an archive; unpack the outer one")
            return "archive", text
        if self.format is not None:
            return {"xyz": "extxyz"}.get(self.format, self.format), text
        if raw.startswith(HDF5):
            return "hdf5", text
        if raw.startswith(b"SQLite format 3\0"):
            return "db", text
        if XYZ.match(text):  # ASE's own guess takes longer than reading a small file, and there may be very many
            return "extxyz", text
        if LAMMPS_DATA.match(head):
            return "lammps-data", text
        kind = format_of(self.path, head)
        if text[:1] in (b"{", b"[") and kind in JSON_KINDS:
            return "json", text
        if not knows(kind) and raw.startswith(OTHER_MARKS):
            raise Damaged("is text in UTF-16; save it as UTF-8")
        if kind in ("extxyz", "xyz") or (not knows(kind) and text.split(b"\n")[0].strip().isdigit()):
            return "extxyz", text
        # By name alone these would be opened as what they are not: ase_file says so.
        return kind if kind not in ("db", "json") else f"{kind} by name", text
