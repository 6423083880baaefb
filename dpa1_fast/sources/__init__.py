"""Where structures come from: files, DeePMD-kit's folders, databases, pipes; one structure at a time, from any mark."""

from __future__ import annotations

import difflib
import glob
import os
from collections.abc import Callable, Sequence
from pathlib import Path

from .base import Item, Source, SourceError
from .files import FileSource
from .names import TypeNames, type_names
from .slices import SliceSource, cut

ENDINGS = (
    *(".zip", ".tar", ".tgz", ".vasp", ".poscar", ".cif", ".xyz", ".extxyz", ".traj", ".res", ".cell", ".pdb"),
    *(".jsonl", ".lammpstrj"),
)
"""Of files that are read from a folder by themselves."""

__all__ = ["Item", "Source", "SourceError", "find_sources"]


def find_sources(
    inputs: Sequence[str],
    model_types: Sequence[str],
    type_map: Sequence[str] = (),
    format: str | None = None,
    skip: Callable[[str], bool] | None = None,
) -> list[Source]:
    """What the arguments name, in their order: files, folders, ``-`` for standard input, ``dpdata:FORMAT:PATH``.

    Behind a file's name may stand which of its structures are meant (``@0:10``) or the group of an HDF5 file (``#/a``).

    Patterns are expanded and sorted, and a folder stands for the DeePMD-kit data in it. No file is opened yet.

    Args:
        model_types: the model's type names, in order. type_map: see ``names.type_names``.
        format: ASE's name of the format of all files; None: by their content and names.
        skip: what is not looked for in folders, by its path.

    Raises:
        SourceError: naming an argument that matches nothing or whose reader isn't installed.
    """
    names = type_names(model_types, type_map)
    if format is not None:
        _check_format(format)
    sources: list[Source] = []
    for argument in inputs:
        if argument == "-":
            from .standard_input import StandardInput

            sources.append(StandardInput(names))
        elif argument.startswith("dpdata:") and argument.count(":") > 1 and not os.path.exists(argument):
            from .dpdata_source import DpdataSource

            _, kind, pattern = argument.split(":", 2)
            sources += [DpdataSource(path, kind, names) for path in _matches(pattern)]
        else:
            sources += _named(argument, names, format, skip)
    return sources


def _named(argument: str, names: TypeNames, format: str | None, skip: Callable[[str], bool] | None) -> Sequence[Source]:
    """The sources of an argument, with what may stand behind a file's name: ``@0:10``, ``#/group`` of HDF5."""
    if not os.path.exists(argument) and (found := cut(argument)) is not None:
        before, which = found
        text = argument[len(before) + 1 :]
        return [SliceSource(source, which, text) for source in _named(before, names, format, skip)]
    before, hash_sign, group = argument.rpartition("#")
    if hash_sign and not os.path.exists(argument) and os.path.isfile(before):
        from .deepmd_hdf5 import Hdf5Source

        return [Hdf5Source(Path(before), group or "/", names)]
    sources: list[Source] = []
    for path in _matches(argument):
        sources += _of_folder(path, names, format, skip) if path.is_dir() else [FileSource(path, names, format)]
    return sources


def _check_format(format: str) -> None:
    from .ase_file import knows
    from .files import OURS

    if format not in OURS and not knows(format):
        from ase.io.formats import ioformats

        near = difflib.get_close_matches(format, [*OURS, *ioformats], cutoff=0.5)
        raise SourceError(f"--format {format!r} is not known{'; is it ' + ' or '.join(near) + '?' if near else ''}")


def _matches(pattern: str) -> list[Path]:
    found = [pattern] if os.path.exists(pattern) else sorted(glob.glob(pattern, recursive=True))
    if not found:
        raise SourceError(f"{pattern}: no such file or folder, and as a pattern it matches nothing")
    return [Path(name) for name in found]


def _of_folder(folder: Path, names: TypeNames, format: str | None, skip: Callable[[str], bool] | None) -> list[Source]:
    from .deepmd_data import DeepmdSource, is_system
    from .lmdb import LmdbSource, is_lmdb

    found = list[Source]()
    kinds: dict[str, list[Path]] = {}
    for parent, below, files in os.walk(folder):
        path = Path(parent)
        if skip is not None:
            below[:] = [name for name in below if not skip(os.path.join(parent, name))]
        if is_lmdb(path):
            found.append(LmdbSource(path, names))
        elif is_system(path):
            found.append(DeepmdSource(path, names))
        else:
            for name in files:
                if kind := _kind_of_name(name):
                    kinds.setdefault(kind, []).append(path / name)
            continue
        below.clear()  # nothing else is looked for inside of one
    if found:
        return sorted(found, key=lambda source: Path(source.name))
    if len(kinds) == 1:
        return [FileSource(path, names, format) for path in sorted(next(iter(kinds.values())))]
    if kinds:
        told = ", ".join(f"{len(paths)} {kind}" for kind, paths in sorted(kinds.items()))
        raise SourceError(
            f"{folder}: a folder with structures of several kinds ({told}); say which by a pattern such as "
            f"'{folder / '**' / ('*' + min(kinds) + '*')}'"
        )
    raise SourceError(
        f"{folder}: a folder without DeePMD-kit data (no type.raw with set.*, no data.mdb, in it or below it) and "
        f"without files whose names say that they hold structures; give a pattern such as {folder / '*'}"
    )


def _kind_of_name(name: str) -> str | None:
    """What a folder is looked through for: names of VASP's, and endings."""
    for kind in ("POSCAR", "CONTCAR"):
        if kind in name.upper():
            return kind
    plain = name.lower()
    for packed in (".gz", ".bz2", ".xz"):
        plain = plain.removesuffix(packed)
    return next((ending for ending in ENDINGS if plain.endswith(ending)), None)
