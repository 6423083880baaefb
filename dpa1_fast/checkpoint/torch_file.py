"""The two containers of ``torch.save``: the zip archive, and the stream of pickles that torch wrote before 1.6."""

from __future__ import annotations

import io
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from ..errors import ModelFileError
from . import archive, inert
from .inert import StorageRecord, TensorRecord
from .parsing import parsing
from .raw import Stored

PICKLE_BYTES = 64_000_000
"""Longest pickle that is read; DeePMD-kit's longest take some 100 kB."""
AGAIN = "copy or download it again"


@dataclass
class TorchFile:
    """An open file of torch.

    Attributes:
        content: what was saved, as plain data (see ``inert``). nbytes: of the file, unpacked.
    """

    path: Path
    content: Any
    nbytes: int
    size: Callable[[str], int]
    fetch: Callable[[str], bytes]
    storages: dict[str, torch.Tensor] = field(default_factory=dict)

    def stored(self, record: TensorRecord) -> Stored:
        """A tensor of the file, to be read when it is needed."""
        return Stored(record.shape, record.storage.dtype, lambda: self._tensor(record))

    def _tensor(self, record: TensorRecord) -> torch.Tensor:
        storage = self._storage(record.storage)
        if not record.storage.numel or 0 in record.shape:
            return torch.empty(record.shape, dtype=storage.dtype)
        return storage.as_strided(record.shape, record.stride, record.offset)

    def _storage(self, record: StorageRecord) -> torch.Tensor:
        dtype: torch.dtype = getattr(torch, record.dtype)
        if record.key not in self.storages:
            size, wanted = self.size(record.key), record.numel * dtype.itemsize
            if size != wanted:
                told = f"holds {size:,} bytes of numbers where its table of contents says {wanted:,}"
                raise ModelFileError(self.path, told, AGAIN)
            data = bytearray(self.fetch(record.key))
            if len(data) != wanted:
                raise ModelFileError(self.path, "holds fewer numbers than its table of contents says", AGAIN)
            self.storages[record.key] = torch.frombuffer(data, dtype=torch.uint8) if data else torch.empty(0).byte()
        storage = self.storages[record.key]
        return storage.view(dtype)[: record.numel]


@contextmanager
def opened_archive(path: Path) -> Iterator[TorchFile]:
    """A zip archive of torch or TorchScript.

    Raises:
        ModelFileError: damaged, or it names something that could run code.
    """
    with archive.opened(path) as file:
        pickled = next((n for n in file.names if n.endswith("/data.pkl")), None)
        if pickled is None:
            raise ModelFileError(path, "is a zip archive without torch's data.pkl", AGAIN)
        folder = pickled[: -len("/data.pkl")]
        order = f"{folder}/byteorder"
        if order in file.names and file.read(order, 100) != b"little":
            raise ModelFileError(path, "was written on a big-endian machine", "write it again on a common one")

        def size(key: str) -> int:
            name = f"{folder}/data/{key}"
            return file.size(name) if name in present else -1

        present = set(file.names)
        content = inert.load(path, io.BytesIO(file.read(pickled, PICKLE_BYTES)))
        yield TorchFile(path, content, file.nbytes, size, lambda key: file.read(f"{folder}/data/{key}"))


@contextmanager
def opened_legacy(path: Path) -> Iterator[TorchFile]:
    """A file of torch before 1.6: five pickles, then each storage as its length and its numbers.

    Raises:
        ModelFileError: damaged, or it names something that could run code.
    """
    with path.open("rb") as file:
        parts = [inert.load(path, file) for _ in range(5)]
        sizes, itemsizes = _storage_sizes(parts[3])
        end = path.stat().st_size
        places: dict[str, tuple[int, int]] = {}
        keys = parts[4] if isinstance(parts[4], list) else []
        for key in keys:
            length = int.from_bytes(file.read(8), "little")
            place = file.tell()
            size = sizes.get(key, -1) if isinstance(key, str) else -1
            if size < 0 or place + size > end or length * itemsizes.get(key, 0) != size:
                raise ModelFileError(path, "is damaged or cut short: a storage is not what is said of it", AGAIN)
            places[key] = (place, size)
            file.seek(size, io.SEEK_CUR)

        def fetch(key: str) -> bytes:
            start, size = places[key]
            file.seek(start)
            with parsing(path, "a file of torch"):
                return file.read(size)

        yield TorchFile(path, parts[3], end, lambda key: places[key][1] if key in places else -1, fetch)


def _storage_sizes(content: Any) -> tuple[dict[str, int], dict[str, int]]:
    """Bytes of each storage that tensors in ``content`` refer to, and of its numbers. Visits each container once."""
    sizes: dict[str, int] = {}
    itemsizes: dict[str, int] = {}
    todo, seen = [content], set()
    while todo:
        node = todo.pop()
        if isinstance(node, TensorRecord):
            key, itemsize = node.storage.key, getattr(torch, node.storage.dtype).itemsize
            sizes[key], itemsizes[key] = node.storage.numel * itemsize, itemsize
        elif isinstance(node, (dict, list, tuple)) and id(node) not in seen:
            seen.add(id(node))
            todo.extend(node.values() if isinstance(node, dict) else node)
    return sizes, itemsizes
