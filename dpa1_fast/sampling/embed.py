"""Descriptors of every atom of a pool, to files: one ``.npy`` a system as ``dp eval-desc`` writes, or one HDF5 file."""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Protocol

import h5py
import numpy as np
import torch
from numpy.typing import NDArray

from ..config import DPA1Config
from ..engine import Engine
from ..errors import DPA1Error, StructureError
from ..features import Features
from ..printable import name_of
from ..sources import Source
from ..structures.structure import from_ase
from .growing import GrowingNpy, append
from .pool import FAILURES, Failures, Member, evaluated, members

Array = NDArray[np.float64]
HDF5 = (".h5", ".hdf5")
DTYPES = ("float32", "float64")
AT_ONCE = 4096
"""Rows that are kept back before they are written to HDF5."""


class OutputError(DPA1Error, ValueError):
    """A place where nothing can be written."""


@dataclass
class Counted:
    """What came of a pool: structures and atoms that were embedded, files, and how many failed."""

    structures: int = 0
    atoms: int = 0
    failed: int = 0
    files: int = 0


class Writer(Protocol):
    """Takes descriptors in, structure by structure."""

    def add(self, member: Member, rows: Array, types: NDArray[np.int64]) -> None:
        """Rows of one structure (n, D), or (1, D) where means are wanted."""
        ...

    def failed(self, member: Member) -> None:
        """A structure without rows."""
        ...

    def finish(self) -> int:
        """Puts everything under its name. Returns how many files there are."""
        ...

    def drop(self) -> None:
        """Leaves nothing half done behind."""
        ...


def embed(
    engine: Engine, sources: Sequence[Source], output: Path, dtype: str = "float64", mean: bool = False
) -> tuple[Counted, Failures]:
    """Writes the descriptors of a pool.

    Args:
        output: a folder, or a file whose name ends in .h5 or .hdf5. mean: one row a structure, the mean of its atoms.

    Raises:
        OutputError: ``output`` is something else.
    """
    config, counted = engine.config, Counted()
    in_one = output.suffix in HDF5
    if output.exists() and output.is_dir() == in_one:
        raise OutputError(f"{output}: is a {'folder' if in_one else 'file'}; choose another --output")
    folder = output.parent if in_one else output
    folder.mkdir(parents=True, exist_ok=True)
    writer: Writer = Hdf5Writer(output, config, dtype) if in_one else NpyWriter(output, sources, config, dtype, mean)
    # Beside one file there may be somebody else's failures.csv.
    table = Failures(folder, f"{output.stem}.{FAILURES}") if in_one else Failures(folder)
    with table as failures, _whole(writer):
        for member, found in evaluated(members(sources), engine.stream_features):
            if isinstance(found, StructureError):
                failures.add(member, found.reason)
                writer.failed(member)
                continue
            types = from_ase(config, member.item.atoms, "").types
            writer.add(member, _rows(found, types, mean), types)
            counted.structures += 1
            counted.atoms += len(types)
        counted.failed, counted.files = failures.count, writer.finish()
    return counted, failures


def type_embedding(engine: Engine) -> Array:
    """The embedding of each type (ntypes, tebd_dim), float64."""
    with torch.no_grad():
        table: Array = engine._model.set_dtype(torch.float64).type_table().cpu().numpy()
    return table


def _rows(found: Features, types: NDArray[np.int64], mean: bool) -> Array:
    return found.descriptor[types >= 0].mean(0, keepdims=True) if mean else found.descriptor


@dataclass
class _whole:
    writer: Writer

    def __enter__(self) -> None:
        return None

    def __exit__(self, kind: type[BaseException] | None, _: BaseException | None, __: TracebackType | None) -> None:
        if kind is not None:
            self.writer.drop()


class NpyWriter:
    """One file a system: (frames, atoms, D) where all frames have as many atoms; else all rows one after another,
    and beside it ``NAME.natoms.npy`` (frames,) with how many of them each frame has, 0 where it failed.

    Args:
        folder: where. sources: whose systems. mean: rows are of structures: (frames, D).
    """

    def __init__(self, folder: Path, sources: Sequence[Source], config: DPA1Config, dtype: str, mean: bool) -> None:
        self.folder, self.width, self.dtype, self.mean = folder, config.dim_descrpt, dtype, mean
        self._sources = [source.name for source in sources]
        self.names = file_names(self._sources)
        self._taken = set(self.names)
        self._of_what: tuple[int, str] | None = None
        self._file: GrowingNpy | None = None
        self._sizes: list[int] = []
        self._written = 0

    def add(self, member: Member, rows: Array, types: NDArray[np.int64]) -> None:
        """See ``Writer``."""
        self._of(member).append(rows)
        self._sizes.append(len(rows))

    def failed(self, member: Member) -> None:
        """See ``Writer``."""
        self._of(member)
        if member.item.frame >= 0:
            self._sizes.append(0)

    def _of(self, member: Member) -> GrowingNpy:
        """The file of the member's system; those of systems before it are done."""
        what = member.source, member.item.source
        if self._file is None or what != self._of_what:
            self._close()
            self._of_what = what
            self._file = GrowingNpy(self.folder / f"{self._name(*what)}.npy", self.width, self.dtype)
        return self._file

    def _name(self, source: int, system: str) -> str:
        """What the file of a system is called: as its source, and what an archive or HDF5 file calls it besides."""
        given = self._sources[source]
        within = system[len(given) :].strip("#/") if system.startswith(given) else ""
        if not within:
            return self.names[source]
        return free(f"{self.names[source]}__{plain(Path(within).with_suffix('').parts)}", self._taken)

    def _close(self) -> None:
        if self._file is None:
            return
        sizes, beside = self._sizes, self._file.path.with_suffix(".natoms.npy")
        alike = bool(sizes) and len(set(sizes)) == 1 and sizes[0] > 0
        beside.unlink(missing_ok=True)
        if alike and not self.mean:
            self._file.finish(len(sizes), sizes[0], self.width)
        else:
            self._file.finish()
        if not alike:
            np.save(beside, np.array(sizes, np.int64))
        self._file, self._sizes = None, []
        self._written += 1

    def finish(self) -> int:
        """See ``Writer``."""
        self._close()
        return self._written

    def drop(self) -> None:
        """See ``Writer``."""
        if self._file is not None:
            self._file.drop()


class Hdf5Writer:
    """One file: ``descriptor`` (rows, D), ``type`` (atoms,) index into ``type_map``, and for each structure that could
    be done ``rows``, ``natoms``, ``index`` in the input, ``source`` and ``frame``.
    """

    def __init__(self, path: Path, config: DPA1Config, dtype: str) -> None:
        self.path, self.dtype = path, dtype
        self._partial = path.with_name(f"{path.name}.partial")
        self.file = h5py.File(self._partial, "w")
        self.file["type_map"] = np.array(config.type_map, h5py.string_dtype())
        self._rows: list[Array] = [np.zeros((0, config.dim_descrpt))]
        self._types: list[NDArray[np.int64]] = [np.zeros(0, np.int64)]
        self._about: list[tuple[int, int, int, str, int]] = []
        self._waiting = 0
        self._flush()

    def add(self, member: Member, rows: Array, types: NDArray[np.int64]) -> None:
        """See ``Writer``."""
        self._rows.append(rows)
        self._types.append(types)
        item = member.item
        self._about.append((len(rows), len(types), member.index, name_of(item.source), item.frame))
        self._waiting += len(rows)
        if self._waiting >= AT_ONCE:
            self._flush()

    def failed(self, member: Member) -> None:
        """See ``Writer``."""

    def _flush(self) -> None:
        append(self.file, "descriptor", np.concatenate(self._rows), self.dtype)
        append(self.file, "type", np.concatenate(self._types))
        columns = list(zip(*self._about, strict=True)) if self._about else [()] * 5
        for name, values in zip(("rows", "natoms", "index", "source", "frame"), columns, strict=True):
            append(self.file, name, np.array(values, object if name == "source" else np.int64),
                   object if name == "source" else None)  # fmt: skip
        self._rows, self._types, self._about, self._waiting = self._rows[:1], self._types[:1], [], 0
        self._rows[0], self._types[0] = self._rows[0][:0], self._types[0][:0]

    def finish(self) -> int:
        """See ``Writer``."""
        self._flush()
        self.file.close()
        os.replace(self._partial, self.path)
        return 1

    def drop(self) -> None:
        """See ``Writer``."""
        self.file.close()
        self._partial.unlink(missing_ok=True)


def file_names(names: Sequence[str]) -> list[str]:
    """What the files of sources are called: as much of the end of each path as tells them apart."""
    paths = [tuple(p for p in _named(name_of(n)).with_suffix("").parts if p not in ("/", "..")) for n in names]
    depth = 1
    while depth < max(map(len, paths), default=1) and len({p[-depth:] for p in paths}) < len(set(paths)):
        depth += 1
    taken: set[str] = set()
    return [free(plain(p[-depth:]) or "structures", taken) for p in paths]


def _named(given: str) -> Path:
    """The path, with the name that a folder has which was given as ``.`` or ``..``."""
    path = Path(given)
    return path if path.name.strip(".") else Path(os.path.abspath(path))


def plain(parts: Sequence[str]) -> str:
    """A file's name of the parts of a path."""
    return re.sub(r"[^\w.+-]", "_", "__".join(parts))


def free(name: str, taken: set[str]) -> str:
    """The name, with a number behind it where it is taken; it is taken then."""
    number, out = 1, name
    while out in taken:
        number += 1
        out = f"{name}-{number}"
    taken.add(out)
    return out


def write_types(engine: Engine, output: Path, dtype: Any) -> str:
    """Adds the type embeddings: ``type_embedding.npy`` with ``type_map.raw``, or a data set. Returns where."""
    table = type_embedding(engine).astype(dtype)
    if output.suffix in HDF5:
        with h5py.File(output, "a") as file:
            file["type_embedding"] = table
        return f"{output}#type_embedding"
    np.save(output / "type_embedding.npy", table)
    (output / "type_map.raw").write_text("\n".join(engine.config.type_map) + "\n", encoding="utf-8")
    return str(output / "type_embedding.npy")
