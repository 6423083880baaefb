"""Labelled structures from any source that ``dpa1-fast screen`` reads, as samples that batches are made of."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from ..config import DPA1Config
from ..errors import StructureError
from ..sources import find_sources
from ..structures.batch import Batch, Neighborhood, collate, neighborhood
from ..structures.neighbors import Edges
from ..structures.structure import Structure, from_ase
from ..structures.type_names import TYPE_NAMES
from .loss import Labels
from .options import TrainingError

Array = NDArray[np.float64]
SHARE_OF_MEMORY = 0.5
"""Of the memory that is free, what neighbour lists may take; without more, lists are made anew for each batch."""


@dataclass(frozen=True)
class Sample:
    """A structure and its labels; None where there is none.

    Attributes:
        system: number of the system that it belongs to. name: what messages call it.
        energy: eV. force: (n, 3) eV/Å. virial: (3, 3) eV, −dE/dstrain. atomic: (n,) eV.
    """

    structure: Structure
    system: int
    name: str
    energy: float | None
    force: Array | None
    virial: Array | None
    atomic: Array | None


@dataclass(frozen=True)
class Frame:
    """What a source gives: ``ase.Atoms`` with labels, its system's name and its number there."""

    atoms: Any
    system: str
    number: int


def frames(inputs: Sequence[str], type_map: Sequence[str]) -> Iterator[Frame]:
    """Every structure of the data, in order.

    Args:
        inputs: files, folders and patterns. type_map: the model's types; () where the data is to tell.

    Raises:
        SourceError: an input that names nothing. TrainingError: a structure that cannot be read.
    """
    for source in find_sources(inputs, type_map):
        for item in source.read():
            if item.atoms is None:
                where = item.source if item.frame < 0 else f"{item.source} frame {item.frame}"
                raise TrainingError(f"{where}: {item.error}; mend it or leave it out")
            yield Frame(item.atoms, item.source, item.frame)


def elements(inputs: Sequence[str]) -> tuple[str, ...]:
    """The types in the data, elements in the order of their atomic numbers."""
    found: dict[str, int] = {}
    for frame in frames(inputs, ()):
        named = frame.atoms.arrays.get(TYPE_NAMES)
        names = frame.atoms.symbols if named is None else named
        found |= {str(n): int(z) for n, z in zip(names, frame.atoms.numbers, strict=True)}
    return tuple(sorted((n for n in found if n not in ("X", "-1")), key=lambda n: (found[n], n)))


def sample(config: DPA1Config, frame: Frame, system: int) -> Sample:
    """A sample without its virtual atoms, which have no energy and nothing to learn.

    Raises:
        StructureError: the model cannot take it.
    """
    name = f"{frame.system} frame {frame.number}"
    structure = from_ase(config, frame.atoms, name)
    results = getattr(frame.atoms.calc, "results", {})
    force, atomic = results.get("forces"), frame.atoms.arrays.get("atom_ener")
    real = structure.types >= 0
    if not real.any():
        raise StructureError(name, "all of its atoms are virtual: there is nothing to learn or to test")
    if not real.all():
        aparam = None if structure.aparam is None else structure.aparam[real]
        structure = replace(structure, positions=structure.positions[real], types=structure.types[real], aparam=aparam)
        force = None if force is None else force[real]
        atomic = None if atomic is None else atomic[real]
    energy = results.get("energy")
    return Sample(
        structure,
        system,
        name,
        None if energy is None else float(energy),
        None if force is None else np.asarray(force, np.float64),
        _virial(frame.atoms, results, structure),
        None if atomic is None else np.asarray(atomic, np.float64),
    )


def _virial(atoms: Any, results: dict[str, Any], structure: Structure) -> Array | None:
    given = atoms.info.get("virial")
    if given is not None:
        virial = np.asarray(given, np.float64)
        if virial.size != 9:
            raise StructureError(structure.name, f"the virial has {virial.size} numbers; it must have 9")
        return virial.reshape(3, 3)
    if results.get("stress") is None or structure.volume is None:
        return None
    stress = np.asarray(results["stress"], np.float64)
    if stress.size not in (6, 9):
        raise StructureError(structure.name, f"the stress has {stress.size} numbers; it must have 6 or 9")
    if stress.size == 6:  # Voigt's order: xx, yy, zz, yz, xz, xy
        stress = stress.ravel()[[0, 5, 4, 5, 1, 3, 4, 3, 2]]
    return -structure.volume * stress.reshape(3, 3)


class Dataset:
    """Samples with their neighbour lists, which are made once and kept as long as memory lasts.

    Attributes:
        samples: all of them. systems: their systems' names.
    """

    def __init__(self, config: DPA1Config, inputs: Sequence[str]) -> None:
        self.config, self.samples = config, list[Sample]()
        numbers: dict[str, int] = {}
        for frame in frames(inputs, config.type_map):
            self.samples.append(sample(config, frame, numbers.setdefault(frame.system, len(numbers))))
        self.systems = list(numbers)
        self._kept: dict[int, Neighborhood] = {}
        self._room = SHARE_OF_MEMORY * free_memory()

    def __len__(self) -> int:
        return len(self.samples)

    @property
    def atoms(self) -> NDArray[np.int64]:
        """(samples,) how many atoms each has."""
        return np.array([len(s.structure) for s in self.samples], np.int64)

    def compositions(self) -> NDArray[np.int64]:
        """(samples, ntypes) how many atoms of each type there are."""
        n = self.config.ntypes
        return np.stack([np.bincount(s.structure.types, minlength=n) for s in self.samples])

    def neighborhood(self, k: int) -> Neighborhood:
        """The neighbours of one sample.

        Raises:
            StructureError: atoms on top of each other.
        """
        found = self._kept.get(k)
        if found is None:
            found = _small(neighborhood(self.config, self.samples[k].structure))
            size = sum(x.nbytes for x in (found.edges.center, found.edges.neighbor, found.edges.vector))
            if size <= self._room:
                self._room -= size
                self._kept[k] = found
        return found

    def batch(self, chosen: Sequence[int]) -> tuple[Batch, Labels]:
        """The samples of these numbers, one after another, and their labels."""
        batch = collate(self.config, [self.neighborhood(k) for k in chosen])
        return batch, labels([self.samples[k] for k in chosen], self.config.atom_exclude_types)

    def keep(self, wanted: Callable[[int], bool]) -> None:
        """Leaves out all systems but those wanted, by their number."""
        left = [k for k in range(len(self.systems)) if wanted(k)]
        new = {old: k for k, old in enumerate(left)}
        self.samples = [replace(s, system=new[s.system]) for s in self.samples if s.system in new]
        self.systems, self._kept = [self.systems[k] for k in left], {}


def labels(samples: Sequence[Sample], excluded: Sequence[int] = ()) -> Labels:
    """Labels of samples in a row.

    Args:
        excluded: types without an energy of their own: they do not count as atoms, nor do their forces.
    """

    def row(values: Sequence[Any], shapes: Sequence[tuple[int, ...]]) -> torch.Tensor:
        full = [np.full(s, np.nan) if v is None else v for v, s in zip(values, shapes, strict=True)]
        return torch.from_numpy(np.concatenate(full))

    sizes = [len(s.structure) for s in samples]
    active = [~np.isin(s.structure.types, excluded) for s in samples]
    left_out = torch.from_numpy(~np.concatenate(active))
    out = Labels(
        energy=torch.tensor([np.nan if s.energy is None else s.energy for s in samples], dtype=torch.float64),
        force=row([s.force for s in samples], [(n, 3) for n in sizes]),
        virial=row([s.virial for s in samples], [(3, 3)] * len(samples)).reshape(-1, 3, 3),
        atomic=row([s.atomic for s in samples], [(n,) for n in sizes]),
        atoms=torch.tensor([max(int(a.sum()), 1) for a in active], dtype=torch.float64),
    )
    out.force[left_out], out.atomic[left_out] = torch.nan, torch.nan
    return out


def _small(found: Neighborhood) -> Neighborhood:
    """The same in less memory; ``collate`` widens the indices again."""
    e = found.edges
    center, neighbor = e.center.astype(np.int32), e.neighbor.astype(np.int32)
    narrow: Any = Edges(center, neighbor, e.vector)  # type: ignore[arg-type]
    return replace(found, edges=narrow)


def free_memory() -> int:
    """Bytes of this machine's memory that nobody uses; 0 where the system does not say."""
    try:
        return os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    except (ValueError, OSError):
        return 0
