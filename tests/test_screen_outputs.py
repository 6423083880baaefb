"""What a screening job writes, column by column and file by file."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pyarrow.parquet as pq
import pytest
from ase.db import connect
from ase.io import read, write
from conftest import SHARED, make_model, read_cases
from screening import MODEL, alloys, input_file, rows, screen

from dpa1_fast import load
from dpa1_fast import screen as screen_here
from dpa1_fast.checkpoint import write_model
from dpa1_fast.screening import blocks
from dpa1_fast.screening.options import OptionError


@pytest.fixture
def source(tmp_path: Path) -> Path:
    return input_file(tmp_path, 20)


@pytest.fixture(params=[1024, 3], ids=["one block", "many blocks"])
def _blocks(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(blocks, "STRUCTURES", request.param)


@pytest.mark.usefixtures("_blocks")
def test_every_field_and_every_file_says_what_the_engine_says(source: Path, tmp_path: Path) -> None:
    fields = ("energy", "forces", "stress", "descriptor")
    screen_here(source, MODEL, tmp_path / "out", fields=fields, write=("extxyz", "hdf5", "db"), report=False)
    structures, engine = read(source, ":"), load(MODEL, precision="float32")
    expected = engine.evaluate(structures, on_error="return")
    table = rows(tmp_path / "out")
    frames = read(tmp_path / "out" / "results.extxyz", ":")
    hdf5 = h5py.File(tmp_path / "out" / "results.h5")
    good = [k for k in range(20) if k not in (3, 7)]
    assert hdf5["index"][()].tolist() == good == [f.info["index"] for f in frames]
    with connect(tmp_path / "out" / "results.db") as db:
        stored = list(db.select())
    assert [row.input_index for row in stored] == good
    for place, k in enumerate(good):
        result, row, frame, own = expected[k], table[k], frames[place], stored[place]
        a, b = hdf5["offsets"][place : place + 2]
        descriptor = engine.descriptors([structures[k]])[0]
        assert row["energy"] == hdf5["energy"][place] == own.energy == result.energy
        for forces in (np.reshape(row["forces"], (-1, 3)), hdf5["forces"][a:b], own.forces):
            assert np.array_equal(forces, result.forces)
        assert np.abs(frame.get_forces() - result.forces).max() < 1e-7
        assert np.array_equal(np.reshape(row["descriptor"], descriptor.shape), descriptor)
        assert np.array_equal(hdf5["descriptor"][a:b], descriptor)
        assert np.abs(frame.arrays["descriptor"] - descriptor).max() < 1e-7
        assert np.array_equal(hdf5["positions"][a:b], structures[k].positions)
        assert np.array_equal(hdf5["numbers"][a:b], structures[k].numbers)
        if result.stress is not None:
            assert np.array_equal(row["stress"], result.stress)
            assert np.array_equal(hdf5["stress"][place], result.stress)
            assert row["pressure"] == -result.stress[:3].mean()
        else:
            assert row["stress"] is None
            assert row["volume"] is None
    assert hdf5["forces"].attrs["unit"] == "eV/Å"
    assert hdf5.attrs["precision"] == "float32"


def test_columns_carry_their_units_and_the_files_where_they_come_from(source: Path, tmp_path: Path) -> None:
    screen_here(source, MODEL, tmp_path / "out", report=False)
    schema = pq.read_schema(tmp_path / "out" / "summary.parquet" / "part-00000.parquet")
    assert schema.field("max_force").metadata[b"unit"] == "eV/Å".encode()
    assert len(schema.metadata[b"dpa1_fast.model_sha256"]) == 64
    for name in ("version", "model", "precision", "device", "backend"):
        assert schema.metadata[f"dpa1_fast.{name}".encode()]


def test_the_descriptor_is_that_of_deepmd() -> None:
    """Where the public cases are: DeePMD-kit's own descriptor of a molecule."""
    path = SHARED / "public" / "P01_concat_L2_water"
    if not path.exists():
        pytest.skip("the shared cases are not here")
    from ase import Atoms

    with np.load(path / "descriptor_nopbc_mol.npz") as file:
        expected = file[file.files[0]] if len(file.files) == 1 else file["descriptor"]
    case = next(c for c in read_cases(path / "cases.npz") if c.name == "nopbc_mol")
    engine = load(path / "model.dp")
    atoms = Atoms([engine.config.type_map[t] for t in case.type], positions=case.coord)
    found = engine.descriptors([atoms])[0]
    assert np.abs(found - expected.reshape(found.shape)).max() < 1e-10


@pytest.mark.usefixtures("_blocks")
def test_model_deviation_is_that_of_dp_gen(tmp_path: Path) -> None:
    """The columns of ``dp model-devi``, by its definitions, from four models."""
    structures = alloys(9, 4)
    for atoms in structures:
        atoms.symbols[:] = np.resize(["H", "C", "O"], len(atoms))
    write(tmp_path / "in.extxyz", structures)
    structures = read(tmp_path / "in.extxyz", ":")
    models = []
    for k in range(4):
        model = make_model(attn_layer=k % 2, type_map=("H", "C", "O") if k < 3 else ("C", "H", "O"))
        for parameter in model.parameters():
            parameter.data += 0.02 * k
        write_model(model, tmp_path / f"{k}.safetensors", "")
        models.append(tmp_path / f"{k}.safetensors")
    found = screen_here(tmp_path / "in.extxyz", models, tmp_path / "out", precision="float64", by="max_devi_f")
    table = rows(tmp_path / "out")
    results = [load(m).evaluate(structures) for m in models]
    for k, atoms in enumerate(structures):
        n = len(atoms)
        forces = np.linalg.norm(np.std([r[k].forces for r in results], axis=0), axis=1)
        virial = np.std([r[k].virial.ravel() / n for r in results], axis=0)
        expected = {
            "max_devi_f": forces.max(), "min_devi_f": forces.min(), "avg_devi_f": forces.mean(),
            "max_devi_v": virial.max(), "min_devi_v": virial.min(), "avg_devi_v": np.linalg.norm(virial) / 3,
            "devi_e": np.std([r[k].energy / n for r in results]),
        }  # fmt: skip
        assert {name: table[k][name] for name in expected} == pytest.approx(expected, rel=1e-9)
        assert table[k]["energy"] == pytest.approx(results[0][k].energy, abs=1e-9)
    best = [r["max_devi_f"] for r in found.statistics.best]
    assert best == sorted(r["max_devi_f"] for r in table)


def test_several_models_on_the_command_line(source: Path, tmp_path: Path) -> None:
    done = screen("in.extxyz", "--models", MODEL, MODEL, "--output", "out", "--by", "max_devi_f", cwd=tmp_path)
    assert done.returncode == 1, done.stderr
    assert "lowest 10 in max_devi_f" in done.stdout
    assert {r["max_devi_f"] for r in rows(tmp_path / "out") if r["status"] == "ok"} == {0.0}


@pytest.mark.parametrize("by", ["energy_per_atom", "energy", "max_force", "volume"])
def test_the_best_come_first(by: str, source: Path, tmp_path: Path) -> None:
    found = screen_here(source, MODEL, tmp_path / "out", top=4, by=by, report=False).statistics
    table = [r for r in rows(tmp_path / "out") if r[by] is not None]
    expected = sorted(table, key=lambda r: (r[by], r["index"]))[:4]
    assert [r["index"] for r in found.best] == [r["index"] for r in expected]


def test_energy_above_the_hull_of_reference_entries(source: Path, tmp_path: Path) -> None:
    """Al, Mg and Cu at −3, −1 and −4 eV, and Al2Cu 0.3 eV/atom below the line between its elements."""
    pytest.importorskip("pymatgen")
    entries = [("Al", -3.0), ("Mg", -1.0), ("Cu", -4.0), ("Al2Cu", -10.9)]
    entries = [{"formula": formula, "energy": energy} for formula, energy in entries]
    (tmp_path / "ref.json").write_text(json.dumps(entries))
    found = screen_here(
        source, MODEL, tmp_path / "out", references=tmp_path / "ref.json", by="e_above_hull", report=False
    )
    for row in rows(tmp_path / "out"):
        if row["status"] != "ok":
            continue
        numbers = read(source, row["frame"]).get_chemical_symbols()
        n, al, mg, cu = len(numbers), *(numbers.count(x) for x in ("Al", "Mg", "Cu"))
        # Copper is bound in Al2Cu as far as there is aluminium for it, and the other way round.
        bound = min(cu, al / 2)
        hull = (-3.0 * al - 1.0 * mg - 4.0 * cu - 0.9 * bound) / n
        assert row["e_above_hull"] == pytest.approx(row["energy_per_atom"] - hull, abs=1e-9)
    assert found.statistics.best[0]["e_above_hull"] == min(r["e_above_hull"] or 0.0 for r in rows(tmp_path / "out"))


@pytest.mark.parametrize(
    ("text", "said"),
    [("{", "does not hold reference entries"), ('[{"formula": "Al"}]', "expected a JSON")],
)
def test_wrong_references(text: str, said: str, source: Path, tmp_path: Path) -> None:
    pytest.importorskip("pymatgen")
    (tmp_path / "ref.json").write_text(text)
    done = screen("in.extxyz", "--model", MODEL, "--output", "out", "--references", "ref.json", cwd=tmp_path)
    assert done.returncode == 2
    assert said in done.stderr
    assert done.stderr.count("\n") == 1
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"fields": ("energy", "colour")}, "--fields 'colour' is not known; known: energy, forces, stress, descriptor"),
        ({"write": ("xls",)}, "--write 'xls' is not known; known: extxyz, hdf5, db"),
        ({"by": "beauty"}, "--by 'beauty' is not known"),
        ({"by": "max_devi_f"}, "needs several models"),
        ({"by": "e_above_hull"}, "needs reference entries"),
        ({"workers": 2}, "give --ray"),
        ({"fmax": -1.0}, "must be positive"),
        ({"relax": "everything"}, "--relax 'everything' is not known"),
        ({"write": ("db", "db")}, "names something twice"),
    ],
)
def test_options_that_make_no_sense(options: dict[str, Any], said: str, source: Path, tmp_path: Path) -> None:
    with pytest.raises(OptionError, match=said):
        screen_here(source, MODEL, tmp_path / "out", **options)
    assert not (tmp_path / "out").exists()


def test_without_a_model_the_bundled_one_serves_and_says_what_it_is(source: Path, tmp_path: Path) -> None:
    done = screen("in.extxyz", "--output", "out", "--fields", "uncertainty", cwd=tmp_path)
    assert done.returncode in (0, 1), done.stderr
    assert "dpa1-68 serves" in done.stderr
    assert "not DFT" in done.stderr
    assert "not to be trusted" in done.stdout


def test_failures_are_a_table_of_their_own(source: Path, tmp_path: Path) -> None:
    import csv

    found = screen_here(source, MODEL, tmp_path / "out", report=False)
    with (tmp_path / "out" / "failures.csv").open() as file:
        table = list(csv.DictReader(file))
    assert [r["index"] for r in table] == ["3", "7"]
    assert "Pt" in table[0]["error"]
    assert "not finite" in table[1]["error"]
    assert found.statistics.reasons.total() == 2
    assert found.statistics.exit_code == 1
