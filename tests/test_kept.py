"""Ids of the data set are in the summary and every output, and so is what --keep names; ours never replace them."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
from ase import Atoms
from ase.db import connect
from ase.io import read, write
from screening import MODEL, alloys, everything, rows, screen

from dpa1_fast import screen as screen_here
from dpa1_fast.screening import blocks, kept

CRYSTAL = {"numbers": [13, 29], "positions": [[0, 0, 0], [2, 2, 2]], "cell": (np.eye(3) * 4).tolist()}


def job(tmp_path: Path, infos: list[dict[str, Any]], **options: Any) -> list[dict[str, Any]]:
    atoms = alloys(len(infos))
    for one, info in zip(atoms, infos, strict=True):
        one.info = info
    write(tmp_path / "in.traj", atoms)
    screen_here(tmp_path / "in.traj", MODEL, tmp_path / "out", write=("extxyz", "hdf5", "db"), report=False, **options)
    return rows(tmp_path / "out")


@pytest.mark.parametrize("key", kept.IDS)
def test_an_id_under_any_of_its_usual_names_is_a_column(key: str, tmp_path: Path) -> None:
    table = job(tmp_path, [{key: "mp-149"}, {}, {key: "mp-150"}])
    assert [r[key] for r in table] == ["mp-149", None, "mp-150"]
    assert [name for name in kept.IDS if name in table[0]] == [key]
    with h5py.File(tmp_path / "out" / "results.h5") as file:
        assert [x.decode() for x in file[f"kept/{key}"][()]] == ["mp-149", "", "mp-150"]
    with connect(tmp_path / "out" / "results.db") as db:
        stored = list(db.select())
    assert [r.data.get("kept", {}) for r in stored] == [{key: "mp-149"}, {}, {key: "mp-150"}]
    assert "mp-149" in stored[0].key_value_pairs.values()
    frames = read(tmp_path / "out" / "results.extxyz", ":")
    assert [f.info.get(key) for f in frames] == ["mp-149", None, "mp-150"]


def test_a_column_has_the_type_of_what_is_in_it(tmp_path: Path) -> None:
    infos = [
        {"id": 7, "gap": 1, "flag": True, "mix": "007", "task_id": np.int64(3), "note": {"a": [1, None]}},
        {"id": 8, "gap": 0.5, "mix": 7, "task_id": 2**70, "note": "x\ny"},
        {"id": -9, "gap": np.float32(2.5), "flag": np.bool_(False), "mix": None},
    ]
    table = job(tmp_path, infos, keep=("gap", "flag", "mix", "note", "nothing"))
    assert [r["id"] for r in table] == [7, 8, -9]
    assert [r["gap"] for r in table] == [1.0, 0.5, 2.5]
    assert [r["flag"] for r in table] == [True, None, False]
    assert [r["mix"] for r in table] == ["007", "7", None]
    assert [r["task_id"] for r in table] == ["3", str(2**70), None]
    assert [r["note"] for r in table] == ['{"a": [1, null]}', "x\ny", None]
    assert [r["nothing"] for r in table] == [None] * 3


def test_a_key_that_is_a_column_of_ours_does_not_replace_it_nor_is_it_replaced(tmp_path: Path) -> None:
    infos = [{"volume": 5.0, "status": "seen", "index": 70, "forces": "dft", "devi_e": 2.0}]
    (row,) = job(tmp_path, infos, keep=("volume", "status", "index", "forces", "devi_e"))
    mine = {k: row[f"given_{k}"] for k in ("volume", "status", "index", "forces", "devi_e")}
    assert mine == infos[0]
    assert (row["index"], row["status"]) == (0, "ok")
    assert row["volume"] != 5.0


def test_ids_from_json_a_database_and_a_comment_line_of_failed_ones_too(tmp_path: Path) -> None:
    lines = [{"material_id": "m-1", "structure": CRYSTAL}, {"id": 17, **CRYSTAL}, {"identifier": "x y", **CRYSTAL}]
    (tmp_path / "a.jsonl").write_text("\n".join(map(json.dumps, lines)), encoding="utf-8")
    with connect(tmp_path / "b.db") as db:
        db.write(Atoms("AlCu", [[0, 0, 0], [0, 0, 2.6]]), material_id="m-2")
    platinum = Atoms("AlPt", [[0, 0, 0], [0, 0, 2.6]], info={"mp_id": "mp-126"})
    write(tmp_path / "c.extxyz", platinum)
    done = screen("a.jsonl", "b.db", "c.extxyz", "-m", MODEL, "-o", "out", "--no-report", cwd=tmp_path)
    assert done.returncode == 1, done.stderr
    table = rows(tmp_path / "out")
    assert [r["material_id"] for r in table] == ["m-1", None, None, "m-2", None]
    assert table[1]["id"] in (17, "17")
    assert table[2]["identifier"] == "x y"
    assert (table[4]["mp_id"], table[4]["status"]) == ("mp-126", "failed")
    with (tmp_path / "out" / "failures.csv").open(encoding="utf-8", newline="") as file:
        (failure,) = csv.DictReader(file)
    assert failure["mp_id"] == "mp-126"


def test_an_interrupted_job_keeps_them_all_the_same(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Kinds seen before the interruption count: a column that was text stays text."""
    from dpa1_fast.screening import journal

    monkeypatch.setattr(blocks, "STRUCTURES", 2)
    infos = [{"id": "one"}, *({"id": k} for k in range(7))]
    expected = job(tmp_path, infos)
    whole = everything_but_kept(tmp_path / "out")
    assert [r["id"] for r in expected] == ["one", *map(str, range(7))]
    (tmp_path / "out").rename(tmp_path / "whole")
    real = journal.Journal.commit

    def commit(self: journal.Journal, *args: Any, **told: Any) -> None:
        if len(self.blocks) == 2:
            raise KeyboardInterrupt
        real(self, *args, **told)

    with monkeypatch.context() as patch:
        patch.setattr(journal.Journal, "commit", commit)
        with pytest.raises(KeyboardInterrupt):
            job(tmp_path, infos)
    assert job(tmp_path, infos) == expected
    assert everything_but_kept(tmp_path / "out") == whole


def everything_but_kept(folder: Path) -> dict[str, Any]:
    with h5py.File(folder / "results.h5", "r+") as file:
        texts = [x.decode() for x in file["kept/id"][()]]
        del file["kept"]
    return everything(folder) | {"texts": texts}


def test_other_keys_to_keep_are_another_job(tmp_path: Path) -> None:
    from dpa1_fast.screening.journal import JobError

    job(tmp_path, [{"id": 1}])
    with pytest.raises(JobError, match="keep: nothing then"):
        job(tmp_path, [{"id": 1}], keep=("gap",))
