"""Zip archives from strangers: nothing is unpacked before its declared size is known to be reasonable."""

from __future__ import annotations

import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from ..errors import ModelFileError
from .parsing import parsing

EXPANSION, SPARE = 20, 64_000_000
"""An archive may unpack to 20 times its size and 64 MB more: torch stores weights as they are, and packs only code."""
NAMES = 200_000
"""Most files that an archive may hold."""


class Archive:
    """An open zip archive.

    Attributes:
        names: of all its files. nbytes: what all of them unpack to.
    """

    def __init__(self, path: Path, file: zipfile.ZipFile) -> None:
        infos = file.infolist()
        self.path, self._file = path, file
        self.names = [info.filename for info in infos]
        self.nbytes = sum(info.file_size for info in infos)
        limit = EXPANSION * path.stat().st_size + SPARE
        if self.nbytes > limit or len(infos) > NAMES:
            told = f"is a zip archive that would unpack to {self.nbytes:.3g} bytes in {len(infos):,} files"
            raise ModelFileError(path, told, "no model does; do not use it")

    def size(self, name: str) -> int:
        """Bytes that a file of the archive unpacks to."""
        return self._file.getinfo(name).file_size

    def read(self, name: str, limit: int | None = None) -> bytes:
        """One file of the archive, never longer than the archive declared.

        Raises:
            ModelFileError: it is missing, damaged, or longer than ``limit`` bytes.
        """
        if name not in self._file.NameToInfo:
            raise ModelFileError(self.path, f"lacks {name!r} in its archive", "copy or download it again")
        if limit is not None and self.size(name) > limit:
            told = f"holds {name!r} of {self.size(name):,} bytes, more than any model needs"
            raise ModelFileError(self.path, told, "do not use it")
        with parsing(self.path, f"a zip archive, at {name!r}"):
            return self._file.read(name)

    def ending(self, name: str) -> str | None:
        """The first file of that name, in whatever folder of the archive."""
        return next((n for n in self.names if n.rsplit("/", 1)[-1] == name), None)


@contextmanager
def opened(path: Path) -> Iterator[Archive]:
    """A zip archive, checked before anything is unpacked.

    Raises:
        ModelFileError: damaged, or it would unpack to more than a model can be.
    """
    with parsing(path, "a zip archive"):
        file = zipfile.ZipFile(path)
    with file:
        yield Archive(path, file)
