"""What a property is: changed copies of a structure to evaluate, and what their results come to."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

from ase import Atoms

from ..engine import Result
from ..errors import DPA1Error


class PropertyError(DPA1Error, ValueError):
    """A property cannot be computed: an option makes no sense, or the structure has none."""


@dataclass(frozen=True)
class Found:
    """A property of a structure.

    Attributes:
        row: numbers and short texts by name. files: what else is written, text by file name.
    """

    row: dict[str, Any]
    files: dict[str, str] = field(default_factory=dict)


class Asked(Protocol):
    """What one structure asks for: copies to evaluate, and how their results are put together."""

    copies: Sequence[Atoms]

    def found(self, results: Sequence[Result]) -> Found:
        """The property, from the results of all copies."""
        ...


class Property(Protocol):
    """A property with its options.

    Attributes:
        name: of the command. relaxes_copies: whether atoms of the copies are relaxed in their cells first.
        columns: of the table, in order.
    """

    name: str
    relaxes_copies: bool
    columns: Sequence[str]

    def ask(self, atoms: Atoms, name: str) -> Asked:
        """What is to be evaluated of a structure.

        Raises:
            StructureError: it has no such property.
        """
        ...
