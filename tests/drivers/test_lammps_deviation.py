"""Deviations of several models that are relative to the mean, and their file from run to run."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from ase import units
from conftest import make_model
from test_lammps import prepared, triclinic

from bench.speed.lammps_runs import START, lmp, write_data
from dpa1_fast import Engine
from dpa1_fast.engine import Result

pytestmark = pytest.mark.drivers

PAIR = "pair_style dpa1_fast m0 m1 out_freq 1 out_file devi.out {}\npair_coeff * * H C O\n"


@pytest.fixture
def results(tmp_path: Path) -> list[Result]:
    """What two models say of a structure, which lie with it in the folder."""
    out = []
    for k in range(2):
        model = make_model()
        for p in model.parameters():
            p.data += 0.02 * np.sin(k + p.numel()) * p.data
        prepared(tmp_path, model, f"m{k}")
        out.append(Engine(model).evaluate([triclinic()])[0])
    write_data(tmp_path / "data", triclinic(), ["H", "C", "O"], np.zeros((12, 3)))
    return out


def steps(path: Path) -> list[int]:
    return [int(line.split()[0]) for line in path.read_text().splitlines()[1:]]


@pytest.mark.parametrize("unit", ["metal", "real"])
@pytest.mark.parametrize("least", [0.5, 0.0])
def test_relative_deviations_are_ratios_whatever_the_units(
    unit: str, least: float, tmp_path: Path, results: list[Result]
) -> None:
    """What is added to the mean is in LAMMPS's units; 0 asks for a ratio, too."""
    scale = 1.0 if unit == "metal" else units.mol / units.kcal
    script = START.replace("metal", unit) + PAIR.format(f"relative {least} relative_v {least} atomic") + "run 0\n"
    run = lmp(tmp_path, script)
    assert run.code == 0, run.said
    found = [float(x) for x in (tmp_path / "devi.out").read_text().splitlines()[1].split()]
    forces = scale * np.array([r.forces for r in results])
    each = np.linalg.norm(forces.std(0), axis=-1) / (np.linalg.norm(forces.mean(0), axis=-1) + least)
    virials = scale * np.array([r.virial.reshape(9) / 12 for r in results])
    ratio = virials.std(0) / (np.abs(virials.mean(0)) + least)
    expected = [ratio.max(), ratio.min(), np.sqrt(np.mean(ratio**2)), each.max(), each.min(), each.mean(), *each]
    assert found[1:] == pytest.approx(expected, rel=1e-4)


def test_a_restart_goes_on_with_the_file_of_deviations(tmp_path: Path, results: list[Result]) -> None:
    """As DeePMD-kit does; a row that a kill cut does not run into the next."""
    end = "fix 1 all nve\ntimestep 1e-6\nrun 2\nwrite_restart after\n"
    begin = START + PAIR.format("") + end
    assert lmp(tmp_path, begin).code == 0
    path = tmp_path / "devi.out"
    assert steps(path) == [0, 1, 2]
    path.write_text(path.read_text()[:-30])
    again = "newton on\nread_restart after\n" + PAIR.format("") + end
    run = lmp(tmp_path, again)
    assert run.code == 0, run.said
    assert steps(path) == [0, 1, 2, 2, 3, 4]
    assert lmp(tmp_path, begin).code == 0  # one that begins at step 0 is a new one
    assert steps(path) == [0, 1, 2]
    path.unlink()
    assert lmp(tmp_path, again).code == 0
    assert path.read_text().startswith("#")
    assert steps(path) == [2, 3, 4]
