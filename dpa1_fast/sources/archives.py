"""Archives (.zip, .tar, .tar.gz, …) whose members are files of structures.

One member at a time is unpacked into a file of a temporary folder, under a name of ours; names of members are labels,
and links, folders and devices are passed over. What says or turns out to be enormous is refused.
"""

from __future__ import annotations

import lzma
import os
import re
import tarfile
import tempfile
import zipfile
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import IO, Any, cast

from .base import Item
from .files import FileSource
from .names import NO_NAMES, TypeNames
from .reading import Damaged, reason
from .settle import ended
from .streams import Reader, check_growth, compression, opened

BROKEN = (zipfile.BadZipFile, tarfile.TarError, zlib.error, lzma.LZMAError)

LARGEST_MEMBER = 2**32
"""Bytes of a member, unpacked."""

CHUNK = 2**20

ZIP = (b"PK\x03\x04", b"PK\x05\x06")
TAR_AT = 257
TAR = b"ustar"

PASSED_OVER = re.compile(r"(^|/)(__MACOSX/|\._|\.DS_Store$|Thumbs\.db$)")
"""What systems put into archives by themselves."""


def is_archive(head: bytes) -> bool:
    """Whether a file is an archive, by the first bytes of its content, uncompressed."""
    return head.startswith(ZIP) or head[TAR_AT : TAR_AT + len(TAR)] == TAR


@dataclass
class Member:
    """A file in an archive.

    Attributes:
        name: there. size: as the archive says it. packed: bytes that it takes there; 0 where that is not known.
        open: its content.
    """

    name: str
    size: int
    packed: int
    open: Callable[[], IO[bytes]]


def read_archive(path: Path, mark: Any, names: TypeNames = NO_NAMES, format: str | None = None) -> Iterator[Item]:
    """The structures of all members, in the archive's order; a mark is [structure, member, the mark in it].

    Raises:
        Exception: whatever zipfile and tarfile raise for a damaged archive.
    """
    done, first, within = (0, 0, None) if mark is None else mark
    with opened(path, text=False) as stream:
        zipped = stream.file.read(4) in ZIP
    with (_zip if zipped else _tar)(path) as members, tempfile.TemporaryDirectory(prefix="dpa1-fast-") as folder:
        for number, member in enumerate(members):
            if number < first:
                continue
            label = f"{path}/{member.name}"
            try:
                unpacked = _unpack(member, Path(folder))
            except (Damaged, OSError, RuntimeError, NotImplementedError, EOFError, ValueError, *BROKEN) as e:
                yield Item(label, -1, None, f"cannot be unpacked: {reason(e)}", [done, number + 1, None])
            else:
                source = FileSource(unpacked, names, format, nested=True)
                for item in ended(label, source.items(within), within):
                    done += item.frame >= 0
                    following = [done, number + 1, None] if item.mark is None else [done, number, item.mark]
                    error = item.error and item.error.replace(str(unpacked), label)
                    yield replace(item, source=label, mark=following, share=float("nan"), error=error)
                unpacked.unlink(missing_ok=True)
            within = None


@contextmanager
def _zip(path: Path) -> Iterator[Iterator[Member]]:
    with zipfile.ZipFile(path) as archive:
        files = [info for info in archive.infolist() if not info.is_dir() and not PASSED_OVER.search(info.filename)]
        yield (Member(x.filename, x.file_size, x.compress_size, partial(archive.open, x)) for x in files)


@contextmanager
def _tar(path: Path) -> Iterator[Iterator[Member]]:
    with path.open("rb") as file:
        packed = compression(file.read(6)) is not None
    with opened(path, text=False) as stream:
        # Read forwards only, and stopped where little unpacks to much.
        content: Any = Reader(stream.file, packed=_Position(stream) if packed else None)
        with tarfile.open(fileobj=content, mode="r|") as archive:
            files = (info for info in archive if info.isreg() and not PASSED_OVER.search(info.name))
            yield (Member(x.name, x.size, 0, cast(Any, partial(archive.extractfile, x))) for x in files)


class _Position:
    """How much of a compressed stream's file has been read."""

    def __init__(self, stream: Any) -> None:
        self._stream, self.name = stream, stream.name
        self._size = os.path.getsize(stream.name)

    def tell(self) -> int:
        """Bytes, about."""
        return int(self._stream.share(0) * self._size)


def _unpack(member: Member, folder: Path) -> Path:
    """A member as a file, whose name ends as its own does: names tell formats.

    Raises:
        Damaged: it is larger than it says, or than anything that somebody would pack.
    """
    if member.size > LARGEST_MEMBER:
        raise Damaged(f"is {member.size:,} bytes, and at most {LARGEST_MEMBER:,} are unpacked")
    if member.packed:
        check_growth(member.size, member.packed)
    name = re.sub(r"[^A-Za-z0-9._+-]", "_", os.path.basename(member.name.replace("\\", "/")))[-80:].lstrip(".-")
    target = folder / (name or "member")
    written = 0
    with member.open() as content, target.open("wb") as file:
        while data := content.read(CHUNK):
            written += len(data)
            if written > member.size:
                raise Damaged(f"is more than the {member.size:,} bytes that the archive says")
            file.write(data)
    if written < member.size:
        raise Damaged(f"ends after {written:,} of {member.size:,} bytes")
    return target
