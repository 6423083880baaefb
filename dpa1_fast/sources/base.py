"""What a source of structures is."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

from ..errors import DPA1Error

if TYPE_CHECKING:
    from .names import Kinds


class SourceError(DPA1Error, ValueError):
    """An input that names nothing to read."""


@dataclass(frozen=True)
class Told:
    """What a file says of a structure that the reader's ``ase.Atoms`` does not; ``check.complete`` sees to it.

    Attributes:
        occupants: of each place its name, and which elements are there how often.
        kinds: what the file calls its atoms, where these may be no elements.
        constraints: ASE's dictionaries of constraints.
        free: (n, 3) whether an atom may move along each lattice vector, as in selective dynamics.
        no_virtual: whether X stands for atoms whose element the reader could not tell.
    """

    occupants: Sequence[tuple[str, Sequence[tuple[str, Any]]]] = ()
    kinds: Kinds | None = None
    constraints: Any = None
    free: Any = None
    no_virtual: bool = False


@dataclass(frozen=True)
class Item:
    """One structure of the input.

    Attributes:
        source: the name of its source. frame: its number there, or −1 where the source itself failed.
        atoms: ``ase.Atoms``, or None with the reason in ``error``, one line.
        mark: where ``Source.read`` goes on after this item; None where nothing comes after it.
        share: of the source, how much lies behind after this item, 0 to 1; NaN where that is not known.
        id: what the data set itself calls the structure (``material_id`` and the like), if it does.
        told: what readers add for the check behind them; None in what comes out of a source.
    """

    source: str
    frame: int
    atoms: Any | None
    error: str | None = None
    mark: Any = None
    share: float = float("nan")
    id: str | int | None = None
    told: Told | None = None


class Source(Protocol):
    """A file, folder or stream that structures come from, one at a time, in constant memory.

    Attributes:
        name: what the results call it.
    """

    @property
    def name(self) -> str:
        """What the results call it."""
        ...

    def fingerprint(self) -> str:
        """Changes whenever a structure in it changes: a hash of the content. "" where it can't be read twice."""
        ...

    def read(self, mark: Any = None) -> Iterator[Item]:
        """Its structures in order, from the beginning or from a ``mark``, which is a value that JSON keeps as it is.

        Never raises for what is wrong with the content: a damaged structure is an Item with ``error`` and its frame
        number, and the next ones follow where they can be found; where they can't, the last Item has frame −1 and says
        so. A source without structures is one such Item.
        """
        ...
