"""One structure out of JSON, in the ways of the world: OPTIMADE, pymatgen, ASE."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from itertools import zip_longest
from typing import Any

import numpy as np
from ase import Atoms
from ase.data import atomic_numbers
from numpy.typing import NDArray

from .base import Told
from .ids import keep_scalars
from .names import Kinds, element_of, kinds_of
from .reading import Damaged

Json = dict[str, Any]

OURS = {
    *("type", "pbc", "symbols", "charge", "nsites", "nelements", "chemical_formula_descriptive", "dimension_types"),
    *("nperiodic_dimensions", "immutable_id", "last_modified", "chemical_formula_anonymous"),
}
"""Keys of a structure that say how it is written, or again what its atoms say."""

NO_STRUCTURES = {"info", "references", "links", "files", "calculations"}
"""Types of OPTIMADE entries that say nothing about atoms."""


def is_structure(entry: Any) -> bool:
    """Whether a line of a file should be one: False for OPTIMADE's header and for entries of its other types."""
    return not (isinstance(entry, dict) and ("x-optimade" in entry or entry.get("type") in NO_STRUCTURES))


def is_mapping(value: Any) -> bool:
    """Whether a document holds structures by their ids: nothing but objects, the first of which is a structure."""
    if not isinstance(value, dict) or not value or not all(isinstance(one, dict) for one in value.values()):
        return False
    first = next(iter(value.values()))
    known = ("structure", "sites", "positions", "cartesian_site_positions")
    return "structure" not in value and any(key in _attributes(first) or key in first for key in known)


def structure(entry: Any) -> tuple[Atoms, Told]:
    """The structure in a parsed JSON value, by the keys that it has, and what is to be told of it.

    Its other words and numbers (``id``, ``material_id``, …) are kept in ``atoms.info``.

    Raises:
        Damaged: what is missing or can't be done.
    """
    if not isinstance(entry, dict):
        raise Damaged(f"expected a JSON object, found {type(entry).__name__}")
    if isinstance(entry.get("structure"), dict):  # documents of databases, with the structure among other things
        atoms, told = structure(entry["structure"])
        more = [entry, entry.get("data")]
    elif "cartesian_site_positions" in (attributes := _attributes(entry)):
        atoms, told = from_optimade(attributes)
        more = [entry, attributes]
    elif "sites" in entry:
        atoms, told = from_pymatgen(entry)
        more = [entry, entry.get("properties")]
    elif "positions" in entry and ("numbers" in entry or "symbols" in entry):
        atoms, told = from_ase_dict(entry)
        more = [entry]
    else:
        raise Damaged(
            "is no structure that is known: no cartesian_site_positions (OPTIMADE), no sites (pymatgen), "
            "no numbers or symbols with positions (ASE)"
        )
    for one in more:
        keep_scalars(atoms.info, {k: v for k, v in one.items() if k not in OURS} if isinstance(one, dict) else None)
    return atoms, told


def _attributes(entry: Json) -> Json:
    attributes = entry.get("attributes")
    return attributes if isinstance(attributes, dict) else entry


def from_optimade(attributes: Json) -> tuple[Atoms, Told]:
    """An OPTIMADE structure resource's attributes as ``ase.Atoms``, and who is where how often.

    Raises:
        Damaged: fields that are missing or contradict each other, atoms without positions.
    """
    features = set(attributes.get("structure_features") or ())
    for feature in ("unknown_positions", "implicit_atoms", "assemblies"):
        if feature in features or (feature == "assemblies" and attributes.get(feature)):
            raise Damaged(f"{feature.replace('_', ' ')}: give a structure whose atoms are all there, each at one place")
    sites = attributes.get("species_at_sites")
    if not isinstance(sites, list):
        raise Damaged("has no species_at_sites")
    species = {s.get("name"): _occupants(s) for s in attributes.get("species") or () if isinstance(s, dict)}
    used = {name: species.get(name) or [(name, 1.0)] for name in sites}
    symbols = [_first(used[name]) for name in sites]
    vectors = attributes.get("lattice_vectors")
    dimensions = attributes.get("dimension_types")
    if dimensions is None:
        dimensions = [int(vectors is not None)] * 3
    pbc = numbers(dimensions, (3,), "dimension_types").astype(bool)
    cell = None
    if vectors is not None:  # vectors of axes that aren't periodic may be rows of null
        rows = [
            [0.0] * 3 if row is None or (not p and None in row) else row for row, p in zip(vectors, pbc, strict=False)
        ]
        cell = numbers(rows, (3, 3), "lattice_vectors")
    elif pbc.any():
        raise Damaged("has no lattice_vectors, but periodic dimension_types")
    positions = numbers(attributes["cartesian_site_positions"], (len(symbols), 3), "cartesian_site_positions")
    occupants = [(f"species {name}", there) for name, there in used.items()]
    return named_atoms(symbols, occupants, positions=positions, cell=cell, pbc=pbc)


def _occupants(species: Json) -> list[tuple[str, Any]]:
    name, symbols = species.get("name"), species.get("chemical_symbols") or ()
    if species.get("attached"):
        raise Damaged(f"species {name} has atoms attached to it, which have no positions")
    shares = species.get("concentration") or [1.0] * len(symbols)
    return [(str(symbol), share) for symbol, share in zip(symbols, shares, strict=True)]


def _first(occupants: Sequence[tuple[str, Any]]) -> str:
    """Who is at a place, if it is one; ``check`` sees to that."""
    return next((symbol for symbol, share in occupants if share), "X")


def from_pymatgen(entry: Json) -> tuple[Atoms, Told]:
    """pymatgen's ``Structure.as_dict()`` or ``Molecule.as_dict()`` as ``ase.Atoms``, and what its sites say besides.

    Raises:
        Damaged: fields that are missing or contradict each other.
    """
    lattice = entry.get("lattice")
    cell, pbc = np.zeros((3, 3)), np.zeros(3, bool)
    if lattice is not None:
        if not isinstance(lattice, dict) or "matrix" not in lattice:
            raise Damaged("its lattice has no matrix")
        cell = numbers(lattice["matrix"], (3, 3), "lattice matrix")
        pbc = numbers(lattice.get("pbc", [True] * 3), (3,), "lattice pbc").astype(bool)
    fractional = lattice is not None and all("abc" in site for site in entry["sites"])
    symbols, places, occupants, free = [], [], [], []
    for k, site in enumerate(entry["sites"]):
        species = [(str(s.get("element")), s.get("occu", 1)) for s in site.get("species", ())]
        occupants.append((f"site {k}", species))
        symbols.append(_first(species))
        places.append(site.get("abc" if fractional else "xyz"))
        free.append((site.get("properties") or {}).get("selective_dynamics"))
    positions = numbers(places, (len(symbols), 3), "the sites' coordinates")
    if fractional:
        positions = positions @ cell
    atoms, told = named_atoms(symbols, occupants, positions=positions, cell=cell if lattice else None, pbc=pbc)
    return atoms, replace(told, free=_flags(free))


def _flags(free: list[Any]) -> Any:
    """The sites' selective dynamics; a site without it is free.

    Raises:
        Damaged: flags that are not three.
    """
    if all(flags is None for flags in free):
        return None
    rows = [[True] * 3 if flags is None else flags for flags in free]
    return numbers(rows, (len(rows), 3), "selective_dynamics") != 0


def from_ase_dict(entry: Json, periodic: bool = True) -> tuple[Atoms, Told]:
    """An object like ``ase.Atoms.todict()`` in JSON: numbers or symbols, positions, cell and pbc, with its constraints.

    Args:
        periodic: whether a cell without ``pbc`` is periodic, as it is in extended XYZ.

    Raises:
        Damaged: fields that are missing or contradict each other.
    """
    if "numbers" in entry:
        given = numbers(entry["numbers"], (-1,), "numbers")
        if not np.isin(given, np.arange(len(atomic_numbers))).all():
            raise Damaged("numbers has an entry that is no atomic number")
        symbols: Any = given.astype(int)
    elif isinstance(entry["symbols"], str):
        symbols = Atoms(entry["symbols"]).numbers
    else:
        symbols = entry["symbols"]
    cell = entry.get("cell")
    if isinstance(cell, dict) and "array" in cell:  # how ASE writes a Cell
        cell = cell["array"]
    if cell is not None:
        cell = numbers(cell, (3, 3), "cell")
    pbc = entry.get("pbc")
    flags = np.broadcast_to(numbers(periodic and cell is not None if pbc is None else pbc, None, "pbc") != 0, 3)
    positions = numbers(entry["positions"], (len(symbols), 3), "positions")
    atoms, told = named_atoms(symbols, (), positions=positions, cell=cell, pbc=flags)
    if isinstance(entry.get("info"), dict):
        atoms.info.update(entry["info"])
    if "aparam" in entry:
        atoms.arrays["aparam"] = numbers(entry["aparam"], None, "aparam")
    return atoms, replace(told, constraints=entry.get("constraints"))


def named_atoms(
    symbols: Sequence[Any], occupants: Sequence[tuple[str, Sequence[tuple[str, Any]]]], **more: Any
) -> tuple[Atoms, Told]:
    """Atoms with symbols, names of types among them, or atomic numbers.

    Args:
        more: of ``ase.Atoms``.

    Raises:
        Damaged: a name that is no word.
    """
    if isinstance(symbols, np.ndarray):
        return Atoms(symbols, **more), Told(occupants)
    if wrong := next((s for s in symbols if not isinstance(s, str)), None):
        raise Damaged(f"{wrong}: no chemical symbol")
    kinds: Kinds = kinds_of(symbols)
    return Atoms([element_of(s) for s in symbols], **more), Told(occupants, kinds)


def numbers(value: Any, shape: tuple[int, ...] | None, what: str) -> NDArray[np.float64]:
    """A JSON list, or ASE's ``__ndarray__``, as an array of float64.

    Args:
        shape: what it must have; −1 is any length, None is any shape.

    Raises:
        Damaged: it is no array of numbers, or has another shape.
    """
    try:
        if isinstance(value, dict):
            size, _, flat = value["__ndarray__"]
            value = np.reshape(np.asarray(flat, np.float64), size)
        array = np.asarray(value, np.float64)
    except (TypeError, ValueError, KeyError):
        raise Damaged(f"{what} is no array of numbers") from None
    if shape is not None and array.size == 0 and 0 in shape:
        array = array.reshape(shape)
    if shape is not None and tuple(-1 if s == -1 else n for s, n in zip_longest(shape, array.shape)) != shape:
        raise Damaged(f"{what} has shape {array.shape}, expected {shape}")
    return array
