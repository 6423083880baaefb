"""One structure, checked: everything that can be wrong with an input is found and named here."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from ..config import DPA1Config
from ..errors import StructureError
from .cell import SMALLEST_HEIGHT, check_cell, volume_of
from .type_names import TYPE_NAMES, VIRTUAL

SMALLEST_VOLUME = SMALLEST_HEIGHT**3
"""Å³. Less means that a free axis has no real vector: such a structure has no volume, and so no stress."""

FARTHEST = 1e9
"""Å. Beyond it float64 holds places to no better than 1e-7 Å."""

UNKNOWN = -2
"""Stands for the type of an element that a model does not know."""


@dataclass(frozen=True)
class Structure:
    """Atoms in float64, ready for the neighbour search.

    Attributes:
        name: how errors refer to it.
        positions: (n, 3) Å.
        types: (n,) indices into ``type_map``; −1 is a virtual atom.
        cell: (3, 3) Å, rows are lattice vectors; a non-periodic axis may be zero.
        pbc: (3,) which axes are periodic.
        fparam: (numb_fparam,) or None. aparam: (n, numb_aparam) or None.
    """

    name: str
    positions: NDArray[np.float64]
    types: NDArray[np.int64]
    cell: NDArray[np.float64]
    pbc: NDArray[np.bool_]
    fparam: NDArray[np.float64] | None = None
    aparam: NDArray[np.float64] | None = None

    def __len__(self) -> int:
        return len(self.types)

    @property
    def volume(self) -> float | None:
        """Å³, or None where the structure has no volume: no periodic axis, or a cell with a missing vector."""
        if not self.pbc.any():
            return None
        volume = volume_of(self.cell.tolist())
        return volume if volume >= SMALLEST_VOLUME else None


def _array(name: str, what: str, value: ArrayLike, shape: tuple[int, ...]) -> NDArray[np.float64]:
    try:
        array = np.asarray(value, dtype=np.float64)
    except (TypeError, ValueError):
        raise StructureError(name, f"{what} is not an array of numbers") from None
    if array.shape != shape:
        raise StructureError(name, f"{what} has shape {array.shape}, expected {shape}")
    largest = np.abs(array).max(initial=0.0)
    if not np.isfinite(largest):
        where = int(np.argwhere(~np.isfinite(array))[0][0])
        bad = {"position": "atom", "aparam": "atom", "cell": "vector"}.get(what, "entry")
        raise StructureError(name, f"{what} of {bad} {where} is not finite: {array[where].tolist()}")
    if what in ("position", "cell") and largest > FARTHEST:
        where = int(np.argwhere(np.abs(array) > FARTHEST)[0][0])
        whose = "atom" if what == "position" else "vector"
        told = f"{what} of {whose} {where} is beyond {FARTHEST:g} Å, where float64 holds no places"
        raise StructureError(name, f"{told}: {array[where].tolist()}")
    return np.ascontiguousarray(array)


def make_structure(
    config: DPA1Config,
    name: str,
    positions: ArrayLike,
    types: ArrayLike,
    cell: ArrayLike | None,
    pbc: ArrayLike | bool,
    fparam: ArrayLike | None = None,
    aparam: ArrayLike | None = None,
) -> Structure:
    """Checks raw arrays and makes a Structure.

    Args:
        config: the model's; says how many types and parameters there are.
        positions: (n, 3) Å. types: (n,) integers, −1 for virtual atoms. cell: (3, 3) Å or None. pbc: one or three.
        fparam: (numb_fparam,). aparam: (n, numb_aparam), (n,) or (numb_aparam,) for every atom alike.

    Raises:
        StructureError: naming the structure and the reason.
    """
    kinds = np.asarray(types)
    n = kinds.size
    if n == 0:
        raise StructureError(name, "the structure has no atoms")
    if kinds.ndim != 1 or not (np.issubdtype(kinds.dtype, np.integer) or np.all(kinds == np.round(kinds))):
        raise StructureError(name, f"atom types must be {n} integers in one row, got shape {kinds.shape}")
    kinds = kinds.astype(np.int64)
    least, most = int(kinds.min()), int(kinds.max())
    if least < -1 or most >= config.ntypes:
        bad = least if least < -1 else most
        raise StructureError(name, f"atom type {bad} is outside the model's 0..{config.ntypes - 1} (−1: virtual)")
    xyz = _array(name, "position", positions, (n, 3))
    periodic = np.empty(3, dtype=bool)
    periodic[:] = pbc
    box = np.zeros((3, 3)) if cell is None else _array(name, "cell", cell, (3, 3))
    check_cell(name, box, periodic)
    return Structure(name, xyz, kinds, box, periodic, _fparam(config, name, fparam), _aparam(config, name, aparam, n))


def moved(structure: Structure, positions: NDArray[np.float64], cell: NDArray[np.float64]) -> Structure:
    """The same atoms elsewhere, checked.

    Args:
        positions: (n, 3) Å. cell: (3, 3) Å, rows are lattice vectors.

    Raises:
        StructureError: naming the structure and the reason.
    """
    name = structure.name
    xyz = _array(name, "position", positions, structure.positions.shape)
    box = _array(name, "cell", cell, (3, 3))
    if not np.array_equal(box, structure.cell):
        check_cell(name, box, structure.pbc)
    return replace(structure, positions=xyz, cell=box)


def _fparam(config: DPA1Config, name: str, value: ArrayLike | None) -> NDArray[np.float64] | None:
    n, default = config.fitting.numb_fparam, config.fitting.default_fparam
    if n == 0:
        if value is not None:
            raise StructureError(name, "fparam was given, but the model has no frame parameters")
        return None
    if value is None:
        if default is None:
            raise StructureError(
                name, f"the model needs {n} frame parameters: give fparam=, or set atoms.info['fparam']"
            )
        value = default
    array = np.asarray(value, dtype=np.float64).reshape(-1)
    return _array(name, "fparam", array, (n,))


def _aparam(config: DPA1Config, name: str, value: ArrayLike | None, natoms: int) -> NDArray[np.float64] | None:
    n = config.fitting.numb_aparam
    if n == 0 or (value is None and config.fitting.use_aparam_as_mask):
        if value is not None:
            raise StructureError(name, "aparam was given, but the model has no atomic parameters")
        return None
    if value is None:
        raise StructureError(
            name, f"the model needs {n} atomic parameters per atom: give aparam=, or set atoms.arrays['aparam']"
        )
    array = np.asarray(value, dtype=np.float64)
    if array.size == n and natoms != 1:
        array = np.broadcast_to(array.reshape(1, n), (natoms, n))
    elif array.size == natoms * n:
        array = array.reshape(natoms, n)
    return _array(name, "aparam", array, (natoms, n))


@lru_cache(maxsize=64)
def _type_of_number(types: tuple[tuple[str, int], ...]) -> NDArray[np.int64]:
    """The type of each atomic number; ``UNKNOWN`` where the model has none."""
    from ase.data import chemical_symbols

    index = {"X": -1, **dict(types)}
    return np.array([index.get(symbol, UNKNOWN) for symbol in chemical_symbols], dtype=np.int64)


def count_real(atoms: Any) -> int:
    """How many atoms of an ``ase.Atoms`` are not virtual."""
    named = atoms.arrays.get(TYPE_NAMES)
    return int(np.count_nonzero(atoms.numbers if named is None else named.astype(str) != VIRTUAL))


def from_ase(
    config: DPA1Config,
    atoms: Any,
    name: str,
    fparam: ArrayLike | None = None,
    aparam: ArrayLike | None = None,
    types: Mapping[str, int] | None = None,
) -> Structure:
    """A Structure from an ``ase.Atoms``; element X is a virtual atom unless the model has a type of that name.

    Which type a chemical symbol is, ``types`` says, else the model's ``type_map``. Where ``atoms.arrays["dpa1_type"]``
    has names of types (``OW``; ``-1`` for a virtual atom), they count and not the symbols.

    Frame and atomic parameters come from the arguments, else from ``atoms.info['fparam']`` and
    ``atoms.arrays['aparam']`` (or ``atoms.info['aparam']``, where DeePMD-kit's calculator looks)
    if the model uses them.

    Raises:
        StructureError: naming the structure and the reason.
        TypeError: if ``atoms`` is not an ``ase.Atoms``.
    """
    try:
        numbers, positions, cell, pbc = atoms.numbers, atoms.positions, np.asarray(atoms.cell[:]), atoms.pbc
    except AttributeError:
        raise TypeError(f"{name} is a {type(atoms).__name__}, expected an ase.Atoms") from None
    named = atoms.arrays.get(TYPE_NAMES)
    if named is None:
        names: Any = atoms.symbols
        type_of = _type_of_number(tuple(types.items()) if types else config.types_by_name)
        odd = numbers[(numbers < 0) | (numbers >= len(type_of))]
        if len(odd):
            raise StructureError(name, f"there is no element with atomic number {odd[0]}")
        kinds = type_of[numbers]
    else:
        names, index = list(map(str, named)), {VIRTUAL: -1, **(types or dict(config.types_by_name))}
        kinds = np.array([index.get(n, UNKNOWN) for n in names], dtype=np.int64)
    if len(kinds) and kinds.min() == UNKNOWN:
        unknown = ", ".join(sorted({s for s, t in zip(names, kinds, strict=True) if t == UNKNOWN}))
        known = " ".join(list(types or config.type_map)[:20]) + (" …" if config.ntypes > 20 else "")
        what = "element" if named is None else "type"
        raise StructureError(name, f"the model does not know the {what} {unknown}; it knows {known}")
    if fparam is None and config.fitting.numb_fparam:
        fparam = atoms.info.get("fparam")
    if aparam is None and config.fitting.numb_aparam:
        aparam = atoms.arrays.get("aparam", atoms.info.get("aparam"))
    return make_structure(config, name, positions, kinds, cell, pbc, fparam, aparam)
