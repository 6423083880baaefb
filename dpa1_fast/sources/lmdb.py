"""DeePMD-kit 3.2's LMDB data sets, a frame at a time.

A folder with ``data.mdb``: ``__metadata__`` and one record a frame, all msgpack, which holds data only. They are read
here and not by dpdata, which takes a whole set into memory and puts its frames and atoms into another order.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from ase import Atoms
from numpy.typing import NDArray

from .base import Item, SourceError, Told
from .deepmd_data import make_atoms
from .names import Kinds, TypeNames
from .reading import Damaged, content_hash, reason
from .settle import settle

NEEDED = "reading it takes packages that are not installed: pip install 'dpa1-fast[dpdata]'"

FIELDS = {  # both names of each, as DeePMD-kit takes them
    "coord": "coords",
    "box": "cells",
    "energy": "energies",
    "force": "forces",
    "virial": "virials",
    "atype": "atom_types",
}


def is_lmdb(folder: Path) -> bool:
    """Whether a folder is an LMDB data set."""
    return (folder / "data.mdb").is_file()


@dataclass(frozen=True)
class LmdbSource:
    """One LMDB data set. A mark is [structure].

    Attributes:
        names: what its types mean; the model's are for a data set that has none of its own.

    Raises:
        SourceError: the packages that read it are not installed.
    """

    folder: Path
    names: TypeNames

    def __post_init__(self) -> None:
        try:
            import lmdb  # noqa: F401
            import msgpack  # noqa: F401
        except ImportError:
            raise SourceError(f"{self.folder}: is an LMDB data set; {NEEDED}") from None

    @property
    def name(self) -> str:
        """The folder as it was given."""
        return str(self.folder)

    def fingerprint(self) -> str:
        """SHA-256 of the data file."""
        return content_hash([("", self.folder / "data.mdb")], labelled=False)

    def read(self, mark: Any = None) -> Iterator[Item]:
        """See ``Source.read``."""
        return settle(self.name, self._items(0 if mark is None else int(mark[0])), mark, self.names)

    def _items(self, done: int) -> Iterator[Item]:
        import lmdb

        with (
            lmdb.open(str(self.folder), readonly=True, lock=False, meminit=False) as environment,
            environment.begin(buffers=True) as transaction,
        ):
            meta = _unpack(transaction.get(b"__metadata__"), "__metadata__")
            count, key_format = meta.get("nframes"), meta.get("frame_idx_fmt", "012d")
            if not isinstance(count, int) or not re.fullmatch("0?[0-9]{0,2}d", str(key_format)):
                raise Damaged(f"its __metadata__ has nframes {count!r} and frame_idx_fmt {key_format!r}")
            there = environment.stat()["entries"] - 1
            if count > 2 * max(there, 1):
                raise Damaged(f"its __metadata__ promises {count} frames, {there} are there")
            own = meta.get("type_map")
            types = tuple(map(str, own)) if own else None if self.names.by_number else self.names.model
            for frame in range(done, count):
                atoms, told, error = None, None, None
                try:
                    key = format(frame, key_format)
                    atoms, kinds = _atoms(_unpack(transaction.get(key.encode()), f"record {key}"))
                    told = Told(kinds=Kinds(kinds, types))
                except (ValueError, TypeError, LookupError, AttributeError) as fault:
                    error = f"cannot be read: {reason(fault)}"
                yield Item(self.name, frame, atoms, error, [frame + 1], (frame + 1) / count, told=told)


def _unpack(record: Any, what: str) -> dict[str, Any]:
    import msgpack

    if record is None:
        raise Damaged(f"{what} is missing")
    try:
        value = msgpack.unpackb(record, raw=False)
    except (ValueError, msgpack.exceptions.UnpackException) as error:
        raise Damaged(f"{what} is damaged: {reason(error)}") from None
    if not isinstance(value, dict):
        raise Damaged(f"{what} is no mapping")
    return {_text(k): v for k, v in value.items()}


def _atoms(record: dict[str, Any]) -> tuple[Atoms, NDArray[np.int64]]:
    """A frame and its types; its atomic numbers are not set yet."""
    fields = {ours: _array(record[k]) for ours, theirs in FIELDS.items() for k in (theirs, ours) if k in record}
    if not {"atype", "coord"} <= fields.keys():
        raise Damaged("has no atom_types or no coords")
    atype, coord, box = fields["atype"].reshape(-1), fields["coord"], fields.get("box")
    if atype.dtype.kind not in "iu" or coord.size != 3 * len(atype):
        raise Damaged(f"has {coord.size} coordinates for {len(atype)} atoms, whose types are {atype.dtype}")
    labels = {k: fields.get(k) for k in ("energy", "force", "virial")}
    labels |= {k: _array(record[k]) for k in ("fparam", "aparam", "atom_ener") if record.get(k) is not None}
    if box is not None and not box.any():  # which is how DeePMD-kit takes it
        box = None
    return make_atoms(np.zeros(len(atype), int), coord, box, labels), atype.astype(np.int64)


def _array(value: Any) -> NDArray[Any]:
    """An array as DeePMD-kit packs it (type, shape, data; with keys of text or bytes), or a plain number or list."""
    if isinstance(value, dict):
        packed = {_text(k): v for k, v in value.items()}
        dtype = np.dtype(_text(packed["type"]))
        if dtype.kind not in "iufb":
            raise Damaged(f"holds an array of {dtype}")
        array = np.frombuffer(packed["data"], dtype)
        return array.reshape(packed["shape"]) if "shape" in packed else array
    return np.asarray(value, np.float64)


def _text(key: Any) -> str:
    return key.decode() if isinstance(key, bytes) else str(key)
