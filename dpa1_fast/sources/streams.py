"""Files as streams of bytes, compressed or not, with offsets to come back to."""

from __future__ import annotations

import bz2
import gzip
import io
import lzma
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

from .reading import Damaged

OPENERS: dict[bytes, Callable[..., Any]] = {b"\x1f\x8b": gzip.open, b"BZh": bz2.open, b"\xfd7zXZ\0": lzma.open}
"""By the first bytes of a file."""

MARK = b"\xef\xbb\xbf"
"""The byte order mark of UTF-8, which says nothing and is left out."""

OTHER_MARKS = (b"\xff\xfe", b"\xfe\xff")
"""Those of UTF-16."""

HEAD = 4096
"""Bytes that tell which line ends a file has."""

HARMLESS, MOST = 2**26, 250
"""Content of more than 64 MiB that is more than 250 times its compressed size is no text of anybody's."""


@dataclass
class Stream:
    """Bytes to be read forwards.

    Attributes:
        name: what Items call the source.
        file: where ``readline`` and iteration read on. Lines end with a line feed, whatever they do on disk.
        offset: of the next byte, in the uncompressed content. Whoever reads adds to it.
        size: of the uncompressed content, or None where that isn't known before its end.
        share: how much of the source lies behind the offset, 0 to 1, or NaN.
    """

    name: str
    file: IO[bytes]
    offset: int
    size: int | None
    share: Callable[[int], float]


def unknown(_offset: int) -> float:
    """The share of a stream whose length nobody knows."""
    return float("nan")


class Reader(io.RawIOBase):
    """Another file's bytes, with a few changes on the way.

    Args:
        file: that is read. returns: whether carriage returns become line feeds.
        packed: the compressed file that ``file`` unpacks, where what comes out of it is to be bounded.
    """

    def __init__(self, file: Any, returns: bool = False, packed: Any = None) -> None:
        self.file, self.returns, self.packed, self.count = file, returns, packed, 0
        self.name = getattr(packed or file, "name", None)

    def readable(self) -> bool:
        """Yes."""
        return True

    def seekable(self) -> bool:
        """Whether the other file is."""
        return bool(self.file.seekable())

    def seek(self, offset: int, whence: int = 0) -> int:
        """See ``io.IOBase``."""
        return int(self.file.seek(offset, whence))

    def tell(self) -> int:
        """See ``io.IOBase``."""
        return int(self.file.tell())

    def readinto(self, buffer: Any) -> int:
        """See ``io.RawIOBase``.

        Raises:
            Damaged: unpacked, it is far larger than anything that somebody would pack.
        """
        data = self.file.read(len(buffer))
        self.count += len(data)
        if self.packed is not None:
            check_growth(self.count, self.packed.tell())
        buffer[: len(data)] = data.replace(b"\r", b"\n") if self.returns else data
        return len(data)


def check_growth(unpacked: int, packed: int) -> None:
    """Stops what unpacks to gigabytes of nothing.

    Raises:
        Damaged: it does.
    """
    if unpacked > HARMLESS and unpacked > MOST * max(packed, 1):
        raise Damaged(f"unpacks to more than {MOST} times its size; unpack it yourself if that is right")


@contextmanager
def opened(path: Path, offset: int = 0, *, text: bool = True, bounded: bool = False) -> Iterator[Stream]:
    """A file as a Stream that stands at ``offset``, behind a byte order mark if there is one.

    Args:
        text: whether line ends and byte order marks are looked after.
        bounded: whether to stop where compressed content is suspiciously large; for readers that hold all of it.

    Raises:
        OSError: it cannot be opened, or the compressed data is damaged before ``offset``.
        Damaged: the text is in UTF-16.
    """
    with path.open("rb") as raw:
        size = os.fstat(raw.fileno()).st_size
        opener = compression(raw.read(6))
        raw.seek(0)
        with opener(raw) if opener else raw as file:
            head = file.read(HEAD) if text else b""
            if head.startswith(OTHER_MARKS):
                raise Damaged("is text in UTF-16; save it as UTF-8")
            if offset == 0 and head.startswith(MARK):
                offset = len(MARK)
            file.seek(offset)
            returns = old_line_ends(head)
            if returns or (opener and bounded):
                file = io.BufferedReader(Reader(file, returns, raw if opener and bounded else None), 2**17)
            if opener is None:
                yield Stream(str(path), file, offset, size, lambda o: o / max(size, 1))
            else:
                yield Stream(str(path), file, offset, None, lambda _: raw.tell() / max(size, 1))


def old_line_ends(head: bytes) -> bool:
    """Whether lines end with carriage returns alone, as they did on old Macintoshes."""
    return b"\r" in head and b"\n" not in head


def compression(head: bytes) -> Callable[..., Any] | None:
    """What opens a file that begins with these bytes, if it is compressed."""
    return next((opener for magic, opener in OPENERS.items() if head.startswith(magic)), None)


def head_of(path: Path, size: int) -> bytes:
    """The first bytes of the uncompressed content.

    Raises:
        Exception: the file cannot be opened, or its compressed data is damaged there.
    """
    with opened(path, text=False) as stream:
        return stream.file.read(size)


def plain_head(head: bytes) -> bytes:
    """The first bytes of text as readers will see them: without a byte order mark, lines ended by line feeds."""
    head = head.removeprefix(MARK)
    return head.replace(b"\r", b"\n") if old_line_ends(head) else head
