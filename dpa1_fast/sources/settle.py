"""Where every reader's Items go through: each is checked, and a source ends as it was promised."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import replace
from typing import Any

from .base import Item
from .check import checked
from .names import TypeNames
from .reading import reason


def settle(name: str, items: Iterable[Item], mark: Any, names: TypeNames) -> Iterator[Item]:
    """What readers yield, checked (see there) and ended the way ``Source.read`` promises (see ``ended``).

    Args:
        name: of the source. mark: where ``items`` begin. names: see ``check.checked``.
    """
    return ended(name, (checked(item, names) for item in items), mark)


def ended(name: str, items: Iterable[Item], mark: Any) -> Iterator[Item]:
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
