"""The input in blocks: what is evaluated, written and remembered as one.

Where blocks begin and end depends on the input alone, so a job that goes on makes the blocks that it would have made.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from ..errors import DPA1Error
from ..sources.base import Item, Source

STRUCTURES = 1024
ATOMS = 32_768
FIRST = 32
"""Structures of the first block; each has twice as many as the one before until it has ``STRUCTURES``. So a slow model
shows soon how fast it is, and what Ctrl-C leaves behind is not nothing."""


REMEDY = "give it the same structures in the same order, or choose another --output"


class ChangedInputError(DPA1Error, ValueError):
    """A stream that does not bring what it brought before."""


@dataclass(frozen=True)
class Position:
    """A place in the input.

    Attributes:
        block: number of the block that begins here. index: of its first structure. source: which source.
        mark: where that one goes on, see ``Source.read``.
        digest: of the structures of a source that can't be read twice, up to here; "" for others.
    """

    block: int = 0
    index: int = 0
    source: int = 0
    mark: Any = None
    digest: str = ""


@dataclass(frozen=True)
class Block:
    """Structures that follow each other in the input.

    Attributes:
        start: where they begin. items: they. end: where the next block begins.
        share: how much of the input lies behind, 0 to 1; NaN where that is not known.
    """

    start: Position
    items: list[Item]
    end: Position
    share: float


def blocks(sources: Sequence[Source], start: Position, once: Sequence[bool]) -> Iterator[Block]:
    """All blocks from ``start`` on.

    Args:
        once: of each source whether it can be read only once.

    Raises:
        ChangedInputError: a stream, read again to get to ``start``, brings other structures than it did.
    """
    at = end = start
    group: list[Item] = []
    size, share = 0, 1.0
    for number in range(start.source, len(sources)):
        here = start if number == start.source else None
        for item, digest in _read(sources[number], here, once[number]):
            group.append(item)
            size += 0 if item.atoms is None else len(item.atoms)
            place = (number + 1, None, "") if item.mark is None else (number, item.mark, digest)
            end = Position(at.block + 1, at.index + len(group), *place)
            share = (number + item.share) / len(sources)
            if len(group) >= most(at.block) or size >= ATOMS:
                yield Block(at, group, end, share)
                group, size, at = [], 0, end
    if group:
        yield Block(at, group, replace(end, source=len(sources), mark=None, digest=""), 1.0)


def most(block: int) -> int:
    """Structures of a block, by its number alone: a job that goes on makes the blocks that it would have made."""
    return min(STRUCTURES, FIRST << min(block, 32))


def _read(source: Source, start: Position | None, once: bool) -> Iterator[tuple[Item, str]]:
    """Items from ``start`` on, each with the digest of what a source that can't be read twice has brought so far."""
    if not once:
        for item in source.read(start.mark if start else None):
            yield item, ""
        return
    told = hashlib.blake2b(digest_size=16)
    again = start is not None and start.mark is not None
    for item in source.read():
        told.update(_content(item))
        if not again:
            yield item, told.hexdigest()
        elif start is not None and item.mark == start.mark:
            again = False
            if told.hexdigest() != start.digest:
                raise ChangedInputError(f"{source.name} brings other structures than when the job began; {REMEDY}")
    if again:
        raise ChangedInputError(f"{source.name} ends before the place where the job was; {REMEDY}")


def _content(item: Item) -> bytes:
    if item.atoms is None:
        return repr(item.error).encode()
    a = item.atoms
    return b"".join(np.ascontiguousarray(x).tobytes() for x in (a.numbers, a.positions, a.cell[:], a.pbc))
