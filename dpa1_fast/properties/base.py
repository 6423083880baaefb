"""What a property is: changed copies of a structure to evaluate, and what their results come to."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

from ase import Atoms

from ..engine import Engine, Result
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
    """What one structure asks for: copies whose atoms are relaxed in their cells, and what their results come to."""

    @property
    def copies(self) -> Sequence[Atoms]:
        """None, one or many."""
        ...

    def found(self, results: Sequence[Result], engine: Engine) -> Found:
        """The property, from the results of all copies, and from what else the engine is asked.

        Raises:
            StructureError: why there is none.
        """
        ...


class Property(Protocol):
    """A property with its options.

    Attributes:
        name: of the command. columns: of the table, in order.
    """

    name: str
    columns: Sequence[str]

    def ask(self, atoms: Atoms, name: str) -> Asked:
        """What is to be evaluated of a structure.

        Raises:
            StructureError: it has no such property.
        """
        ...
