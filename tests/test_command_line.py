"""The real command in a real process: what it prints, writes, and exits with."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from ase import Atoms
from ase.io import read, write
from commands import run_command as run
from conftest import DATA, SHARED, molecule, read_cases

from dpa1_fast import load

MODEL = DATA / "concat_hard.dp"  # knows O and H


def water(seed: int, **cell: object) -> Atoms:
    atoms = molecule(6, seed, **cell)
    atoms.symbols[:] = ["O", "H", "H"] * 2
    return atoms


def rows(folder: Path) -> list[dict[str, object]]:
    return pq.read_table(folder / "summary.parquet").to_pylist()


# --- info and convert ---------------------------------------------------------------------------------------------


def test_info_in_words_and_json() -> None:
    words = run("info", MODEL)
    assert words.returncode == 0
    for word in ("DeePMD-kit portable model", "O H (2)", "rcut 4 Å", "2 layers of width 12", "hard softmax", "16/16"):
        assert word in words.stdout, word
    told = json.loads(run("info", DATA / "two_heads.pt", "--head", "vapour", "--json").stdout)
    assert told["type_map"] == ["O", "H"]
    assert told["config"]["fitting"]["neuron"] == [12]
    assert len(told["sha256"]) == 64
    assert told["parameters"] > 1000


def test_info_lists_the_bundled_models_and_knows_its_version() -> None:
    listed = run("info", "--list").stdout.split()
    assert "almgcu-demo" in listed
    about = run("info", "almgcu-demo").stdout
    assert "not DFT" in " ".join(about.split())
    assert run("--version").stdout.strip().count(".") == 2


def test_convert_there_and_back(tmp_path: Path) -> None:
    first = run("convert", DATA / "concat_hard.pt", tmp_path / "m.safetensors")
    second = run("convert", tmp_path / "m.safetensors", tmp_path / "m.dp")
    assert (first.returncode, second.returncode) == (0, 0), first.stderr + second.stderr
    case = read_cases(DATA / "concat_hard.npz")[0]
    atoms = Atoms(["OH"[t] for t in case.type], positions=case.coord)
    atoms.set_cell(case.cell if len(case.cell) else None)
    atoms.pbc = bool(len(case.cell))
    assert abs(load(tmp_path / "m.dp").evaluate([atoms])[0].energy - case.energy) < 1e-9


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        (["info", DATA / "make_fixtures.py"], "is a text file"),
        (["info", "no-such-model"], "no such file, and no bundled model of that name"),
        (["info"], "give a model file"),
        (["convert", MODEL, "out.pth"], "no writer for '.pth'"),
        (["convert", MODEL, "no/such/folder/m.dp"], "no/such/folder/m.dp"),
        (["screen", "nothing-*.xyz", "--model", MODEL, "--output", "out"], "nothing-*.xyz: no such file"),
        (["screen", DATA / "two_heads_liquid.npz", "--model", DATA / "two_heads.pt", "--output", "out"], "head"),
        (["screen", DATA / "m.npz", "--model", MODEL, "--output", "o", "--device", "cuda:77"], "m.npz"),
    ],
)
def test_one_line_and_exit_code_2(arguments: list[object], reason: str, tmp_path: Path) -> None:
    done = run(*arguments, cwd=tmp_path)
    assert done.returncode == 2
    assert done.stdout == ""
    assert done.stderr.startswith("error: ")
    assert done.stderr.count("\n") == 1
    assert reason in done.stderr


@pytest.mark.skipif(not SHARED.exists(), reason="the shared cases are not here")
def test_evil_files_through_the_command(tmp_path: Path) -> None:
    done = run("info", SHARED / "reject" / "evil.pt", cwd=tmp_path)
    assert done.returncode == 2
    assert done.stderr.count("\n") == 1
    assert not list(tmp_path.iterdir())


# --- screen -------------------------------------------------------------------------------------------------------


def test_screen_writes_what_the_engine_computes(tmp_path: Path) -> None:
    structures = [water(1), water(2, cell=np.eye(3) * 7, pbc=True), water(3)]
    structures[0].info["note"] = "kept"
    write(tmp_path / "a.extxyz", structures)
    structures = read(tmp_path / "a.extxyz", ":")  # the file keeps eight decimals
    words = ("--model", MODEL, "--output", "out", "--top", 2, "--write", "extxyz")
    done = run("screen", "a.extxyz", *words, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "3 structures, 18 atoms" in done.stdout
    assert "lowest 2 in energy per atom" in done.stdout
    table, frames = rows(tmp_path / "out"), read(tmp_path / "out" / "results.extxyz", ":")
    expected = load(MODEL, precision="float32").evaluate(structures)
    for k, (row, frame, result) in enumerate(zip(table, frames, expected, strict=True)):
        assert (row["index"], row["frame"], row["source"], row["status"]) == (k, k, "a.extxyz", "ok")
        assert (row["formula"], row["natoms"], row["error"]) == ("H4O2", 6, None)
        assert row["energy"] == pytest.approx(result.energy, abs=1e-10)
        assert row["energy_per_atom"] == pytest.approx(result.energy / 6, abs=1e-10)
        assert row["max_force"] == pytest.approx(np.linalg.norm(result.forces, axis=1).max(), abs=1e-10)
        assert frame.get_potential_energy() == pytest.approx(result.energy, abs=1e-7)
        assert np.abs(frame.get_forces() - result.forces).max() < 1e-7
        assert np.abs(frame.positions - structures[k].positions).max() < 1e-7
    assert frames[0].info["note"] == "kept"
    assert np.abs(frames[1].get_stress() - expected[1].stress).max() < 1e-7
    metadata = pq.read_table(tmp_path / "out" / "summary.parquet").schema.metadata
    assert len(metadata[b"dpa1_fast.model_sha256"]) == 64
    assert metadata[b"dpa1_fast.precision"] == b"float32"
    assert not list((tmp_path / "out").glob("*.partial"))


def test_screen_records_what_fails_and_does_the_rest(tmp_path: Path) -> None:
    bad = [
        Atoms("OH", [[0, 0, 0], [0, 0, 0]]),
        Atoms("Pt"),
        Atoms("H", cell=[[1, 0, 0], [1, 0, 0], [0, 0, 1]], pbc=True),
    ]
    write(tmp_path / "mixed.extxyz", [water(1), *bad, water(2)])
    (tmp_path / "broken.xyz").write_text("3\n\nO 0 0 0\nH 1 0")
    (tmp_path / "empty.xyz").write_text("")
    done = run("screen", "*.*xyz", "--model", MODEL, "--output", "out", "--write", "extxyz", cwd=tmp_path)
    assert done.returncode == 1, done.stderr
    table = rows(tmp_path / "out")
    assert [r["status"] for r in table] == ["failed", "failed", "ok", "failed", "failed", "failed", "ok"]
    assert [r["index"] for r in table] == list(range(7))
    reasons = [str(r["error"]) for r in table if r["status"] == "failed"]
    for reason, word in zip(reasons, ("cannot be read", "", "overlap", "Pt", "singular cell"), strict=True):
        assert word in reason
    assert "overlap" in done.stdout
    assert len(read(tmp_path / "out" / "results.extxyz", ":")) == 2


def test_screen_exit_code_2_where_nothing_could_be_done(tmp_path: Path) -> None:
    write(tmp_path / "a.extxyz", [Atoms("Pt")])
    done = run("screen", "a.extxyz", "--model", MODEL, "--output", "out", cwd=tmp_path)
    assert done.returncode == 2
    assert rows(tmp_path / "out")[0]["status"] == "failed"


def test_screen_reads_deepmd_folders(tmp_path: Path) -> None:
    """npy and mixed_type, open and periodic, with parameters; frames as the arrays say."""
    structures = [water(k, cell=np.eye(3) * 6, pbc=True) for k in (1, 2)]
    npy, mixed = tmp_path / "data" / "npy", tmp_path / "data" / "mixed"
    for folder in (npy, mixed):
        (folder / "set.000").mkdir(parents=True)
        (folder / "type_map.raw").write_text("H\nO\n")
        np.save(folder / "set.000" / "coord.npy", np.stack([a.positions.ravel() for a in structures]))
    types = [1, 0, 0, 1, 0, 0]
    (npy / "type.raw").write_text("\n".join(map(str, types)))
    np.save(npy / "set.000" / "box.npy", np.stack([np.eye(3).ravel() * 6] * 2))
    (mixed / "type.raw").write_text("\n".join("0" * 6))
    (mixed / "nopbc").touch()
    np.save(mixed / "set.000" / "real_atom_types.npy", np.array([types, [-1, *types[1:]]]))
    done = run("screen", "data", "--model", MODEL, "--output", "out", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    table = {(Path(str(r["source"])).name, r["frame"]): r for r in rows(tmp_path / "out")}
    engine = load(MODEL, precision="float32")
    opened = [a.copy() for a in structures]
    for atoms in opened:
        atoms.pbc = False
        atoms.cell = None
    opened[1].symbols[0] = "X"
    for k in range(2):
        assert table["npy", k]["energy"] == pytest.approx(engine.evaluate([structures[k]])[0].energy, abs=1e-10)
        assert table["mixed", k]["energy"] == pytest.approx(engine.evaluate([opened[k]])[0].energy, abs=1e-10)


def test_screen_a_damaged_deepmd_folder(tmp_path: Path) -> None:
    for name in ("good", "short"):
        (tmp_path / name / "set.000").mkdir(parents=True)
        (tmp_path / name / "type.raw").write_text("0 1 1")
        (tmp_path / name / "nopbc").touch()
        np.save(tmp_path / name / "set.000" / "coord.npy", np.random.default_rng(0).uniform(0, 4, (2, 9)))
    np.save(tmp_path / "short" / "set.000" / "coord.npy", np.zeros((2, 8)))
    done = run("screen", "good", "short", "--model", MODEL, "--output", "out", cwd=tmp_path)
    assert done.returncode == 1, done.stderr
    table = rows(tmp_path / "out")
    assert [r["status"] for r in table] == ["ok", "ok", "failed"]
    assert "has 8 numbers a frame, expected 9" in str(table[2]["error"])


def test_more_than_sel_neighbours_is_said_once(tmp_path: Path) -> None:
    crowd = molecule(30, 3, box=3.9)
    crowd.symbols[:] = "H"
    write(tmp_path / "a.extxyz", [crowd, crowd])
    done = run("screen", "a.extxyz", "--model", MODEL, "--output", "out", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    notes = [line for line in done.stderr.splitlines() if "more than sel" in line]
    assert len(notes) == 1
    assert "atoms have more than sel = 24 neighbours within 4.0 Å (up to 29)" in notes[0]
