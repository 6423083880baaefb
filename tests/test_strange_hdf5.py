"""HDF5 files from strangers: odd data sets, and any value at any place of DeePMD-kit's tree; one clear line each."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
from conftest import DATA
from test_strange_files import refused

from dpa1_fast.checkpoint import read_model
from dpa1_fast.errors import ModelFileError

pytestmark = pytest.mark.usefixtures("quiet")

PLACE = "variable_0000"


def soft(file: h5py.File) -> None:
    file[PLACE] = h5py.SoftLink("/variable_0001")


def external(file: h5py.File) -> None:
    file[PLACE] = h5py.ExternalLink("/etc/passwd", "/x")


def compound(file: h5py.File) -> None:
    file[PLACE] = np.zeros(2, dtype=[("a", "f8"), ("b", "i4")])


def group(file: h5py.File) -> None:
    file.create_group(PLACE)


def empty(file: h5py.File) -> None:
    file[PLACE] = h5py.Empty("f8")


def unwritten(file: h5py.File) -> None:
    file.create_dataset(PLACE, shape=(10**6, 10**6), dtype="f8")


def packed(file: h5py.File) -> None:
    file.create_dataset(PLACE, data=np.zeros(50_000_000 // 8), compression="gzip")


def virtual(file: h5py.File) -> None:
    layout = h5py.VirtualLayout(shape=(2,), dtype="f8")
    layout[:] = h5py.VirtualSource("other.h5", "x", shape=(2,))
    file.create_virtual_dataset(PLACE, layout)


def elsewhere(file: h5py.File) -> None:
    file.create_dataset(PLACE, shape=(2,), dtype="f8", external=[("/etc/passwd", 0, 16)])


def objects(file: h5py.File) -> None:
    file[PLACE] = ["a", "b"]


@pytest.mark.parametrize(
    "change", [soft, external, compound, group, empty, unwritten, packed, virtual, elsewhere, objects]
)
def test_odd_data_sets(change: Callable[[h5py.File], None], tmp_path: Path) -> None:
    path = tmp_path / "m.dp"
    path.write_bytes((DATA / "concat_hard.dp").read_bytes())
    with h5py.File(path, "a") as file:
        del file[PLACE]
        change(file)
    assert "out_bias" in refused(path)


@pytest.mark.parametrize(
    "value", [5, None, "[", "{}", b"\xff\xfe", [1, 2], '{"model": []}', '{"model": {"model_dict": 3}}']
)
def test_attributes_that_are_no_tree(value: Any, tmp_path: Path) -> None:
    with h5py.File(tmp_path / "m.dp", "w") as file:
        file.attrs["json"] = h5py.Empty("f8") if value is None else value
    refused(tmp_path / "m.dp")


def trees() -> Iterator[tuple[str, Any]]:
    """The tree of a sound model with one thing in it replaced, each place by each kind of value."""
    with h5py.File(DATA / "concat_hard.dp") as file:
        text = file.attrs["json"]

    def places(node: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
        yield path
        if isinstance(node, dict):
            for key, value in node.items():
                yield from places(value, (*path, key))
        elif isinstance(node, list) and node:
            yield from places(node[0], (*path, 0))

    for n, place in enumerate(p for p in places(json.loads(text)["model"]) if p):
        tree = json.loads(text)
        node = tree["model"]
        for key in place[:-1]:
            node = node[key]
        node[place[-1]] = (5, "x", [], {}, None, [[3]], {"a": [1]}, -1, 1e308, True)[n % 10]
        yield "/".join(map(str, place)), tree


def test_any_value_at_any_place_of_the_tree(tmp_path: Path) -> None:
    data = (DATA / "concat_hard.dp").read_bytes()
    seen = 0
    for _, tree in trees():
        (tmp_path / "m.dp").write_bytes(data)
        with h5py.File(tmp_path / "m.dp", "a") as file:
            file.attrs["json"] = json.dumps(tree)
        try:
            read_model(tmp_path / "m.dp")
        except ModelFileError:
            seen += 1
    assert seen > 50
