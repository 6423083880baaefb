"""What every source of structures promises: all of them, in order, from any mark, whatever is wrong with some."""

from __future__ import annotations

import io
import json
import math
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from ase.build import bulk
from ase.io import write
from source_cases import (
    KINDS,
    STRUCTURES,
    TYPE_MAP,
    compressed,
    damaged_xyz,
    database,
    extxyz,
    lmdb_set,
    npy,
    optimade_answer,
    optimade_lines,
    the_same,
    trajectory,
)

from dpa1_fast.sources import Item, Source, SourceError, find_sources


@pytest.fixture(params=KINDS, ids=lambda make: make.__name__)
def kind(request: pytest.FixtureRequest, tmp_path: Path) -> tuple[Source, str]:
    [source] = find_sources([request.param(tmp_path)], TYPE_MAP)
    return source, KINDS[request.param]


def test_every_structure_in_order_and_every_fault_in_its_place(kind: tuple[Source, str]) -> None:
    source, frames = kind
    items = list(source.read())
    assert " ".join(f"{i.frame}{'' if i.error is None else '!'}" for i in items) == frames
    assert all((i.atoms is None) == (i.error is not None) and i.source == source.name for i in items)
    assert all("\n" not in str(i.error) for i in items)


def test_reading_goes_on_from_any_mark(kind: tuple[Source, str]) -> None:
    source, _ = kind
    items = list(source.read())
    for k, item in enumerate(items[:-1]):
        rest = list(source.read(json.loads(json.dumps(item.mark))))
        assert len(rest) == len(items) - k - 1
        assert all(map(the_same, rest, items[k + 1 :]))


def test_the_last_item_is_the_end(kind: tuple[Source, str]) -> None:
    *before, last = kind[0].read()
    assert (last.mark, last.share) == (None, 1.0)
    shares = [item.share for item in before if not math.isnan(item.share)]
    assert shares == sorted(shares)
    assert all(0 <= share <= 1 for share in shares)


def test_a_fingerprint_changes_with_the_content_and_with_nothing_else(kind: tuple[Source, str]) -> None:
    source, _ = kind
    before = source.fingerprint()
    list(source.read())
    assert source.fingerprint() == before != ""
    path = Path(source.name.split(":")[-1])
    path = next((path / name for name in ("data.mdb", "set.001/coord.npy") if (path / name).exists()), path)
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)
    assert source.fingerprint() != before


@pytest.mark.parametrize("make", [extxyz, trajectory, optimade_answer, compressed], ids=lambda make: make.__name__)
def test_structures_come_out_as_they_went_in(make: Callable[[Path], str], tmp_path: Path) -> None:
    [source] = find_sources([make(tmp_path)], TYPE_MAP)
    for item, atoms in zip(source.read(), STRUCTURES, strict=True):
        assert list(item.atoms.symbols) == list(atoms.symbols)
        assert np.abs(item.atoms.positions - atoms.positions).max() < 1e-8
        assert np.abs(item.atoms.cell[:] - atoms.cell[:]).max() < 1e-8
        assert (item.atoms.pbc == atoms.pbc).all()


@pytest.mark.parametrize("make", [extxyz, damaged_xyz, optimade_lines, optimade_answer], ids=lambda m: m.__name__)
def test_a_pipe_is_read_like_a_file(
    make: Callable[[Path], str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = make(tmp_path)
    content = b"\n \n" + Path(path).read_bytes()
    [pipe] = find_sources(["-"], TYPE_MAP)
    assert pipe.fingerprint() == ""

    def read(mark: Any = None) -> list[Item]:
        monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BufferedReader(io.BytesIO(content))))
        return list(pipe.read(mark))

    items, expected = read(), list(find_sources([path], TYPE_MAP)[0].read())
    assert [(i.frame, i.error, i.atoms) for i in items] == [(i.frame, i.error, i.atoms) for i in expected]
    for k, item in enumerate(items[:-1]):
        assert all(map(the_same, read(item.mark), items[k + 1 :]))


def test_a_pattern_is_sorted_and_a_folder_is_what_is_in_it(tmp_path: Path) -> None:
    for name in ("b", "a"):
        write(tmp_path / f"{name}.vasp", bulk("Al"), format="vasp")
        (tmp_path / "data" / name).mkdir(parents=True)
        npy(tmp_path / "data" / name)
    lmdb_set(tmp_path / "data")
    names = [source.name for source in find_sources([f"{tmp_path}/*.vasp", f"{tmp_path}/data"], TYPE_MAP)]
    expected = ["a.vasp", "b.vasp", "data/a/system", "data/a.lmdb", "data/b/system"]
    assert names == [str(tmp_path / name) for name in expected]


@pytest.mark.parametrize(
    ("argument", "reason"),
    [
        ("none-*.xyz", "none-\\*.xyz: no such file"),
        ("empty", "without DeePMD-kit data"),
        ("dpdata:no/such:here", "no/such"),
    ],
)
def test_an_argument_without_structures_is_named(
    argument: str, reason: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "empty").mkdir()
    (tmp_path / "here").touch()
    with pytest.raises(SourceError, match=reason):
        find_sources([argument], TYPE_MAP)


def test_an_lmdb_without_its_package_says_what_to_install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "lmdb", None)
    (tmp_path / "data.mdb").touch()
    with pytest.raises(SourceError, match=r"pip install 'dpa1-fast\[dpdata\]'"):
        find_sources([str(tmp_path)], TYPE_MAP)


def test_a_name_that_is_not_utf8_is_a_name(tmp_path: Path) -> None:
    path = Path(os.fsdecode(os.fsencode(tmp_path) + b"/caf\xe9.extxyz"))
    path.write_bytes(Path(extxyz(tmp_path)).read_bytes())
    [source] = find_sources([f"{tmp_path}/caf*"], TYPE_MAP)
    assert os.fsencode(source.name) == os.fsencode(path)
    assert [i.error for i in source.read()] == [None] * 5
    database(tmp_path)
    os.rename(tmp_path / "a.db", os.fsencode(tmp_path) + b"/\xe9.db")
    [source] = find_sources([os.fsdecode(os.fsencode(tmp_path) + b"/\xe9.db")], TYPE_MAP)
    assert [i.error for i in source.read()] == [None] * 4
