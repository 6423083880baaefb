"""What names and numbers of an input's atoms mean to the model."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
from ase.data import atomic_numbers, chemical_symbols
from numpy.typing import NDArray

from ..structures.type_names import VIRTUAL
from .base import SourceError
from .reading import Damaged


@dataclass(frozen=True)
class TypeNames:
    """What ``--type-map`` and the model say.

    Attributes:
        model: the model's type names; none where no model is known yet.
        by_number: the model's names of the input's types, in the order of their numbers; () where nobody said.
        by_name: pairs of a name in the input and the model's name of it.
    """

    model: tuple[str, ...] = ()
    by_number: tuple[str, ...] = ()
    by_name: tuple[tuple[str, str], ...] = ()

    @property
    def unusual(self) -> frozenset[str]:
        """Names that may stand in an input and are no chemical symbols."""
        return frozenset(n for n in (*self.model, *dict(self.by_name)) if n == "X" or n not in atomic_numbers)


NO_NAMES = TypeNames()
"""Where there is no model."""


def type_names(model: Sequence[str], option: Sequence[str] = ()) -> TypeNames:
    """What ``--type-map`` means beside a model's types.

    ``O,H`` are the model's names of the input's types 1, 2, … Where none of them is a type of the model and there is
    one for each of its types, they are the input's names of these, in the model's order. ``OW=O,HW=H`` are names of
    the input with the model's, and ``1=O`` is a type's number.

    Raises:
        SourceError: names that the model does not have, or a mixture of both ways.
    """
    known, given = tuple(model), [name.strip() for name in option if name.strip()]
    pairs = [name.split("=", 1) for name in given if "=" in name]
    if not given:
        return TypeNames(known)
    shown = f"--type-map {','.join(given)}"
    if pairs and len(pairs) < len(given):
        raise SourceError(f"{shown}: give either names in order (O,H) or pairs (OW=O,HW=H)")
    missing = [n for n in ([to for _, to in pairs] or given) if n not in known] if known else []
    if not pairs and len(missing) == len(given) == len(known):
        return TypeNames(known, known, tuple(zip(given, known, strict=True)))
    if missing:
        raise SourceError(f"{shown}: the model has no type {', '.join(missing)}; it has {' '.join(known)}")
    if not pairs:
        return TypeNames(known, tuple(given))
    numbered = {int(name): to for name, to in pairs if name.isdecimal()}
    if numbered and sorted(numbered) != list(range(1, len(numbered) + 1)):
        raise SourceError(f"{shown}: types are numbered from 1 on, without gaps")
    named = tuple((name, to) for name, to in pairs if not name.isdecimal())
    return TypeNames(known, tuple(numbered[k] for k in sorted(numbered)), named)


@dataclass(frozen=True)
class Kinds:
    """What a file calls its atoms, where that may be no chemical symbol.

    Attributes:
        kinds: (n,) which name each atom has, from 0; −1 is a virtual atom.
        names: the file's names; None where it has numbers alone.
        numbered: whether the kinds are the file's own types, which ``--type-map O,H`` speaks of.
    """

    kinds: NDArray[np.int64]
    names: tuple[str, ...] | None
    numbered: bool = True


def kinds_of(symbols: Sequence[Any]) -> Kinds:
    """Kinds of atoms that are named one by one."""
    names = tuple(dict.fromkeys(map(str, symbols)))
    index = {name: k for k, name in enumerate(names)}
    return Kinds(np.array([index[str(s)] for s in symbols], np.int64), names, numbered=False)


def elements(kinds: Kinds, names: TypeNames) -> tuple[NDArray[np.int64], NDArray[np.str_] | None]:
    """Atomic numbers (n,), and where they do not say it all, the model's type names (n,).

    Raises:
        Damaged: a name that is neither the model's nor an element's; numbers that nobody has given names for.
    """
    if kinds.names is None and not names.by_number:
        count = int(kinds.kinds.max(initial=0)) + 1
        raise Damaged(
            f"says types 1 to {count} and no elements; give --type-map with the model's name of each, in order"
        )
    count = len(kinds.names if kinds.names is not None else names.by_number)
    if kinds.kinds.max(initial=-1) >= count:
        table = list(kinds.names if kinds.names is not None else names.by_number)
        raise Damaged(f"type {kinds.kinds.max()} has no name in {table}")
    numbers, labels = _table(kinds.names, kinds.numbered, names)
    used = np.unique(kinds.kinds)
    if unknown := [str(labels[k]) for k in used if numbers[k] < 0]:
        raise Damaged(
            f"{', '.join(unknown)}: no chemical symbol, and no type of the model; --type-map says what such names mean"
        )
    plain = all(chemical_symbols[numbers[k]] == labels[k] for k in used)
    return numbers[kinds.kinds], None if plain else labels[kinds.kinds]


@lru_cache(maxsize=64)
def _table(
    given: tuple[str, ...] | None, numbered: bool, names: TypeNames
) -> tuple[NDArray[np.int64], NDArray[np.str_]]:
    """Atomic number (−1: unknown) and the model's name of each kind, and at the end of the virtual atom."""
    table = [
        _resolve(name, names.by_number[k : k + 1] if numbered else (), names)
        for k, name in enumerate(names.by_number if given is None else given)
    ]
    table.append((0, VIRTUAL if "X" in names.model else "X"))
    return np.array([n for n, _ in table]), np.array([label for _, label in table])


def _resolve(name: str, by_number: tuple[str, ...], names: TypeNames) -> tuple[int, str]:
    mapped = dict(names.by_name).get(name, name if name in names.model else None)
    if mapped is None and by_number:
        mapped = by_number[0]
    if mapped is not None:
        return element_of(name) or element_of(mapped), mapped
    return (atomic_numbers[name], name) if name in atomic_numbers and name != "X" else (-1, name)


def element_of(name: str) -> int:
    """The atomic number that a name begins with (OW: O, Fe3+: Fe), for formulas; 0 where there is none."""
    return next((atomic_numbers[name[:k]] for k in (2, 1) if name[:k] in atomic_numbers), 0)
