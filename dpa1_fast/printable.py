"""Text that every file and every terminal takes, whatever a file's name or a stranger's data holds.

Python keeps bytes of a name that are no text as lone surrogates, which neither JSON, nor Parquet, nor a terminal takes.
And a terminal may speak an encoding that has no Å.
"""

from __future__ import annotations

import codecs
import os
import sys
from typing import Any

IN_ASCII = {"Å": "A", "³": "^3", "−": "-", "–": "-", "…": "...", "≠": "!=", "≤": "<=", "≥": ">=", "×": "x", "→": "->"}
"""What this package prints besides ASCII, and how it is said without."""


def printable(text: str) -> str:
    r"""The same text, with what is no character written as ``\xe9`` or ``\udc00``."""
    try:
        text.encode()
        return text
    except UnicodeEncodeError:
        pass
    try:
        return text.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")
    except UnicodeEncodeError:  # a surrogate that stands for no byte: JSON can bring such
        return text.encode("utf-8", "backslashreplace").decode()


def name_of(path: str | os.PathLike[str]) -> str:
    """A file's name as text, the same in every locale if it is UTF-8, as nearly all are."""
    name = os.fspath(path)
    try:
        return os.fsencode(name).decode("utf-8")
    except UnicodeError:
        return printable(name)


def _instead(error: UnicodeError) -> tuple[str | bytes, int]:
    if not isinstance(error, UnicodeEncodeError):
        raise error
    known = "".join(IN_ASCII.get(c, c) for c in error.object[error.start : error.end])
    return known.encode("ascii", "backslashreplace").decode(), error.end


def forgiving_output() -> None:
    """Makes standard output and error write something in place of what their encoding does not have."""
    codecs.register_error("dpa1_fast", _instead)
    for stream in (sys.stdout, sys.stderr):
        reconfigure: Any = getattr(stream, "reconfigure", None)
        if reconfigure is not None:
            reconfigure(errors="dpa1_fast")


def clock(seconds: float) -> str:
    """A length of time in words."""
    whole = round(seconds)
    hours, minutes = whole // 3600, whole // 60 % 60
    return f"{hours} h {minutes:02d} min" if hours else f"{minutes} min {whole % 60:02d} s" if minutes else f"{whole} s"
