"""Data in a format that dpdata reads and nothing else here does, named as ``dpdata:FORMAT:PATH``."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from .base import Item, SourceError, Told
from .deepmd_data import make_atoms
from .lmdb import NEEDED
from .names import NO_NAMES, Kinds, TypeNames
from .reading import content_hash
from .settle import settle

PREFIX = "dpdata:"


@dataclass(frozen=True)
class DpdataSource:
    """A file or folder for dpdata, which reads it as a whole into memory. A mark is [structure].

    Attributes:
        format: dpdata's name of it, such as ``cp2k/aimd_output``. names: what its types mean.

    Raises:
        SourceError: dpdata is not installed, or has no such format.
    """

    path: Path
    format: str
    names: TypeNames = NO_NAMES

    def __post_init__(self) -> None:
        try:
            from dpdata.format import Format
        except ImportError:
            raise SourceError(f"{self.name}: {NEEDED}") from None
        if self.format.lower() not in Format.get_formats():  # type: ignore[no-untyped-call]
            raise SourceError(f"{self.name}: dpdata has no format {self.format!r}")

    @property
    def name(self) -> str:
        """As it was given."""
        return f"{PREFIX}{self.format}:{self.path}"

    def fingerprint(self) -> str:
        """SHA-256 over the file, or over all files of the folder and their names."""
        files = sorted(p for p in self.path.rglob("*") if p.is_file()) if self.path.is_dir() else [self.path]
        return content_hash((p.relative_to(self.path).as_posix(), p) for p in files)

    def read(self, mark: Any = None) -> Iterator[Item]:
        """See ``Source.read``."""
        return settle(self.name, self._items(0 if mark is None else int(mark[0])), mark, self.names)

    def _items(self, done: int) -> Iterator[Item]:
        import dpdata

        data = dpdata.System(str(self.path), fmt=self.format).data
        kinds = Kinds(np.asarray(data["atom_types"], np.int64), tuple(map(str, data["atom_names"])))
        coords, cells = data["coords"], data["cells"]
        for k in range(done, len(coords)):
            blank = np.zeros(len(kinds.kinds), int)
            atoms = make_atoms(blank, coords[k], None if data.get("nopbc") else cells[k], {})
            yield Item(self.name, k, atoms, None, [k + 1], (k + 1) / len(coords), told=Told(kinds=kinds))
