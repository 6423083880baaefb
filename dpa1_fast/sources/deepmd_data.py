"""DeePMD-kit's data folders (``npy`` and ``mixed_type``) as ASE structures, frame by frame out of mapped files."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from ase import Atoms
from ase.calculators.singlepoint import SinglePointCalculator
from ase.data import atomic_numbers
from numpy.typing import NDArray

from ..errors import StructureError
from .base import Item
from .reading import content_hash, settle

Array = NDArray[Any]


def is_system(folder: Path) -> bool:
    """Whether a folder is a DeePMD-kit system: ``type.raw`` and at least one ``set.*``."""
    return (folder / "type.raw").is_file() and any(folder.glob("set.*"))


def systems(folder: Path) -> list[Path]:
    """The systems in a folder: itself, or all below it, sorted by path."""
    if is_system(folder):
        return [folder]
    return sorted(p.parent for p in folder.rglob("type.raw") if is_system(p.parent))


@dataclass(frozen=True)
class DeepmdSource:
    """One system. A mark is [structure, set, frame in the set].

    Attributes:
        type_map: names of the types where the folder has no ``type_map.raw`` of its own.
    """

    folder: Path
    type_map: tuple[str, ...]

    @property
    def name(self) -> str:
        """The folder as it was given."""
        return str(self.folder)

    def fingerprint(self) -> str:
        """SHA-256 over the files that a system is made of, and their names."""
        own = [self.folder / name for name in ("type.raw", "type_map.raw", "nopbc")]
        files = [p for p in own if p.exists()] + sorted(self.folder.glob("set.*/*.npy"))
        return content_hash((p.relative_to(self.folder).as_posix(), p) for p in files)

    def read(self, mark: Any = None) -> Iterator[Item]:
        """See ``Source.read``."""
        return settle(self.name, self._items(mark), mark)

    def _items(self, mark: Any) -> Iterator[Item]:
        done, first_set, first_frame = (0, 0, 0) if mark is None else mark
        system = _System(self.folder, self.type_map)
        for s, part in enumerate(system.parts[first_set:], start=first_set):
            frames = _Set(part, system)
            for k in range(first_frame, len(frames)):
                atoms, error = None, None
                try:
                    atoms = frames.atoms(k)
                except StructureError as fault:
                    error = str(fault)
                share = (s + (k + 1) / len(frames)) / len(system.parts)
                yield Item(self.name, done, atoms, error, [done + 1, s, k + 1], share)
                done += 1
            first_frame = 0


def read_system(folder: Path, type_map: Sequence[str]) -> Iterator[Any]:
    """The frames of one system, as ``ase.Atoms`` with whatever labels there are.

    Args:
        type_map: names of the types where the folder has no ``type_map.raw`` of its own.

    Raises:
        StructureError: a file that is missing or damaged, or does not fit the others.
    """
    system = _System(folder, type_map)
    for part in system.parts:
        frames = _Set(part, system)
        for k in range(len(frames)):
            yield frames.atoms(k)


class Types:
    """Elements by type number.

    Args:
        names: of the types, in order.
    """

    def __init__(self, names: Sequence[str]) -> None:
        self.names = list(names)
        self._numbers = np.array([atomic_numbers.get(n, -1) for n in self.names] + [0])  # type −1 is X

    def numbers(self, types: Array, where: str) -> Array:
        """Atomic numbers, 0 for types below 0.

        Raises:
            StructureError: a type that has no name, or whose name is no element.
        """
        if types.max(initial=-1) >= len(self.names):
            raise StructureError(where, f"type {types.max()} has no name in type_map {self.names}")
        found: Array = self._numbers[np.maximum(types, -1)]
        if found.min(initial=0) < 0:
            name = self.names[types[found < 0][0]]
            raise StructureError(where, f"type name {name!r} is not an element")
        return found


def make_atoms(numbers: Array, coord: Array, box: Array | None, labels: dict[str, Array | None]) -> Atoms:
    """A structure of DeePMD-kit's arrays.

    Args:
        coord: 3n numbers. box: 9 numbers, or None for open boundaries.
        labels: ``energy``, ``force``, ``virial``, ``fparam`` and ``aparam``, as far as there are any.
    """
    n = len(numbers)
    cell = None if box is None else np.array(box, np.float64).reshape(3, 3)
    atoms = Atoms(numbers, positions=np.array(coord, np.float64).reshape(n, 3), cell=cell, pbc=box is not None)
    have = {k: np.array(v) for k, v in labels.items() if v is not None}
    if "fparam" in have:
        atoms.info["fparam"] = have["fparam"]
    if "aparam" in have:
        atoms.arrays["aparam"] = have["aparam"].reshape(n, -1)
    if "virial" in have:
        atoms.info["virial"] = have["virial"].astype(np.float64).reshape(3, 3)
    results: dict[str, Any] = {}
    if "energy" in have:
        results["energy"] = float(have["energy"].reshape(-1)[0])
    if "force" in have:
        results["forces"] = have["force"].astype(np.float64).reshape(n, 3)
    if results:
        atoms.calc = SinglePointCalculator(atoms, **results)
    return atoms


class _System:
    """What the sets of a system have in common."""

    def __init__(self, folder: Path, type_map: Sequence[str]) -> None:
        own = folder / "type_map.raw"
        try:
            self.types = Types(own.read_text(encoding="utf-8").split() if own.exists() else type_map)
            self.common = np.loadtxt(folder / "type.raw", dtype=np.int64, ndmin=1).reshape(-1)
        except (OSError, ValueError) as error:
            raise StructureError(str(folder), f"cannot read type.raw or type_map.raw: {error}") from None
        self.periodic = not (folder / "nopbc").exists()
        self.parts = sorted(folder.glob("set.*"))


class _Set:
    """The frames of one ``set.*``."""

    def __init__(self, part: Path, system: _System) -> None:
        self.part, self.system = part, system
        n = len(system.common)
        coord = _load(part, "coord", 3 * n)
        if coord is None:
            raise StructureError(str(part), "has no coord.npy")
        self.coord, frames = coord, len(coord)
        self.box = _load(part, "box", 9, frames) if system.periodic else None
        if system.periodic and self.box is None:
            raise StructureError(str(part), "has no box.npy; put a file named nopbc beside it for open boundaries")
        self.mixed = _load(part, "real_atom_types", n, frames)
        widths = {"energy": 1, "force": 3 * n, "virial": 9, "fparam": None, "aparam": None}
        self.labels = {name: _load(part, name, width, frames) for name, width in widths.items()}

    def __len__(self) -> int:
        return len(self.coord)

    def atoms(self, k: int) -> Atoms:
        types = self.system.common if self.mixed is None else self.mixed[k].astype(np.int64)
        numbers = self.system.types.numbers(types, f"{self.part} frame {k}")
        labels = {name: None if array is None else array[k] for name, array in self.labels.items()}
        return make_atoms(numbers, self.coord[k], None if self.box is None else self.box[k], labels)


def _load(part: Path, name: str, width: int | None, frames: int | None = None) -> Array | None:
    """An array of one row a frame, mapped into memory and not read yet."""
    path = part / f"{name}.npy"
    if not path.exists():
        return None
    try:
        array: Array = np.load(path, mmap_mode="r", allow_pickle=False)
        array = array.reshape(len(array), array.size // max(len(array), 1)) if array.ndim else array.reshape(1, 1)
    except (OSError, ValueError, EOFError) as error:
        raise StructureError(str(path), f"cannot be read: {error}") from None
    if frames is not None and len(array) != frames:
        raise StructureError(str(path), f"has {len(array)} frames, coord.npy has {frames}")
    if width is not None and len(array) and array.shape[1] != width:
        raise StructureError(str(path), f"has {array.shape[1]} numbers a frame, expected {width}")
    return array
