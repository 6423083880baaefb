"""What all sources share: how faults become Items, how a source ends, and what a fingerprint is."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

from ..errors import DPA1Error
from .base import Item

LONGEST_REASON = 400


class Damaged(DPA1Error, ValueError):
    """Content that cannot be read; the message says what is wrong in our own words."""


def reason(error: Exception) -> str:
    """An error in one line. Other people's errors are shown with their class, which often says more than the text."""
    text = str(error) if isinstance(error, DPA1Error) else f"{type(error).__name__}: {error}"
    line = " ".join(text.split())
    return line if len(line) <= LONGEST_REASON else line[:LONGEST_REASON] + "…"


def settle(name: str, items: Iterable[Item], mark: Any) -> Iterator[Item]:
    """Ends a source the way ``Source.read`` promises.

    Readers of one format yield an Item a structure and raise where they can't go on. Here whatever they raise becomes
    the last Item, a source without structures says so, and the last Item has no mark and a share of 1. That takes
    reading one Item ahead.

    Args:
        name: of the source.
        mark: where ``items`` begin. The first entry of every mark is the number of the next structure.
    """
    done = 0 if mark is None else int(mark[0])
    held: Item | None = None
    failure: Item | None = None
    try:
        for item in items:
            if held is not None:
                yield held
            held = item
            done = item.frame + 1
    except Exception as error:  # ASE's readers raise anything: the content is at fault, and other sources go on
        failure = Item(name, -1, None, f"cannot be read after {done} structures: {reason(error)}", share=1.0)
    if held is not None:
        yield held if failure else replace(held, mark=None, share=1.0)
    if failure is not None:
        yield failure
    elif held is None and mark is None:
        yield Item(name, -1, None, "holds no structure", share=1.0)


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
        digest.update(f"{label}\0{size}\0{one}\n".encode())
    return digest.hexdigest()
