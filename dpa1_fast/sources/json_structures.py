"""One structure out of JSON, in the ways of the world: OPTIMADE, pymatgen, ASE."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import zip_longest
from typing import Any

import numpy as np
from ase import Atoms
from ase.data import atomic_numbers
from numpy.typing import NDArray

from .reading import Damaged

Json = dict[str, Any]

NO_STRUCTURES = {"info", "references", "links", "files", "calculations"}
"""Types of OPTIMADE entries that say nothing about atoms."""


def is_structure(entry: Any) -> bool:
    """Whether a line of a file should be one: False for OPTIMADE's header and for entries of its other types."""
    return not (isinstance(entry, dict) and ("x-optimade" in entry or entry.get("type") in NO_STRUCTURES))


def structure(entry: Any) -> Atoms:
    """The structure in a parsed JSON value, by the keys that it has; an ``id`` is kept in ``atoms.info``.

    Raises:
        Damaged: what is missing or can't be done.
    """
    if not isinstance(entry, dict):
        raise Damaged(f"expected a JSON object, found {type(entry).__name__}")
    if isinstance(entry.get("structure"), dict):  # documents of databases, with the structure among other things
        atoms = structure(entry["structure"])
    elif "cartesian_site_positions" in (attributes := _attributes(entry)):
        atoms = from_optimade(attributes)
    elif "sites" in entry:
        atoms = from_pymatgen(entry)
    elif "positions" in entry and ("numbers" in entry or "symbols" in entry):
        atoms = from_ase_dict(entry)
    else:
        raise Damaged(
            "is no structure that is known: no cartesian_site_positions (OPTIMADE), no sites (pymatgen), "
            "no numbers or symbols with positions (ASE)"
        )
    if isinstance(entry.get("id"), str | int):
        atoms.info["id"] = entry["id"]
    return atoms


def _attributes(entry: Json) -> Json:
    attributes = entry.get("attributes")
    return attributes if isinstance(attributes, dict) else entry


def from_optimade(attributes: Json) -> Atoms:
    """An OPTIMADE structure resource's attributes as ``ase.Atoms``.

    Raises:
        Damaged: fields that are missing or contradict each other, disorder, atoms without positions.
    """
    features = set(attributes.get("structure_features") or ())
    for feature in ("unknown_positions", "implicit_atoms", "assemblies"):
        if feature in features or (feature == "assemblies" and attributes.get(feature)):
            raise Damaged(f"{feature.replace('_', ' ')}: give a structure whose atoms are all there, each at one place")
    sites = attributes.get("species_at_sites")
    if not isinstance(sites, list):
        raise Damaged("has no species_at_sites")
    elements = {s.get("name"): _optimade_element(s) for s in attributes.get("species") or () if isinstance(s, dict)}
    symbols = [elements.get(name, name) for name in sites]
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
    return Atoms(elements_of(symbols), positions=positions, cell=cell, pbc=pbc)


def _optimade_element(species: Json) -> str:
    name, symbols = species.get("name"), species.get("chemical_symbols") or ()
    if species.get("attached"):
        raise Damaged(f"species {name} has atoms attached to it, which have no positions")
    shares = species.get("concentration") or [1.0] * len(symbols)
    return _only([(str(symbol), share) for symbol, share in zip(symbols, shares, strict=True)], f"species {name}")


def _only(occupants: Sequence[tuple[str, float]], where: str) -> str:
    """The one element at a place.

    Raises:
        Damaged: there are several, or the place is not always taken.
    """
    present = [(symbol, share) for symbol, share in occupants if share != 0]
    if len(present) != 1 or abs(present[0][1] - 1) > 1e-6:
        shown = " ".join(f"{symbol} {share:g}" for symbol, share in occupants) or "nothing"
        raise Damaged(f"partial occupancy: {where} is {shown}; give an ordered structure")
    return present[0][0]


def from_pymatgen(entry: Json) -> Atoms:
    """pymatgen's ``Structure.as_dict()`` or ``Molecule.as_dict()`` as ``ase.Atoms``.

    Raises:
        Damaged: fields that are missing or contradict each other, partial occupancies.
    """
    lattice = entry.get("lattice")
    cell, pbc = np.zeros((3, 3)), np.zeros(3, bool)
    if lattice is not None:
        if not isinstance(lattice, dict) or "matrix" not in lattice:
            raise Damaged("its lattice has no matrix")
        cell = numbers(lattice["matrix"], (3, 3), "lattice matrix")
        pbc = numbers(lattice.get("pbc", [True] * 3), (3,), "lattice pbc").astype(bool)
    fractional = lattice is not None and all("abc" in site for site in entry["sites"])
    symbols, places = [], []
    for k, site in enumerate(entry["sites"]):
        species = [(str(s.get("element")), s.get("occu", 1)) for s in site.get("species", ())]
        symbols.append(_only(species, f"site {k}"))
        places.append(site.get("abc" if fractional else "xyz"))
    positions = numbers(places, (len(symbols), 3), "the sites' coordinates")
    if fractional:
        positions = positions @ cell
    return Atoms(elements_of(symbols), positions=positions, cell=cell if lattice else None, pbc=pbc)


def from_ase_dict(entry: Json, periodic: bool = True) -> Atoms:
    """An object like ``ase.Atoms.todict()`` in JSON: numbers or symbols, positions, cell and pbc.

    Args:
        periodic: whether a cell without ``pbc`` is periodic, as it is in extended XYZ.

    Raises:
        Damaged: fields that are missing or contradict each other.
    """
    if "numbers" in entry:
        given = numbers(entry["numbers"], (-1,), "numbers")
        if not np.isin(given, np.arange(len(atomic_numbers))).all():
            raise Damaged("numbers has an entry that is no atomic number")
        kinds: Any = given.astype(int)
    elif isinstance(entry["symbols"], str):
        kinds = Atoms(entry["symbols"]).numbers
    else:
        kinds = elements_of(entry["symbols"])
    cell = entry.get("cell")
    if isinstance(cell, dict) and "array" in cell:  # how ASE writes a Cell
        cell = cell["array"]
    if cell is not None:
        cell = numbers(cell, (3, 3), "cell")
    pbc = entry.get("pbc")
    flags = np.broadcast_to(numbers(periodic and cell is not None if pbc is None else pbc, None, "pbc") != 0, 3)
    return Atoms(kinds, positions=numbers(entry["positions"], (len(kinds), 3), "positions"), cell=cell, pbc=flags)


def elements_of(symbols: Sequence[Any]) -> list[int]:
    """Atomic numbers; X is 0.

    Raises:
        Damaged: naming what is no element.
    """
    unknown = sorted({str(s) for s in symbols if not isinstance(s, str) or s not in atomic_numbers})
    if unknown:
        raise Damaged(f"{', '.join(unknown)}: no chemical symbol")
    return [atomic_numbers[s] for s in symbols]


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
