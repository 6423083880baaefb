"""What an output is: it grows block by block, can be brought back to any block, and takes its name when it is whole."""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

from ...engine import Result
from ...errors import DPA1Error
from ..folder import PARTS, remove


@dataclass
class Frame:
    """A structure with its results.

    Attributes:
        atoms: as read, or relaxed. result: of the (first) model. row: its line of the summary.
        descriptor: (n, D) or None.
    """

    atoms: Any
    result: Result
    row: dict[str, Any]
    descriptor: Any = None


@dataclass
class Written:
    """What is written of one block: a row for every structure, and the structures that could be done."""

    number: int
    rows: list[dict[str, Any]]
    frames: list[Frame] = field(default_factory=list)


class Sink(Protocol):
    """An output of a job. ``name`` is the file or folder that it ends as."""

    name: str

    def resume(self, state: Any) -> None:
        """Brings what is there back to ``state``, which ``append`` returned; None: to nothing."""
        ...

    def append(self, block: Written) -> Any:
        """Writes a block, durably when it returns. Returns the new state, a value that JSON keeps as it is."""
        ...

    def finish(self) -> None:
        """Puts the whole output under its name, at once. Does no harm when it is called again."""
        ...


class ChangedOutputError(DPA1Error, RuntimeError):
    """What a job has written is not there any more as it was left.

    Args:
        path: which output. what: what is wrong with it.
    """

    def __init__(self, path: Path, what: str) -> None:
        super().__init__(f"{path} {what}, so the job cannot go on from there; --overwrite begins it anew")


def owned(target: Path, state: Any) -> bool:
    """Whether a finished output is what its job left; one that a job that has done nothing finds is begun anew."""
    if state is None and target.exists():
        remove(target)
    return target.exists()


def durable(path: Path) -> None:
    """Makes sure that a file, or a folder's list of names, is on the disk."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def write_file(path: Path, data: bytes) -> None:
    """A file that is there whole or not at all, durably."""
    partial = path.with_name(f"{path.name}.partial")
    with partial.open("wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())
    os.replace(partial, path)
    durable(path.parent)


class Parts:
    """A folder of numbered parts, one a block, while an output grows.

    Args:
        folder: where. ending: of the parts.
    """

    def __init__(self, folder: Path, ending: str) -> None:
        self.folder, self.ending = folder, ending

    def path(self, number: int) -> Path:
        """Where part ``number`` is."""
        return self.folder / f"part-{number:07d}{self.ending}"

    def resume(self, count: int) -> None:
        """Deletes all parts but the first ``count``.

        Raises:
            ChangedOutputError: one of these is not there.
        """
        self.folder.mkdir(parents=True, exist_ok=True)
        keep = {self.path(k).name for k in range(count)}
        for path in self.folder.glob(PARTS):
            if path.name in keep:
                keep.remove(path.name)
            else:
                path.unlink()
        if keep:
            raise ChangedOutputError(self.folder / min(keep), "is gone, though the journal says that it was written")

    def write(self, number: int, data: bytes) -> int:
        """Writes part ``number``. Returns how many there are."""
        write_file(self.path(number), data)
        return number + 1

    def all(self) -> list[Path]:
        """The parts in order."""
        return sorted(self.folder.glob(f"part-*{self.ending}"))

    def remove(self) -> None:
        """Deletes the folder with its parts."""
        if self.folder.exists():
            remove(self.folder)
