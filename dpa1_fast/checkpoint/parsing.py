"""The one door between libraries that parse a stranger's file and the errors that a user sees.

Only calls of parsing libraries (zipfile, h5py, yaml, json, safetensors) stand inside ``with parsing(...)``. What our
own code takes out of a file it takes through ``Section``, which checks before it hands out; an error that comes from
anywhere else is a mistake of ours and stays what it is.
"""

from __future__ import annotations

import reprlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, TypeVar

from ..errors import DPA1Error, ModelFileError

T = TypeVar("T")
D = TypeVar("D")
REWRITE = "write the file again with the program that made it"
OURS = (DPA1Error, MemoryError, ImportError, NameError, AssertionError)
"""Errors that say nothing about a file: they pass as they are."""


@contextmanager
def parsing(path: Path, what: str) -> Iterator[None]:
    """Turns what a parsing library raises into one line about the file; the cause stays chained.

    Args:
        path: the file. what: what it is read as, with its article ("an HDF5 file").

    Raises:
        ModelFileError: the system could not read the file, or the library could not make sense of it.
    """
    try:
        yield
    except OURS:
        raise
    except OSError as error:
        if error.errno and error.strerror:
            reason = f"cannot be read ({error.strerror})"
            raise ModelFileError(path, reason, "check its permissions and its disk") from error
        raise _senseless(path, what, error) from error
    except Exception as error:
        raise _senseless(path, what, error) from error


def _senseless(path: Path, what: str, error: Exception) -> ModelFileError:
    told = f"cannot be read as {what} ({type(error).__name__}: {clipped(str(error), 120)})"
    return ModelFileError(path, told, "it is damaged or cut short, or not what it seems: copy or download it again")


def clipped(text: str, length: int) -> str:
    """A text on one line, without control characters, and not longer than ``length``."""
    line = " ".join("".join(c if c.isprintable() else " " for c in text[: 4 * length]).split())
    return line if len(line) <= length else line[: length - 1] + "…"


def shown(value: Any) -> str:
    """A value out of a file, short enough for a message whatever it is."""
    if isinstance(value, int) and not isinstance(value, bool) and value.bit_length() > 64:
        return "an enormous integer"
    if value is None or isinstance(value, (bool, int, float, str)):
        return clipped(repr(value[:60] if isinstance(value, str) else value), 60)
    if isinstance(value, (list, tuple)):
        return "a list"
    return "a mapping" if isinstance(value, dict) else f"a {type(value).__name__}"


def listed(names: Any) -> str:
    """A few names, for a message."""
    return clipped(", ".join(reprlib.repr(n).strip("'\"") for n in list(names)[:12]), 200)


# --- kinds of values: each returns the value, or raises ValueError that says what it must be -----------------------


def text(value: Any) -> str:
    """A string."""
    if isinstance(value, str):
        return value
    raise ValueError("a text")


def flag(value: Any) -> bool:
    """True or false; 0 and 1 count."""
    if isinstance(value, (bool, int)) and value in (0, 1):
        return bool(value)
    raise ValueError("true or false")


def integer(value: Any) -> int:
    """An integer of at most 63 bits."""
    if isinstance(value, (int, float)) and not isinstance(value, bool) and value == value // 1 and abs(value) < 2**63:
        return int(value)
    raise ValueError("an integer")


def number(value: Any) -> float:
    """A number; a text that spells one counts, since YAML reads ``1e-5`` as text."""
    numeric = isinstance(value, (int, float)) and not isinstance(value, bool) and not _too_long(value)
    if numeric or (isinstance(value, str) and len(value) <= 40):
        with suppress(ValueError):  # of another text
            return float(value)
    raise ValueError("a number")


def _too_long(value: float) -> bool:
    return isinstance(value, int) and value.bit_length() > 1000


def many(kind: Callable[[Any], T]) -> Callable[[Any], tuple[T, ...]]:
    """A list of values of one kind."""

    def convert(value: Any) -> tuple[T, ...]:
        if not isinstance(value, (list, tuple)):
            raise ValueError("a list")
        return tuple(kind(x) for x in value)

    return convert


# --- mappings ------------------------------------------------------------------------------------------------------


class Section:
    """A mapping out of somebody's file; what is asked of it is checked, and refused by its name.

    Args:
        path: the file. name: what the mapping is called in messages. value: anything.

    Raises:
        ModelFileError: on construction, where ``value`` is no mapping.
    """

    def __init__(self, path: Path, name: str, value: Any) -> None:
        if not isinstance(value, dict):
            raise ModelFileError(path, f"is not a complete DeePMD-kit model: {name} is {shown(value)}", REWRITE)
        self.path, self.name, self.values = path, name, value

    def __contains__(self, key: str) -> bool:
        return self.values.get(key) is not None

    def raw(self, key: str) -> Any:
        """What stands under a key, of any kind; None where it is missing."""
        return self.values.get(key)

    def section(self, key: str) -> Section:
        """The mapping under a key."""
        return Section(self.path, self._named(key), self.values.get(key))

    def maybe(self, key: str) -> Section | None:
        """The mapping under a key, or None where nothing stands there."""
        return self.section(key) if key in self else None

    def sections(self, key: str) -> list[Section | None]:
        """The mappings in the list under a key; None for those that are null."""
        value = self.values.get(key)
        if not isinstance(value, (list, tuple)):
            raise self.refusal(key, "a list")
        named = self._named(key)
        return [None if x is None else Section(self.path, f"{named}[{n}]", x) for n, x in enumerate(value)]

    def take(self, key: str, kind: Callable[[Any], T], default: D | None = None) -> T | D:
        """The value under a key; ``default`` where it is missing or null, and where there is none, a refusal."""
        value = self.values.get(key)
        if value is None:
            if default is None:
                raise ModelFileError(self.path, f"lacks the option {self._named(key)}", REWRITE)
            return default
        try:
            return kind(value)
        except ValueError as error:
            raise self.refusal(key, str(error)) from None

    def refusal(self, key: str, wanted: str) -> ModelFileError:
        """The error for a value that is not what it must be."""
        told = f"{self._named(key)} is {shown(self.values.get(key))}, not {wanted}"
        return ModelFileError(self.path, f"has a bad option: {told}", REWRITE)

    def _named(self, key: str) -> str:
        return f"{self.name}.{key}" if self.name else key
