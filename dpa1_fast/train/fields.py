"""A mapping out of an input file: what is asked for is checked, and what nobody asked for is refused by its name."""

from __future__ import annotations

import difflib
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

from ..checkpoint.parsing import shown
from .options import TrainingError

T = TypeVar("T")
MISSING: Any = object()


class Fields:
    """One section of an input file.

    Args:
        path: the file. name: what the section is called in messages. value: anything.

    Raises:
        TrainingError: ``value`` is no mapping.
    """

    def __init__(self, path: Path, name: str, value: Any) -> None:
        if not isinstance(value, dict):
            raise TrainingError(f"{path}: {name or 'the file'} is {shown(value)}; it must be a section with keys")
        self.path, self.name = path, name
        self._left = {k: v for k, v in value.items() if not str(k).startswith("_")}  # _comment, as DeePMD-kit has it
        self._known: set[str] = set()

    def take(self, key: str, kind: Callable[[Any], T], default: Any = MISSING, *aliases: str) -> T:
        """The value under a key or one of its other names; ``default`` where it is missing.

        Args:
            kind: turns the value into what is wanted; its ValueError says what it must be.

        Raises:
            TrainingError: it is missing and has no default, stands there twice, or is not what it must be.
        """
        self._known |= {key, *aliases}
        there = [name for name in (key, *aliases) if name in self._left]
        if len(there) > 1:
            raise self.error(there[1], f"means the same as {there[0]}; leave one out")
        if not there:
            if default is MISSING:
                raise TrainingError(f"{self.path}: {self._where(key)} is missing; give it")
            value: T = default
            return value
        given = self._left.pop(there[0])
        if given is None and default is None:
            return None  # type: ignore[return-value]
        try:
            return kind(given)
        except (TypeError, ValueError) as error:
            raise self.error(there[0], f"is {shown(given)}; it must be {error}") from None

    def section(self, key: str, default: Any = MISSING) -> Fields:
        """The section under a key."""
        self._known.add(key)
        if key not in self._left and default is MISSING:
            raise TrainingError(f"{self.path}: the section {self._where(key)} is missing; give it")
        value = self._left.pop(key, default)
        return Fields(self.path, self._where(key), {} if value is None else value)

    def __contains__(self, key: str) -> bool:
        return self._left.get(key) is not None

    @property
    def values(self) -> dict[str, Any]:
        """What nobody asked for yet."""
        return dict(self._left)

    def only(self, key: str, *allowed: Any, why: str = "is not supported; remove it") -> None:
        """Refuses any value under a key but those: what the option would change is not there."""
        self._known.add(key)
        if key in self._left and (value := self._left.pop(key)) not in allowed:
            raise self.error(key, f"= {shown(value)} {why}")

    def without_effect(self, *keys: str) -> None:
        """Keys that change neither weights nor files, whatever they say."""
        for key in keys:
            self._known.add(key)
            self._left.pop(key, None)

    def done(self) -> None:
        """Refuses what nobody asked for.

        Raises:
            TrainingError: naming the first such key, and the one that may have been meant.
        """
        for key in self._left:
            near = difflib.get_close_matches(str(key), sorted(self._known), 1)
            raise self.error(key, f"is not known{f'; is it {near[0]}?' if near else '; remove it'}")

    def error(self, key: str, told: str) -> TrainingError:
        """What to say of the value under a key."""
        return TrainingError(f"{self.path}: {self._where(str(key))} {told}")

    def _where(self, key: str) -> str:
        return f"{self.name}.{key}" if self.name else key
