"""What all readers share: what is wrong with content, in one line, and what a fingerprint is."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterable
from pathlib import Path

from ..errors import DPA1Error

LONGEST_REASON = 400


class Damaged(DPA1Error, ValueError):
    """Content that cannot be read; the message says what is wrong in our own words."""


def reason(error: Exception) -> str:
    """An error in one line. Other people's errors are shown with their class, which often says more than the text."""
    text = str(error) if isinstance(error, DPA1Error) else f"{type(error).__name__}: {error}"
    line = " ".join(text.split())
    return line if len(line) <= LONGEST_REASON else line[:LONGEST_REASON] + "…"


def content_hash(files: Iterable[tuple[str, Path]], labelled: bool = True) -> str:
    """SHA-256 over files in the given order: names, sizes and contents; of one file alone, over its content.

    A file that can't be opened counts as such, because ``read`` is where that is reported.
    """
    digest = hashlib.sha256()
    for label, path in files:
        try:
            with path.open("rb") as file:
                one = hashlib.file_digest(file, "sha256").hexdigest()
                size = file.tell()
        except OSError:
            one, size = "cannot be opened", -1
        if not labelled:
            return one
        digest.update(os.fsencode(label) + f"\0{size}\0{one}\n".encode())
    return digest.hexdigest()
