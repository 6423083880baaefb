"""Where structures come from: files, DeePMD-kit's folders, databases, pipes; one structure at a time, from any mark."""

from __future__ import annotations

import glob
import os
from collections.abc import Sequence
from pathlib import Path

from .base import Item, Source, SourceError
from .files import FileSource

__all__ = ["Item", "Source", "SourceError", "find_sources"]


def find_sources(inputs: Sequence[str], type_map: Sequence[str]) -> list[Source]:
    """What the arguments name, in their order: files, folders, ``-`` for standard input, ``dpdata:FORMAT:PATH``.

    Patterns are expanded and sorted, and a folder stands for the DeePMD-kit data in it. No file is opened yet.

    Args:
        type_map: the model's, for data without names of its own.

    Raises:
        SourceError: naming an argument that matches nothing or whose reader isn't installed.
    """
    sources: list[Source] = []
    for argument in inputs:
        if argument == "-":
            from .standard_input import StandardInput

            sources.append(StandardInput())
        elif argument.startswith("dpdata:") and argument.count(":") > 1 and not os.path.exists(argument):
            from .dpdata_source import DpdataSource

            _, kind, pattern = argument.split(":", 2)
            sources += [DpdataSource(path, kind) for path in _matches(pattern)]
        else:
            for path in _matches(argument):
                sources += _of_folder(path, type_map) if path.is_dir() else [FileSource(path)]
    return sources


def _matches(pattern: str) -> list[Path]:
    found = [pattern] if os.path.exists(pattern) else sorted(glob.glob(pattern, recursive=True))
    if not found:
        raise SourceError(f"{pattern}: no such file or folder, and as a pattern it matches nothing")
    return [Path(name) for name in found]


def _of_folder(folder: Path, type_map: Sequence[str]) -> list[Source]:
    from .deepmd_data import DeepmdSource, is_system
    from .lmdb import LmdbSource, is_lmdb

    names, found = tuple(type_map), list[Source]()
    for parent, below, _ in os.walk(folder):
        path = Path(parent)
        if is_lmdb(path):
            found.append(LmdbSource(path, names))
        elif is_system(path):
            found.append(DeepmdSource(path, names))
        else:
            continue
        below.clear()  # nothing else is looked for inside of one
    if not found:
        raise SourceError(
            f"{folder}: a folder without DeePMD-kit data (no type.raw with set.*, no data.mdb, in it or below it); "
            f"for the files in it, give a pattern such as {folder / '*'}"
        )
    return sorted(found, key=lambda source: Path(source.name))
