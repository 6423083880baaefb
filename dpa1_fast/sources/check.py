"""The one check that every structure of every reader passes: nothing that a file says is dropped in silence.

Readers tell in ``Told`` what ``ase.Atoms`` has no place for. Here it becomes part of the structure, or the structure is
refused: partly occupied sites, atoms whose element nobody knows, constraints that cannot be kept.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
from ase import Atoms

from ..structures.type_names import TYPE_NAMES
from .base import Item, Told
from .constraints import from_dicts, from_flags, sound
from .ids import identity
from .names import Kinds, TypeNames, elements, kinds_of
from .reading import Damaged, reason

NUMBER = re.compile(r"([-+]?[0-9]*\.?[0-9]+(?:[eE][-+]?[0-9]+)?)(?:\([0-9]+\))?")
"""A number, as in CIF with its uncertainty in brackets: 0.75(2)."""

FULL = 1e-6
"""How far from 1 an occupancy may be."""

OCCUPANCIES = ("occupancy", "occupancies", "occu")
"""What arrays of occupancies, one an atom, are called."""


def checked(item: Item, names: TypeNames) -> Item:
    """An Item whose structure is all that its source says, or that says why there is none."""
    if item.atoms is None:
        return replace(item, told=None)
    try:
        atoms = complete(item.atoms, item.told or Told(), names)
    except (Damaged, TypeError, ValueError, LookupError) as error:
        return replace(item, atoms=None, error=reason(error), told=None)
    return replace(item, atoms=atoms, id=identity(atoms.info), told=None)


def complete(atoms: Atoms, told: Told, names: TypeNames) -> Atoms:
    """The structure with what was told of it.

    Raises:
        Damaged: partial occupancy; atoms without an element; constraints that are none.
    """
    refuse_disorder([*told.occupants, *_carried_occupants(atoms)])
    _name_atoms(atoms, told.kinds, names)
    if told.no_virtual and not atoms.numbers.all() and TYPE_NAMES not in atoms.arrays:
        raise Damaged(f"atom {int(np.flatnonzero(atoms.numbers == 0)[0])} has no element that could be told")
    _constrain(atoms, told)
    return atoms


def refuse_disorder(occupants: Sequence[tuple[str, Sequence[tuple[str, Any]]]]) -> None:
    """Refuses places that are not always taken, or not always by the same element.

    Args:
        occupants: of each place its name, and who is there how often.

    Raises:
        Damaged: naming the first such place.
    """
    for where, there in occupants:
        shares = [(symbol, _share(share, where)) for symbol, share in there]
        present = [(symbol, share) for symbol, share in shares if share != 0]
        if len(present) != 1 or not abs(present[0][1] - 1) <= FULL:
            shown = " ".join(f"{symbol} {share:g}" for symbol, share in shares) or "nothing"
            raise Damaged(f"partial occupancy: {where} is {shown}; give an ordered structure")


def _share(value: Any, where: str) -> float:
    if isinstance(value, str):
        if value.strip() == ".":  # CIF: not applicable, so the default
            return 1.0
        found = NUMBER.fullmatch(value.strip())
        if found is None:
            raise Damaged(f"the occupancy of {where} is {value.strip()!r}; write 1 if it is always there")
        return float(found[1])
    if value is None:
        return 1.0
    return float(value)


def _carried_occupants(atoms: Atoms) -> Iterator[tuple[str, list[tuple[str, Any]]]]:
    """What ``ase.Atoms`` may carry of occupancies itself, from whichever file."""
    sites = atoms.info.get("occupancy")
    if isinstance(sites, dict):  # ASE's, of crystals: element and share by kind of site
        for k, there in sites.items():
            if isinstance(there, dict):
                yield f"site {k}", list(there.items())
    for name in OCCUPANCIES:
        shares = atoms.arrays.get(name)
        if shares is None or shares.ndim != 1 or shares.dtype.kind not in "iuf" or not shares.any():
            continue  # all 0 is how many programs say nothing
        for k in np.flatnonzero(~(np.abs(shares - 1) <= FULL))[:1]:
            symbol, share = atoms.symbols[k], shares[k]
            if not share:
                raise Damaged(f"partial occupancy: atom {k} is {symbol} 0; give an ordered structure")
            yield f"atom {k}", [(symbol, share)]


def _name_atoms(atoms: Atoms, kinds: Kinds | None, names: TypeNames) -> None:
    if kinds is None:
        mapped = {name for name, _ in names.by_name}
        if TYPE_NAMES in atoms.arrays or not mapped.intersection(atoms.symbols):
            return
        # X stays what it is: a virtual atom, or the model's type of that name.
        kinds = kinds_of(atoms.symbols)
    numbers, labels = elements(kinds, names)
    atoms.numbers[:] = numbers
    if atoms.calc is not None and getattr(atoms.calc, "atoms", None) is not None:
        atoms.calc.atoms.numbers[:] = numbers  # results are those of atoms with the same numbers
    if labels is not None:
        atoms.arrays[TYPE_NAMES] = labels.copy()


def _constrain(atoms: Atoms, told: Told) -> None:
    given = list(atoms.constraints)
    if told.constraints is not None:
        given += from_dicts(told.constraints)
    if told.free is not None:
        given += from_flags(told.free)
    if given:
        atoms.set_constraint(sound(given, len(atoms)))
