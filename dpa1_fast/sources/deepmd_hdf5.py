"""DeePMD-kit's systems in HDF5 files: groups that hold what folders hold (``FILE.hdf5``, ``FILE.hdf5#/group``)."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from ..errors import StructureError
from .base import Item
from .deepmd_data import items_of
from .names import NO_NAMES, TypeNames
from .reading import Damaged, content_hash
from .settle import settle
from .streams import check_growth


class Group:
    """A group that answers as ``deepmd_data.Folder`` does. Links to other files are not followed.

    Attributes:
        name: how errors refer to it.
    """

    def __init__(self, group: Any, name: str) -> None:
        self.group, self.name = group, name

    def has(self, name: str) -> bool:
        """Whether there is something of that name, and it does not say no (``nopbc``: false)."""
        found = self._dataset(name)
        return found is not None and not (found.shape == () and found.dtype.kind == "b" and not found[()])

    def words(self, name: str) -> list[str]:
        """The texts in a dataset."""
        values = np.atleast_1d(self._sound(name)[()])
        texts = [v.decode("utf-8") if isinstance(v, bytes) else str(v) for v in values.ravel()]
        return [word for text in texts for word in text.split()]

    def integers(self, name: str) -> Any:
        """The integers in a dataset, in one row."""
        found = self._sound(name)
        if found.dtype.kind not in "iu":
            raise ValueError(f"{name} holds {found.dtype}")
        return np.asarray(found[()], np.int64).reshape(-1)

    def sets(self) -> list[str]:
        """The names of its sets in order."""
        return sorted(name for name in self.group if name.startswith("set."))

    def rows(self, name: str) -> Any | None:
        """A dataset of one row a frame, not read yet; None where there is none.

        Raises:
            ValueError: it holds no numbers.
        """
        if self._dataset(name) is None:
            return None
        return Rows(self._sound(name))

    def _dataset(self, name: str) -> Any | None:
        here = self.group
        for part in name.split("/"):
            link = here.get(part, getlink=True) if isinstance(here, h5py.Group) else None
            if not isinstance(link, h5py.HardLink):
                return None
            here = here[part]
        return here if isinstance(here, h5py.Dataset) else None

    def _sound(self, name: str) -> Any:
        found = self._dataset(name)
        if found is None:
            raise ValueError(f"has no {name}")
        if found.external or found.is_virtual:
            raise ValueError(f"{name} lies in another file")
        try:
            check_growth(found.size * found.dtype.itemsize, found.id.get_storage_size())
        except Damaged as error:
            raise ValueError(f"{name} {error}") from None
        return found


class Rows:
    """Rows of a dataset, each read when it is asked for.

    Attributes:
        shape: (frames, numbers a frame).
    """

    def __init__(self, dataset: Any) -> None:
        if dataset.dtype.kind not in "iufb":
            raise ValueError(f"holds {dataset.dtype}")
        self._dataset = dataset
        frames = len(dataset) if dataset.shape else 1
        self.shape = (frames, int(dataset.size) // max(frames, 1))

    def __len__(self) -> int:
        return self.shape[0]

    def __getitem__(self, k: int) -> Any:
        return np.asarray(self._dataset[k] if self._dataset.shape else self._dataset[()]).reshape(-1)


@dataclass(frozen=True)
class Hdf5Source:
    """All systems of a file. A mark is [structure, system, the mark in it].

    Attributes:
        group: below which systems are looked for. names: see ``DeepmdSource``.
    """

    path: Path
    group: str = "/"
    names: TypeNames = NO_NAMES

    @property
    def name(self) -> str:
        """The file as it was given, with its group where one was."""
        return str(self.path) + (f"#{self.group}" if self.group != "/" else "")

    def fingerprint(self) -> str:
        """SHA-256 of the content."""
        return content_hash([("", self.path)], labelled=False)

    def read(self, mark: Any = None) -> Iterator[Item]:
        """See ``Source.read``."""
        return settle(self.name, read_hdf5(self.path, mark, self.names, self.group), mark, self.names)


def read_hdf5(path: Path, mark: Any, names: TypeNames, group: str = "/") -> Iterator[Item]:
    """The frames of all systems of a file, in the order of their names; see ``Hdf5Source``.

    Raises:
        StructureError: a system is damaged. Damaged: there is none, or the file is no HDF5.
    """
    done, first, within = (0, 0, None) if mark is None else mark
    try:
        file = h5py.File(path, "r")
    except OSError as error:
        raise Damaged(f"is no HDF5 file that can be read: {error}") from None
    with file:
        top = file.get(group)
        found = _systems(top) if isinstance(top, h5py.Group) else []
        if not found:
            raise Damaged(f"holds no DeePMD-kit system (a group with type.raw and set.*) in {group}")
        for number, system in enumerate(found[first:], start=first):
            label = f"{path}#{system.name}"
            try:
                for item in items_of(label, Group(system, label), within, names):
                    done += 1
                    share = (number + item.share) / len(found)
                    yield Item(label, done - 1, item.atoms, None, [done, number, item.mark], share, told=item.told)
            except (StructureError, OSError) as error:  # the other systems are none the worse
                yield Item(label, -1, None, f"cannot be read: {error}", [done, number + 1, None])
            within = None


def _systems(group: Any) -> list[Any]:
    """The systems in a group, in the order of their names; through links of the file's own only once."""
    if isinstance(group.get("type.raw", getlink=True), h5py.HardLink):
        return [group]
    out: list[Any] = []
    seen: set[Any] = {group}
    waiting = [group]
    while waiting:
        here = waiting.pop()
        for name in sorted(here, reverse=True):
            if not isinstance(here.get(name, getlink=True), h5py.HardLink):
                continue
            below = here[name]
            if not isinstance(below, h5py.Group) or below in seen:
                continue
            seen.add(below)
            if "type.raw" in below:
                out.append(below)
            else:
                waiting.append(below)
    return sorted(out, key=lambda system: str(system.name))
