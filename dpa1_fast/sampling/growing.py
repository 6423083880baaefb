"""Files of rows whose number nobody knows beforehand: ``.npy`` whose header is written last, and HDF5."""

from __future__ import annotations

import os
import struct
from pathlib import Path
from typing import Any

import h5py
import numpy as np
from numpy.typing import NDArray

Rows = NDArray[Any]
HEADER = 128
"""Bytes that are left free for numpy's header."""


class GrowingNpy:
    """A ``.npy`` file of rows of one width, which is there whole or not at all.

    Args:
        path: the file. width: numbers of a row. dtype: of them.
    """

    def __init__(self, path: Path, width: int, dtype: Any) -> None:
        self.path, self.width, self.dtype = path, width, np.dtype(dtype).newbyteorder("<")
        self.rows = 0
        self._partial = path.with_name(f"{path.name}.partial")
        self._file = self._partial.open("wb")
        self._file.write(bytes(HEADER))

    def append(self, rows: Rows) -> None:
        """Writes rows (r, width)."""
        self._file.write(np.ascontiguousarray(rows, self.dtype).tobytes())
        self.rows += len(rows)

    def finish(self, *shape: int) -> None:
        """Gives the file its name, as an array of that shape, by default (rows, width)."""
        head = {"descr": self.dtype.str, "fortran_order": False, "shape": shape or (self.rows, self.width)}
        text = repr(head).encode().ljust(HEADER - 11) + b"\n"  # behind magic, version and length
        self._file.seek(0)
        self._file.write(np.lib.format.magic(1, 0) + struct.pack("<H", len(text)) + text)
        self._file.close()
        os.replace(self._partial, self.path)

    def drop(self) -> None:
        """Leaves nothing behind."""
        self._file.close()
        self._partial.unlink(missing_ok=True)


def append(file: h5py.File, name: str, rows: Any, dtype: Any = None) -> None:
    """Adds rows to a data set of an HDF5 file, which is made where it is not there."""
    rows = np.asarray(rows, dtype)
    if name not in file:
        kind = h5py.string_dtype() if dtype is object else rows.dtype
        file.create_dataset(name, (0, *rows.shape[1:]), kind, maxshape=(None, *rows.shape[1:]), chunks=True)
    data = file[name]
    data.resize(len(data) + len(rows), axis=0)
    data[len(data) - len(rows) :] = rows
