"""The three containers of DeePMD-kit's portable tree: HDF5, YAML, and JSON in a zip archive.

Each gives the tree as plain data, and a function that finds an array by what the tree says of it.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch

from ..errors import ModelFileError
from . import archive
from .parsing import REWRITE, parsing, shown
from .raw import Stored

FLOATS = ("float64", "float32", "float16")
NOT_A_MODEL = "give a DPA-1 model; data sets are evaluated with dpa1-fast screen"
TEXT_BYTES = 500_000_000
"""Longest YAML or JSON text that is parsed; a million numbers take 20 MB."""


class Tree(NamedTuple):
    """A portable model: the tree, how to find an array from what the tree says of it, and the bytes behind both."""

    data: Any
    array: Callable[[str, Any], Stored]
    nbytes: int


# --- HDF5 ----------------------------------------------------------------------------------------------------------


@contextmanager
def hdf5(path: Path) -> Iterator[Tree]:
    """A ``.dp`` file: the tree is JSON in an attribute, arrays are data sets.

    Raises:
        ModelFileError: damaged, or HDF5 of something else.
    """
    import h5py

    with parsing(path, "an HDF5 file"):
        file = h5py.File(path, "r")
    with file:
        with parsing(path, "an HDF5 file"):
            there = "json" in file.attrs
            groups = sorted(file)[:3] if not there else []
        if not there:
            told = (
                f"is an HDF5 file of data, not a model (no attribute 'json'; it holds {', '.join(groups) or 'nothing'})"
            )
            raise ModelFileError(path, told, NOT_A_MODEL)
        with parsing(path, "an HDF5 file, at its attribute 'json'"):
            size = file.attrs.get_id("json").get_storage_size()
            text: Any = file.attrs["json"] if size <= TEXT_BYTES else None
        if isinstance(text, bytes):
            text = text.decode("utf-8", "replace")
        if not isinstance(text, str):
            raise ModelFileError(path, "is an HDF5 file whose attribute 'json' is no text", NOT_A_MODEL)
        with parsing(path, "the JSON of a DeePMD-kit model"):
            tree = json.loads(text)
        yield Tree(tree, lambda name, value: _data_set(path, file, name, value), path.stat().st_size)


def _data_set(path: Path, file: Any, name: str, value: Any) -> Stored:
    """A data set of plain numbers in this file itself: no link that leads elsewhere, nothing to unpack."""
    import h5py

    def refusal(why: str) -> ModelFileError:
        return ModelFileError(path, f"cannot give the array {name}: {why}", REWRITE)

    if not isinstance(value, str):
        raise refusal(f"its place is {shown(value)}")
    with parsing(path, f"an HDF5 file, at {shown(value)}"):
        parts = [p for p in value.split("/") if p]
        node = file
        for part in parts:
            link = node.get(part, getlink=True) if isinstance(node, h5py.Group) else None
            node = node[part] if isinstance(link, h5py.HardLink) else None
        if not isinstance(node, h5py.Dataset):
            raise refusal(f"{shown(value)} is no data set of this file")
        plist, kind, shape = node.id.get_create_plist(), node.dtype, node.shape
        size, filters = node.id.get_storage_size(), plist.get_nfilters()
        outside = plist.get_external_count() if plist.get_layout() == h5py.h5d.CONTIGUOUS else 0
        virtual = plist.get_layout() == h5py.h5d.VIRTUAL
    if kind.name not in FLOATS or shape is None:
        raise refusal(f"it holds {kind.name}, not numbers of {', '.join(FLOATS)}")
    if filters or outside or virtual:
        raise refusal("it is compressed or stands in another file (h5repack -f NONE unpacks it)")
    if math.prod(shape) * kind.itemsize > max(size, 0):
        raise refusal(f"its shape is {tuple(shape)}, but only {size:,} bytes are there")

    def read() -> torch.Tensor:
        with parsing(path, f"an HDF5 file, at {shown(value)}"):
            array = np.asarray(node[()])
        return torch.from_numpy(np.ascontiguousarray(array.astype(array.dtype.newbyteorder("="))).reshape(shape))

    return Stored(tuple(shape), kind.name, read)


# --- texts ---------------------------------------------------------------------------------------------------------


@contextmanager
def yaml_text(path: Path) -> Iterator[Tree]:
    """A ``.yaml`` file. Aliases are read as what they are, references: a tree of them costs what its text costs.

    Raises:
        ModelFileError: no YAML, or tags of Python in it.
    """
    import yaml

    base: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)

    class Loader(base):  # type: ignore[misc, unused-ignore]
        """A safe loader without merge keys and numbers of base 60, whose cost grows faster than their text."""

        def flatten_mapping(self, node: Any) -> None:
            """Leaves merge keys alone; having no meaning, they are refused."""

        def construct_scalar(self, node: Any) -> Any:
            """The text of a scalar; a number's is short."""
            if node.tag in NUMBERS and len(node.value) > 400:
                raise yaml.constructor.ConstructorError(None, None, "a number of over 400 digits", node.start_mark)
            return super().construct_scalar(node)

    size = path.stat().st_size
    with parsing(path, "YAML"):
        if size > TEXT_BYTES:
            raise ModelFileError(path, f"is a text of {size:,} bytes, more than any model needs", REWRITE)
        data = yaml.load(path.read_text(encoding="utf-8"), Loader)  # noqa: S506 (a safe loader)
    yield Tree(data, lambda name, value: _inline(path, name, value, size), size)


NUMBERS = ("tag:yaml.org,2002:int", "tag:yaml.org,2002:float")


@contextmanager
def exported(path: Path) -> Iterator[Tree]:
    """A ``.pt2`` or ``.pte`` archive: the tree is JSON in a file of it.

    Raises:
        ModelFileError: damaged.
    """
    with archive.opened(path) as file:
        name = file.ending("model.json")
        if name is None:
            raise ModelFileError(path, "is a zip archive without model.json", NOT_A_MODEL)
        text = file.read(name, TEXT_BYTES)
    with parsing(path, "the JSON of an exported model"):
        data = json.loads(text)
    yield Tree(data, lambda name, value: _inline(path, name, value, len(text)), len(text))


def _inline(path: Path, name: str, value: Any, nbytes: int) -> Stored:
    """An array that stands in the text as nested lists."""

    def refusal(why: str) -> ModelFileError:
        return ModelFileError(path, f"cannot give the array {name}: {why}", REWRITE)

    if not isinstance(value, dict) or value.get("dtype") not in FLOATS:
        raise refusal(f"it is {shown(value)}, not numbers of {', '.join(FLOATS)}")
    shape: list[int] = []
    inner = value.get("value")
    while isinstance(inner, list) and len(shape) < 9:
        shape.append(len(inner))
        inner = inner[0] if inner else None
    count = math.prod(shape)
    if len(shape) > 8 or 2 * count > nbytes:
        raise refusal(f"its lists are nested to a shape of {tuple(shape)}, more than the file can hold")

    def read() -> torch.Tensor:
        flat = np.empty(count, dtype=np.float64)
        _fill(flat, value.get("value"), shape, refusal)
        return torch.from_numpy(flat.astype(value["dtype"]).reshape(shape))

    return Stored(tuple(shape), value["dtype"], read)


def _fill(out: np.ndarray, node: Any, shape: list[int], refusal: Callable[[str], ModelFileError]) -> None:
    """Nested lists into a flat array, each list of the length that the first of its kind has."""
    if not shape:
        if isinstance(node, bool) or not isinstance(node, (int, float)):
            raise refusal(f"it holds {shown(node)} where a number should be")
        if isinstance(node, int) and node.bit_length() > 1000:
            raise refusal("it holds an enormous integer")
        out[0] = node
        return
    if not isinstance(node, list) or len(node) != shape[0]:
        raise refusal("its rows differ in length")
    if len(shape) == 1:
        if not all(type(x) is float or (type(x) is int and x.bit_length() <= 1000) for x in node):
            raise refusal("it holds something else than numbers")
        out[:] = node
        return
    step = len(out) // max(shape[0], 1)
    for n, row in enumerate(node):
        _fill(out[n * step : (n + 1) * step], row, shape[1:], refusal)
