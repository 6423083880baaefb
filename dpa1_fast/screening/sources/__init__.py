"""Where structures come from: files that ASE reads, DeePMD-kit folders, glob patterns; one structure at a time."""

from __future__ import annotations

import glob
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ...errors import DPA1Error
from .deepmd_data import read_system, systems


class SourceError(DPA1Error, ValueError):
    """An input that names nothing to read."""


@dataclass(frozen=True)
class Item:
    """One structure of the input.

    Attributes:
        source: the file or folder. frame: its number there, or −1 where the source itself failed.
        atoms: ``ase.Atoms``, or None with the reason in ``error``.
    """

    source: str
    frame: int
    atoms: Any | None
    error: str | None = None


def expand(inputs: Sequence[str]) -> list[Path]:
    """The files and folders that the arguments name, patterns expanded and sorted.

    Raises:
        SourceError: naming an argument that matches nothing.
    """
    paths = []
    for argument in inputs:
        found = [argument] if Path(argument).exists() else sorted(glob.glob(argument, recursive=True))
        if not found:
            raise SourceError(f"{argument}: no such file or folder, and as a pattern it matches nothing")
        for path in map(Path, found):
            paths += _systems(path) if path.is_dir() else [path]
    return paths


def _systems(folder: Path) -> list[Path]:
    below = systems(folder)
    if not below:
        raise SourceError(f"{folder}: a folder without DeePMD-kit data (no type.raw with set.* in it or below it)")
    return below


def read_items(paths: Sequence[Path], type_map: Sequence[str]) -> Iterator[Item]:
    """Every structure of every source in order; a source that fails yields one Item with the reason, then the next."""
    for path in paths:
        frame = 0
        try:
            for atoms in read_system(path, type_map) if path.is_dir() else _read_file(path):
                yield Item(str(path), frame, atoms)
                frame += 1
        except Exception as error:  # ASE's readers raise anything; the file is at fault, and the others go on
            what = f"cannot be read after {frame} structures: {type(error).__name__}: {error}"
            yield Item(str(path), -1, None, " ".join(what.split()))
        else:
            if frame == 0:
                yield Item(str(path), -1, None, "holds no structure")


def _read_file(path: Path) -> Iterator[Any]:
    from ase.io import iread

    return iter(iread(path, index=":", do_not_split_by_at_sign=True))
