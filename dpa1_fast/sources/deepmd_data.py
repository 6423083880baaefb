"""DeePMD-kit's data folders (``npy`` and ``mixed_type``) as ASE structures, frame by frame out of mapped files."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from ase import Atoms
from ase.calculators.singlepoint import SinglePointCalculator
from numpy.typing import NDArray

from ..errors import StructureError
from .base import Item, Told
from .check import checked
from .names import Kinds, TypeNames
from .reading import content_hash
from .settle import settle

Array = NDArray[Any]


def is_system(folder: Path) -> bool:
    """Whether a folder is a DeePMD-kit system: ``type.raw`` and at least one ``set.*``."""
    return (folder / "type.raw").is_file() and any(folder.glob("set.*"))


def systems(folder: Path) -> list[Path]:
    """The systems in a folder: itself, or all below it, sorted by path."""
    if is_system(folder):
        return [folder]
    return sorted(p.parent for p in folder.rglob("type.raw") if is_system(p.parent))


class Folder:
    """A system's files. An HDF5 group answers in the same way (see there).

    Attributes:
        name: how errors refer to it.
    """

    def __init__(self, path: Path) -> None:
        self.path, self.name = path, str(path)

    def has(self, name: str) -> bool:
        """Whether there is a file of that name."""
        return (self.path / name).exists()

    def words(self, name: str) -> list[str]:
        """The words in a text."""
        return (self.path / name).read_text(encoding="utf-8").split()

    def integers(self, name: str) -> Array:
        """The integers in a text, in one row."""
        return np.loadtxt(self.path / name, dtype=np.int64, ndmin=1, encoding="utf-8").reshape(-1)

    def sets(self) -> list[str]:
        """The names of its sets in order."""
        return sorted(part.name for part in self.path.glob("set.*"))

    def rows(self, name: str) -> Any | None:
        """An array of one row a frame, mapped into memory and not read yet; None where there is none.

        Raises:
            OSError, ValueError, EOFError: it cannot be read.
        """
        path = self.path / name
        if not path.exists():
            return None
        array: Array = np.load(path, mmap_mode="r", allow_pickle=False)
        return array.reshape(len(array), array.size // max(len(array), 1)) if array.ndim else array.reshape(1, 1)


@dataclass(frozen=True)
class DeepmdSource:
    """One system. A mark is [structure, set, frame in the set].

    Attributes:
        names: what its types mean; the model's are for a folder that has no ``type_map.raw`` of its own.
    """

    folder: Path
    names: TypeNames

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
        return settle(self.name, items_of(self.name, Folder(self.folder), mark, self.names), mark, self.names)


def items_of(name: str, tree: Any, mark: Any, names: TypeNames) -> Iterator[Item]:
    """The frames of one system from a mark on: [structure, set, frame in the set].

    Args:
        name: of the source. tree: a ``Folder``, or what answers like one.

    Raises:
        StructureError: a file that is missing or damaged, or does not fit the others.
    """
    done, first_set, first_frame = (0, 0, 0) if mark is None else mark
    system = _System(tree, names)
    for s, part in enumerate(system.parts[first_set:], start=first_set):
        frames = _Set(part, system)
        for k in range(first_frame, len(frames)):
            atoms, kinds = frames.atoms(k)
            share = (s + (k + 1) / len(frames)) / len(system.parts)
            yield Item(name, done, atoms, None, [done + 1, s, k + 1], share, told=Told(kinds=kinds))
            done += 1
        first_frame = 0


def read_system(folder: Path, type_map: Sequence[str]) -> Iterator[Any]:
    """The frames of one system, as ``ase.Atoms`` with whatever labels there are.

    Args:
        type_map: names of the types where the folder has no ``type_map.raw`` of its own.

    Raises:
        StructureError: a file that is missing or damaged, or does not fit the others; a type whose name is not known.
    """
    names = TypeNames(tuple(type_map))
    for item in items_of(str(folder), Folder(folder), None, names):
        item = checked(item, names)
        if item.atoms is None:
            raise StructureError(f"{folder} frame {item.frame}", str(item.error))
        yield item.atoms


def make_atoms(numbers: Array, coord: Array, box: Array | None, labels: dict[str, Array | None]) -> Atoms:
    """A structure of DeePMD-kit's arrays.

    Args:
        coord: 3n numbers. box: 9 numbers, or None for open boundaries.
        labels: ``energy``, ``force``, ``virial``, ``atom_ener``, ``fparam`` and ``aparam``, as far as there are any.
    """
    n = len(numbers)
    cell = None if box is None else np.array(box, np.float64).reshape(3, 3)
    atoms = Atoms(numbers, positions=np.array(coord, np.float64).reshape(n, 3), cell=cell, pbc=box is not None)
    have = {k: np.array(v) for k, v in labels.items() if v is not None}
    if "fparam" in have:
        atoms.info["fparam"] = have["fparam"]
    if "aparam" in have:
        atoms.arrays["aparam"] = have["aparam"].reshape(n, -1)
    if "atom_ener" in have:
        atoms.arrays["atom_ener"] = have["atom_ener"].astype(np.float64).reshape(n)
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

    def __init__(self, tree: Any, names: TypeNames) -> None:
        self.tree = tree
        # Names of its own are not overruled; without any, --type-map says what types are, else the model does.
        self.names: tuple[str, ...] | None = None if names.by_number else names.model
        try:
            if tree.has("type_map.raw"):
                self.names = tuple(tree.words("type_map.raw"))
            self.common = tree.integers("type.raw")
        except (OSError, ValueError) as error:
            raise StructureError(tree.name, f"cannot read type.raw or type_map.raw: {error}") from None
        self.periodic = not tree.has("nopbc")
        self.parts = tree.sets()


class _Set:
    """The frames of one ``set.*``."""

    def __init__(self, part: str, system: _System) -> None:
        self.part, self.system = part, system
        n = len(system.common)
        coord = self._load("coord", 3 * n)
        if coord is None:
            raise StructureError(f"{system.tree.name}/{part}", "has no coord.npy")
        self.coord, frames = coord, len(coord)
        self.box = self._load("box", 9, frames) if system.periodic else None
        if system.periodic and self.box is None:
            where = f"{system.tree.name}/{part}"
            raise StructureError(where, "has no box.npy; put a file named nopbc beside it for open boundaries")
        self.mixed = self._load("real_atom_types", n, frames)
        widths = {"energy": 1, "force": 3 * n, "virial": 9, "fparam": None, "aparam": None, "atom_ener": n}
        self.labels = {name: self._load(name, width, frames) for name, width in widths.items()}

    def __len__(self) -> int:
        return len(self.coord)

    def atoms(self, k: int) -> tuple[Atoms, Kinds]:
        """A frame, and what its types are; its atomic numbers are not set yet."""
        types = self.system.common if self.mixed is None else self.mixed[k].astype(np.int64)
        labels = {name: None if array is None else array[k] for name, array in self.labels.items()}
        box = None if self.box is None else self.box[k]
        return make_atoms(np.zeros(len(types), int), self.coord[k], box, labels), Kinds(types, self.system.names)

    def _load(self, name: str, width: int | None, frames: int | None = None) -> Any | None:
        """An array of one row a frame, not read yet."""
        path = f"{self.part}/{name}.npy"
        where = f"{self.system.tree.name}/{path}"
        try:
            array = self.system.tree.rows(path)
        except (OSError, ValueError, EOFError) as error:
            raise StructureError(where, f"cannot be read: {error}") from None
        if array is None:
            return None
        if frames is not None and len(array) != frames:
            raise StructureError(where, f"has {len(array)} frames, coord.npy has {frames}")
        if width is not None and len(array) and array.shape[1] != width:
            raise StructureError(where, f"has {array.shape[1]} numbers a frame, expected {width}")
        return array
