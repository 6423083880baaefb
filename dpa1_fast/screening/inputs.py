"""What a job reads: what its arguments name, but nothing of its own."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from functools import lru_cache
from pathlib import Path

from ..printable import name_of
from ..sources import Source, SourceError, find_sources
from .options import OptionError, Options


def sources_of(options: Options, type_map: Sequence[str]) -> list[Source]:
    """The sources, without what patterns and folders hold of the job's own folder.

    Args:
        type_map: the model's, for data without names of its own.

    Raises:
        OptionError: an input was named in that folder, or that cannot be written to by its name.
        SourceError: an input that matches nothing, or nothing else.
    """
    return sources_outside(options.inputs, options.output, type_map, options.type_map, options.format)


def sources_outside(
    inputs: Sequence[str], output: Path, model_types: Sequence[str], type_map: Sequence[str], format: str | None
) -> list[Source]:
    """What ``find_sources`` finds that does not lie in ``output``, a folder that the caller writes to.

    Raises:
        OptionError, SourceError: see ``sources_of``.
    """
    if name_of(output) != str(output):  # pyarrow opens files by names in UTF-8 alone
        raise OptionError(
            f"--output {name_of(output)}: this name can't be used in the locale that is set; choose one in "
            "ASCII, or set a UTF-8 locale"
        )
    inside = _inside(os.path.realpath(output))
    for given in inputs:
        if given != "-" and os.path.exists(given) and inside(given):
            raise OptionError(
                f"{name_of(given)} lies in the folder for the results, {name_of(output)}, where a job deletes "
                "and replaces its own files; choose another --output"
            )
    sources = find_sources(inputs, model_types, type_map, format, skip=inside)
    left = [s for s in sources if not inside(str(getattr(s, "path", getattr(s, "folder", os.devnull))))]
    if sources and not left:
        raise SourceError(f"all that was found lies in the folder for the results, {name_of(output)}")
    return left


def _inside(folder: str) -> Callable[[str], bool]:
    """Tells what lies in a folder, itself included, links followed."""
    real_folder = lru_cache(os.path.realpath)  # of many files there are few folders

    def inside(path: str) -> bool:
        parent, name = os.path.split(path)
        named = name not in ("", ".", "..") and not os.path.islink(path)
        real = os.path.join(real_folder(parent or "."), name) if named else os.path.realpath(path)
        return real == folder or real.startswith(os.path.join(folder, ""))

    return inside
