"""Files as streams of bytes, compressed or not, with offsets to come back to."""

from __future__ import annotations

import bz2
import gzip
import lzma
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

OPENERS: dict[bytes, Callable[..., Any]] = {b"\x1f\x8b": gzip.open, b"BZh": bz2.open, b"\xfd7zXZ\0": lzma.open}
"""By the first bytes of a file."""


@dataclass
class Stream:
    """Bytes to be read forwards.

    Attributes:
        name: what Items call the source.
        file: where ``readline`` and iteration read on.
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


@contextmanager
def opened(path: Path, offset: int = 0) -> Iterator[Stream]:
    """A file as a Stream that stands at ``offset``.

    Raises:
        OSError: it cannot be opened, or the compressed data is damaged before ``offset``.
    """
    with path.open("rb") as raw:
        size = os.fstat(raw.fileno()).st_size
        opener = compression(raw.read(6))
        raw.seek(0)
        if opener is None:
            raw.seek(offset)
            yield Stream(str(path), raw, offset, size, lambda o: o / max(size, 1))
        else:
            with opener(raw) as file:
                file.seek(offset)
                yield Stream(str(path), file, offset, None, lambda _: raw.tell() / max(size, 1))


def compression(head: bytes) -> Callable[..., Any] | None:
    """What opens a file that begins with these bytes, if it is compressed."""
    return next((opener for magic, opener in OPENERS.items() if head.startswith(magic)), None)


def head_of(path: Path, size: int) -> bytes:
    """The first bytes of the uncompressed content.

    Raises:
        Exception: the file cannot be opened, or its compressed data is damaged there.
    """
    with opened(path) as stream:
        return stream.file.read(size)
