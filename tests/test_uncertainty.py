"""What a model says of how far to trust it: calibrated deviations, and flags for what training never saw."""

from __future__ import annotations

import copy
import pickle
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from ase import Atoms
from ase.calculators.singlepoint import SinglePointCalculator
from ase.io import write
from conftest import BASE, make_model, molecule

from dpa1_fast import DPA1, Engine
from dpa1_fast.checkpoint import read_model, write_model
from dpa1_fast.errors import UncertaintyError
from dpa1_fast.train.calibrate import Calibration, calibrate
from dpa1_fast.train.data import Dataset
from dpa1_fast.train.options import TrainingError
from dpa1_fast.uncertainty import deviation, fitted


def labelled(count: int, seed: int, symbols: str = "HC") -> list[Atoms]:
    """Structures whose labels are a model's with noise that grows with the number of carbon atoms."""
    rng = np.random.default_rng(seed)
    out = []
    for k in range(count):
        atoms = molecule(6 + k % 3, seed=1000 * seed + k)
        atoms.symbols = rng.choice(list(symbols), len(atoms))
        out.append(atoms)
    return out


def write_data(path: Path, model: DPA1, structures: list[Atoms], seed: int) -> Dataset:
    rng = np.random.default_rng(seed)
    for atoms, result in zip(structures, Engine(model).evaluate(structures), strict=True):
        noise = 0.02 * (1 + 4 * (atoms.numbers == 6).mean())
        forces = result.forces + noise * rng.normal(size=result.forces.shape)
        energy = result.energy + noise * len(atoms) * rng.normal()
        atoms.calc = SinglePointCalculator(atoms, energy=energy, forces=forces)
    write(path, structures, format="extxyz")
    return Dataset(model.config, [str(path)])


@pytest.fixture(scope="module")
def calibrated(tmp_path_factory: Any) -> tuple[DPA1, Calibration, Dataset]:
    folder = tmp_path_factory.mktemp("data")
    torch.manual_seed(3)
    model = make_model()
    train = write_data(folder / "train.extxyz", model, labelled(60, 1), 1)
    valid = write_data(folder / "valid.extxyz", model, labelled(60, 2), 2)
    found = calibrate(model, train, valid)
    model.uncertainty = found.uncertainty
    return model, found, train


def test_standardised_errors_of_the_validation_data_have_a_spread_of_one(calibrated: Any) -> None:
    _, found, _ = calibrated
    assert found.energy_spread == pytest.approx(1.0, abs=1e-6)
    assert found.force_spread == pytest.approx(1.0, abs=1e-6)


def test_deviations_hold_for_structures_that_calibration_has_not_seen(calibrated: Any, tmp_path: Path) -> None:
    model, _, _ = calibrated
    held = labelled(80, 3)
    write_data(tmp_path / "held.extxyz", model, held, 3)
    truth = [(a.get_potential_energy(), a.get_forces()) for a in held]
    results = Engine(model).evaluate(held, uncertainty=True)
    z = [(r.forces - f) / r.uncertainty.force_std[:, None] for r, (_, f) in zip(results, truth, strict=True)]
    assert 0.8 < float(np.sqrt(np.mean(np.concatenate(z) ** 2))) < 1.25
    e = [(r.energy - energy) / r.uncertainty.energy_std for r, (energy, _) in zip(results, truth, strict=True)]
    assert 0.7 < float(np.sqrt(np.mean(np.square(e)))) < 1.4


def test_what_the_likelihood_finds_is_what_the_errors_were_made_with() -> None:
    g = torch.Generator().manual_seed(0)
    q, other = (torch.exp(torch.randn(20000, generator=g, dtype=torch.float64)) for _ in range(2))
    wanted = torch.tensor([-3.0, 0.8, 0.3], dtype=torch.float64)
    noise = torch.randn(20000, 3, generator=g, dtype=torch.float64)
    square = (deviation(wanted, q, other).unsqueeze(1) * noise).square().mean(1)
    assert torch.allclose(fitted(q, other, square, weight=3.0), wanted, atol=0.05)


def flags(model: DPA1, atoms: Atoms) -> set[str]:
    found = Engine(model).evaluate([atoms], uncertainty=True)[0].uncertainty
    assert found is not None
    return set(found.flags)


def test_an_element_and_a_pair_that_training_never_had_are_named(calibrated: Any) -> None:
    model, _, _ = calibrated
    assert "unseen_element" not in flags(model, labelled(1, 5)[0])
    with_oxygen = labelled(1, 5)[0]
    with_oxygen.symbols[0] = "O"
    assert {"unseen_element", "unseen_pair"} <= flags(model, with_oxygen)


def test_atoms_closer_than_any_in_training_are_named(calibrated: Any) -> None:
    model, _, train = calibrated
    near = min(np.linalg.norm(train.neighborhood(i).edges.vector, axis=1).min() for i in range(len(train)))
    squeezed = labelled(10, 7)
    for atoms in squeezed:
        closest = atoms.get_all_distances()[np.triu_indices(len(atoms), 1)].min()
        atoms.set_positions(atoms.positions * 0.9 * near / closest)
    for result in Engine(model).evaluate(squeezed, uncertainty=True):
        assert result.uncertainty is not None
        assert "closer_than_trained" in result.uncertainty.flags


def test_no_structure_of_the_training_set_is_far_from_it(calibrated: Any) -> None:
    model, _, train = calibrated
    results = Engine(model).evaluate([sample.structure for sample in train.samples], uncertainty=True)
    assert [r.uncertainty.flags for r in results if r.uncertainty is not None] == [()] * len(train)


@pytest.mark.parametrize("backend", ["cpu", "reference"])
def test_backends_agree_and_packing_changes_nothing(calibrated: Any, backend: str) -> None:
    model, _, _ = calibrated
    structures = labelled(5, 9)
    alone = Engine(model)
    expected = [alone.evaluate([a], uncertainty=True)[0].uncertainty for a in structures]
    for e, r in zip(expected, Engine(model, backend=backend).evaluate(structures, uncertainty=True), strict=True):
        assert e is not None
        assert r.uncertainty is not None
        assert r.uncertainty.energy_std == pytest.approx(e.energy_std, rel=1e-8)
        assert r.uncertainty.force_std == pytest.approx(e.force_std, rel=1e-8)
        assert r.uncertainty.flags == e.flags


def test_files_copies_and_pickles_carry_it(calibrated: Any, tmp_path: Path) -> None:
    model, _, _ = calibrated
    write_model(model, tmp_path / "model.safetensors")
    again, engine, atoms = read_model(tmp_path / "model.safetensors").model, Engine(model), labelled(1, 4)[0]
    expected = engine.evaluate([atoms], uncertainty=True)[0].uncertainty
    assert expected is not None
    for other in (Engine(again), copy.deepcopy(engine), pickle.loads(pickle.dumps(engine))):  # noqa: S301 (our own)
        found = other.evaluate([atoms], uncertainty=True)[0].uncertainty
        assert found is not None
        assert found.energy_std == pytest.approx(expected.energy_std, rel=1e-4)  # a file keeps roots in float32


def test_one_structure_of_a_kept_data_set_is_a_batch_like_any_other(calibrated: Any) -> None:
    # What a data set keeps is narrower than what compiled code reads.
    model, _, train = calibrated
    batch, labels = train.batch([0])
    assert (batch.center.dtype, batch.neighbor.dtype) == (torch.int64, torch.int64)
    found = Engine(model).evaluate_batch(batch, hidden=True)
    assert float(found.energies.sum()) == pytest.approx(float(labels.energy), abs=1.0)


def test_validation_data_without_errors_calibrate_nothing(tmp_path: Path) -> None:
    model = make_model()
    structures = labelled(6, 3)
    for atoms, result in zip(structures, Engine(model, precision="float64").evaluate(structures), strict=True):
        atoms.calc = SinglePointCalculator(atoms, energy=result.energy, forces=result.forces)
    write(tmp_path / "exact.traj", structures)
    data = Dataset(model.config, [str(tmp_path / "exact.traj")])
    with pytest.raises(TrainingError, match="no measure"):
        calibrate(model, data, data)


def test_a_training_structure_that_was_turned_is_no_closer(calibrated: Any) -> None:
    model, _, train = calibrated
    turned = [Atoms("".join(BASE.type_map[t] for t in s.structure.types), s.structure.positions) for s in train.samples]
    for atoms in turned:
        atoms.rotate(31.0, (1.0, 2.0, 3.0))
    found = Engine(model).evaluate(turned, uncertainty=True)
    assert {flag for r in found for flag in r.uncertainty.flags} == set()


def test_virtual_atoms_change_nothing(calibrated: Any) -> None:
    model, _, _ = calibrated
    plain = molecule(5, 3)
    padded = plain + Atoms("X4", positions=np.arange(12.0).reshape(4, 3))
    one, other = (r.uncertainty for r in Engine(model).evaluate([plain, padded], uncertainty=True))
    assert other.energy_std == pytest.approx(one.energy_std, rel=1e-6)
    np.testing.assert_allclose(other.force_std, [*one.force_std, 0, 0, 0, 0], rtol=1e-5)
    assert other.flags == one.flags


def test_a_model_that_was_not_calibrated_says_so() -> None:
    with pytest.raises(UncertaintyError, match="dpa1-fast calibrate"):
        Engine(make_model()).evaluate([molecule()], uncertainty=True)


def test_a_file_whose_uncertainty_does_not_fit_is_refused(calibrated: Any, tmp_path: Path) -> None:
    from dpa1_fast.errors import ModelFileError

    model = copy.deepcopy(calibrated[0])
    model.uncertainty = replace(model.uncertainty, seen=torch.zeros(BASE.ntypes + 1).double())
    write_model(model, tmp_path / "model.safetensors")
    with pytest.raises(ModelFileError, match="uncertainty.seen has shape"):
        read_model(tmp_path / "model.safetensors")


def test_the_calculator_tells_it(calibrated: Any) -> None:
    from dpa1_fast.drivers.ase import DPA1Calculator

    engine, atoms = Engine(calibrated[0]), labelled(1, 4)[0]
    expected = engine.evaluate([atoms], uncertainty=True)[0].uncertainty
    assert expected is not None
    calculator = DPA1Calculator(engine, uncertainty=True)
    assert calculator.get_property("energy_std", atoms) == pytest.approx(expected.energy_std, rel=1e-9)
    assert calculator.get_property("force_std", atoms) == pytest.approx(expected.force_std, rel=1e-9)
    assert calculator.get_property("flags", atoms) == expected.flags


@pytest.mark.parametrize("relax", [[], ["--relax", "--steps", "2"]], ids=["as they are", "relaxed"])
def test_screening_has_columns_for_it(calibrated: Any, tmp_path: Path, relax: list[str]) -> None:
    import pyarrow.dataset as ds
    from ase.io import read
    from typer.testing import CliRunner

    from dpa1_fast.cli import app
    from dpa1_fast.screening.sinks import summary

    write_model(calibrated[0], tmp_path / "model.safetensors")
    atoms = labelled(3, 4)
    atoms[1].symbols[0] = "O"
    write(tmp_path / "in.extxyz", atoms)
    arguments = ["--model", str(tmp_path / "model.safetensors"), "--output", str(tmp_path / "out")]
    arguments += ["--fields", "uncertainty", "--write", "extxyz", *relax]
    result = CliRunner().invoke(app, ["screen", str(tmp_path / "in.extxyz"), *arguments])
    assert result.exit_code == 0, result.output
    rows = ds.dataset(tmp_path / "out" / summary.NAME, format="parquet").to_table().to_pylist()
    assert "unseen_element" in rows[1]["flags"]
    assert "unseen_element" not in rows[0]["flags"]
    assert all(len(r["force_std"]) == r["natoms"] and r["energy_std"] > 0 for r in rows)
    frame = read(tmp_path / "out" / "results.extxyz", index=1)
    assert frame.info["flags"] == rows[1]["flags"]
    assert "never neighbours" in (tmp_path / "out" / "report.html").read_text(encoding="utf-8")


def test_the_command_writes_a_model_that_knows_it(calibrated: Any, tmp_path: Path) -> None:
    from typer.testing import CliRunner

    from dpa1_fast.cli import app

    model = make_model()
    write_model(model, tmp_path / "model.safetensors", "a description")
    for k, name in enumerate(("train", "valid")):
        write_data(tmp_path / f"{name}.extxyz", model, labelled(12, 20 + k), k)
    data = [x for name in ("train", "valid") for x in (f"--{name}", str(tmp_path / f"{name}.extxyz"))]
    out = tmp_path / "calibrated.safetensors"
    result = CliRunner().invoke(app, ["calibrate", str(tmp_path / "model.safetensors"), *data, "--output", str(out)])
    assert result.exit_code == 0, result.output
    assert Engine(read_model(out).model).evaluate([molecule()], uncertainty=True)[0].uncertainty is not None
