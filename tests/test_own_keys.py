"""Whatever a structure brings along, results.extxyz is read back by ASE, with the user's values in it."""

from __future__ import annotations

import io
import random
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from ase import Atoms
from ase.io import read, write
from screening import MODEL, alloys, rows

from dpa1_fast import screen as screen_here
from dpa1_fast.engine import Result
from dpa1_fast.screening.sinks import Frame
from dpa1_fast.screening.sinks.extxyz import write_frame

TEXTS = (
    "plain", "two words", "first\nsecond", "a\rb", "a\r\nb", "\ttab", "", " ", 'say "x" = y', "it's", "back\\slash",
    "ends with \\", "{brace", "[bracket]", "key=value", "007", "1 2 3", "T", "false", "nan", "1e5", "_JSON {",
    "2.5 Å ≠",    "\u2028", "\x00", "\udce9", "Lattice=\"1 0 0\"", "a,b", "结构", "4\nAl 0 0 0",
)  # fmt: skip
VALUES: tuple[Any, ...] = (
    None, True, False, 3, 10**30, -2.5, [1, 2], [1], [], [[1], [1, 2]], [1.5, None], ["a", "b\nc"], (1, "x"),
    {"a": [1, {"b": None}]}, {1: 2},
    np.float32(0.5), np.int64(7), np.bool_(True), np.arange(3), np.arange(1),
    np.zeros((2, 2)), np.eye(3),
    np.array(["x", "y z"]), np.array([None, 1], dtype=object), np.array([True, False]), np.array(5.0), b"bytes\xff",
    {1, 2}, 1j, object(), np.datetime64("2026-01-01"), float("nan"), float("inf"),
)  # fmt: skip
KEYS = (
    "note", "Lattice", "Properties", "pbc", "forces", "energy", "stress", "virial", "free_energy", "magmom", "index",
    "frame", "source", "a b", "ä", "1st", "x=y", 'q"q', "", "uid", "given_Lattice", "new\nline", "descriptor",
)  # fmt: skip


def written(atoms: Atoms) -> Atoms:
    """The structure as it stands in results.extxyz between two others, read back."""
    n = len(atoms)
    forces = np.arange(3.0 * n).reshape(n, 3) / 8
    result = Result(-1.5, forces, np.eye(3), np.arange(float(n)), 64.0)
    file = io.StringIO()
    plain = Atoms("Al", cell=[4, 4, 4], pbc=True)
    one = Result(0.0, np.zeros((1, 3)), np.zeros((3, 3)), np.zeros(1), 64.0)
    for k, (a, r) in enumerate(((plain, one), (atoms, result), (plain, one))):
        write_frame(file, Frame(a, r, {"index": k, "frame": k, "source": "a b.xyz"}))
    frames = read(io.StringIO(file.getvalue().encode("utf-8", "backslashreplace").decode()), ":", format="extxyz")
    assert len(frames) == 3
    back = frames[1]
    assert np.array_equal(back.get_forces(), forces)
    assert back.get_potential_energy() == -1.5
    assert np.array_equal(back.calc.results["energies"], np.arange(float(n)))
    assert np.allclose(back.positions, atoms.positions)
    assert np.allclose(back.cell[:], atoms.cell[:])
    assert back.pbc.tolist() == atoms.pbc.tolist()
    return back


def crystal() -> Atoms:
    return Atoms("AlCu", [[0, 0, 0], [2, 2, 2]], cell=[4, 4, 4.5], pbc=(True, True, False))


@pytest.mark.parametrize("text", [t for t in TEXTS if "\udce9" not in t])
def test_texts_are_read_as_they_were(text: str) -> None:
    atoms = crystal()
    atoms.info = {"before": "x", "note": text, "list": [text, text], "after": 3}
    info = written(atoms).info
    assert (info["before"], info["note"], info["after"]) == ("x", text, 3)
    assert list(info["list"]) == [text, text]


@pytest.mark.parametrize("value", VALUES, ids=lambda v: type(v).__name__)
def test_values_are_read_as_they_were_or_as_text(value: Any) -> None:
    atoms = crystal()
    atoms.info["note"] = value
    back = written(atoms).info["note"]
    if isinstance(value, list) and value == [[1], [1, 2]]:
        assert back == "[[1], [1, 2]]"
    elif isinstance(value, set | bytes | complex | np.datetime64) or type(value) is object or isinstance(value, dict):
        assert isinstance(back, dict | str | np.ndarray)
    elif isinstance(value, np.ndarray | list | tuple):
        assert np.asarray(back).tolist() == np.asarray(value).tolist()
    else:
        assert back == value or (back != back and value != value)


def test_keys_with_a_meaning_are_kept_under_another_name() -> None:
    atoms = crystal()
    atoms.info = {
        k: f"mine{k}" for k in ("Lattice", "Properties", "pbc", "forces", "energy", "virial", "given_Lattice")
    }
    info = written(atoms).info
    assert {info[f"given_{k}"] for k in ("pbc", "forces", "energy", "Properties")} == {
        "minepbc", "mineforces", "mineenergy", "mineProperties"
    }  # fmt: skip
    assert {"mineLattice", "minegiven_Lattice"} <= {v for v in info.values() if isinstance(v, str)}


def test_the_users_index_frame_and_source_are_not_overwritten() -> None:
    atoms = crystal()
    atoms.info = {"index": 99, "source": "paper", "virial": np.eye(3) * 7}
    info = written(atoms).info
    assert (info["index"], info["source"], info["virial"][0, 0]) == (99, "paper", 7)
    assert (info["input_index"], info["frame"], info["input_source"], info["model_virial"][0, 0]) == (
        1,
        1,
        "a b.xyz",
        1,
    )
    assert written(crystal()).info["index"] == 1


def test_columns_of_any_kind() -> None:
    atoms = crystal()
    atoms.arrays |= {
        "forces": np.full((2, 3), 7.0), "energies": np.full(2, 7.0), "born": np.arange(18.0).reshape(2, 3, 3),
        "label": np.array(["x y", ""]),
        "odd": np.array([None, {"a": 1}], dtype=object), "flag": np.array([True, False]),
        "a:b c": np.arange(2), "move_mask": np.zeros(2), "small": np.arange(2, dtype=np.uint8), "z": np.array([1j, 2]),
        "half": np.array([0.5, 1.5], dtype=np.float16), "none": np.zeros((2, 0)), "ä": np.array(["é", "\n"]),
    }  # fmt: skip
    back = written(atoms).arrays
    assert np.array_equal(back["given_forces"], np.full((2, 3), 7.0))
    assert np.array_equal(back["given_energies"], np.full(2, 7.0))
    assert np.array_equal(back["born"], np.arange(18.0).reshape(2, 9))
    assert back["label"].tolist() == ["x\\x20y", '""']
    assert back["flag"].tolist() == [True, False]
    assert back["a_b_c"].tolist() == [0, 1]
    assert back["half"].tolist() == [0.5, 1.5]


def test_a_thousand_random_structures_are_read_back() -> None:
    rng = random.Random(5)
    for _ in range(1000):
        atoms = crystal()
        for _ in range(rng.randint(0, 5)):
            value = rng.choice([rng.choice(TEXTS), rng.choice(VALUES), "".join(rng.choices("ab\\\"' ={}[]\n,", k=6))])
            atoms.info[rng.choice(KEYS)] = value
        written(atoms)


def test_the_real_job_with_odd_atoms_in_every_output(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """ASE's database refuses texts that look like numbers: a file called 1e5 is no reason to stop."""
    atoms = alloys(2)
    atoms[0].info = {"note": "a\nb", "index": 5, "material_id": "007"}
    write(tmp_path / "in.traj", atoms)
    (tmp_path / "1e5").write_bytes((tmp_path / "in.traj").read_bytes())
    monkeypatch.chdir(tmp_path)
    screen_here(["1e5", "in.traj"], MODEL, "out", write=("extxyz", "hdf5", "db"), report=False)
    assert [r["status"] for r in rows(tmp_path / "out")] == ["ok"] * 4
    frames = read(tmp_path / "out" / "results.extxyz", ":")
    assert [f.info["index"] for f in frames] == [5, 1, 5, 3]
    assert frames[0].info["note"] == "a\nb"
    assert frames[0].info["material_id"] == "007"
