"""What a property is: changed copies of a structure to evaluate, and what their results come to."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

from ase import Atoms

from ..dynamics.relax import Relaxed, relax
from ..engine import Engine, Result
from ..errors import DPA1Error, StructureError

STEPS = 2000
"""Of a relaxation at most."""


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


class Property(Protocol):
    """A property with its options.

    Attributes:
        name: of the command. columns: of the table, in order.
    """

    name: str
    columns: Sequence[str]

    def ask(self, atoms: Atoms, name: str) -> Any:
        """What is to be evaluated of a structure.

        Raises:
            StructureError: it has no such property.
        """
        ...

    def found(self, engine: Engine, asked: Sequence[Any], fmax: float) -> list[Found | StructureError]:
        """The property of each of several structures, which are evaluated together, or why there is none.

        Args:
            asked: what ``ask`` returned of each. fmax: eV/Å, of relaxations.
        """
        ...


class Copies(Protocol):
    """What one structure asks for: copies whose atoms are relaxed in their cells, and what their results come to."""

    @property
    def copies(self) -> Sequence[Atoms]:
        """One or many."""
        ...

    @property
    def name(self) -> str:
        """How errors refer to the structure."""
        ...

    def found(self, results: Sequence[Result]) -> Found:
        """The property, from the results of all copies.

        Raises:
            StructureError: why there is none.
        """
        ...


class OfCopies:
    """A property that is found from relaxed copies."""

    def found(self, engine: Engine, asked: Sequence[Copies], fmax: float) -> list[Found | StructureError]:
        """See ``Property``; all copies of all structures are relaxed together."""
        every = [copy for one in asked for copy in one.copies]
        ends = iter(relax(engine, every, fmax=fmax, steps=STEPS))
        out: list[Found | StructureError] = []
        for one in asked:
            own = [next(ends) for _ in one.copies]
            try:
                out.append(one.found([relaxed(end, one.name, fmax).result for end in own]))
            except StructureError as error:
                out.append(error)
        return out


def relaxed(end: Relaxed | StructureError, name: str, fmax: float) -> Relaxed:
    """What a relaxation ended with.

    Raises:
        StructureError: it failed, or did not come to its end.
    """
    if isinstance(end, StructureError):
        raise end
    if not end.converged:
        told = f"it is not relaxed to {fmax:g} eV/Å after {STEPS:,} steps; give a larger --fmax, or --no-relax"
        raise StructureError(name, told)
    return end
