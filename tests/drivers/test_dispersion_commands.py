"""Commands with ``--dispersion``: what they write is the model without it plus simple-dftd3 alone, to the digit."""

from __future__ import annotations

import csv
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
from ase import Atoms, units
from ase.build import bulk, fcc111
from ase.calculators.mixing import SumCalculator
from ase.io import write
from commands import run_command

from dpa1_fast.drivers.ase import DPA1Calculator

pytestmark = pytest.mark.drivers

pytest.importorskip("dftd3")
from dftd3.ase import DFTD3  # noqa: E402
from test_dispersion import BARE, NAME, cluster, crystal  # noqa: E402


def summed(atoms: Atoms) -> Atoms:
    """With a calculator in which nothing of ours adds: ASE sums the model and simple-dftd3's own calculator."""
    out: Atoms = atoms.copy()
    out.calc = SumCalculator([DPA1Calculator(BARE), DFTD3(method="pbe", damping="d3bj")])
    return out


def ran(name: str, structures: list[Atoms], folder: Path, *words: object) -> Path:
    """The folder of the results of a command that went well."""
    write(folder / "in.extxyz", structures)
    common = ("-o", "out", "-m", "almgcu-demo", "-t", 1, "--dispersion", NAME)
    done = run_command(name, "in.extxyz", *common, *words, cwd=folder)
    assert done.returncode == 0, done.stderr
    return folder / "out"


def rows(path: Path) -> list[dict[str, str]]:
    with path.open(encoding="utf-8") as file:
        return list(csv.DictReader(file))


# --- molecular dynamics ---------------------------------------------------------------------------------------------


def test_md_writes_the_sum_in_every_frame(tmp_path: Path) -> None:
    structures = [crystal(), cluster(), fcc111("Al", (1, 1, 3), vacuum=6.0)]
    out = ran("md", structures, tmp_path, "-n", 10, "-T", 300, "--save", 5, "--log", 5, "-w", "hdf5")
    log = rows(out / "log.csv")
    with h5py.File(out / "trajectory.h5") as file:
        for k, atoms in enumerate(structures):
            group = file[f"{k:04d}"]
            for frame in range(3):
                moved = atoms.copy()
                moved.positions, moved.cell = group["positions"][frame], group["cell"][frame]
                alone = summed(moved)
                assert group["energy"][frame] == pytest.approx(alone.get_potential_energy(), abs=1e-10)
                assert float(log[3 * frame + k]["energy"]) == group["energy"][frame]
                assert np.abs(group["forces"][frame] - alone.get_forces()).max() < 1e-10
                if atoms.pbc.all():
                    stress = -group["virial"][frame] / moved.get_volume()
                    assert np.abs(stress - alone.get_stress(voigt=False)).max() < 1e-12


def test_the_barostat_feels_the_pressure_of_both(tmp_path: Path) -> None:
    """That of the first frame; and steps with forces, energies and virials of one sum conserve what they should."""
    how = ("-T", 300, "--timestep", 0.5, "--log", 10, "--save", 10, "-e", "npt", "--tau-pressure", 50, "-w", "hdf5")
    out = ran("md", [crystal()], tmp_path, "-n", 20, *how)
    log = rows(out / "log.csv")
    start = crystal()
    with h5py.File(out / "trajectory.h5") as file:
        group = file["0000"]
        start.positions = group["positions"][0]
        start.set_velocities(group["velocities"][0] / units.fs)
        assert group["cell"][-1][0, 0] != group["cell"][0][0, 0]
    stress = summed(start).get_stress(voigt=False, include_ideal_gas=True)
    assert float(log[0]["pressure"]) == pytest.approx(-np.trace(stress) / 3.0 / units.GPa, abs=1e-8)
    gone = [abs(float(row["conserved"]) - float(log[0]["conserved"])) for row in log]
    moved = [abs(float(row["energy"]) - float(log[0]["energy"])) for row in log]
    assert max(gone) < 0.01 * max(moved)


def test_a_run_does_not_go_on_without_it_or_with_another(tmp_path: Path) -> None:
    words = ("in.extxyz", "-m", "almgcu-demo", "-t", 1, "-T", 300, "-o")
    ran("md", [cluster()], tmp_path, "-n", 2, "-T", 300)
    for more, now in (((), "None"), (("--dispersion", "d3zero:pbe"), "d3zero:pbe")):
        done = run_command("md", *words, "out", "-n", 4, *more, cwd=tmp_path)
        assert done.returncode == 2
        assert f"holds another run: its dispersion was {NAME} and now is {now}" in done.stderr
    assert run_command("md", *words, "bare", "-n", 2, cwd=tmp_path).returncode == 0
    done = run_command("md", *words, "bare", "-n", 4, "--dispersion", NAME, cwd=tmp_path)
    assert f"holds another run: its dispersion was None and now is {NAME}" in done.stderr


# --- screening and relaxing -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("command", [("screen",), ("relax", "--cell", "--fmax", 0.02)], ids=lambda c: str(c[0]))
def test_what_screening_and_relaxing_write_is_the_sum(command: tuple[Any, ...], tmp_path: Path) -> None:
    structures = [crystal(), cluster()]
    out = ran(command[0], structures, tmp_path, *command[1:], "-p", "float64", "-w", "hdf5", "--no-report")
    with h5py.File(out / "results.h5") as file:
        first = file["offsets"][()]
        for k, atoms in enumerate(structures):
            here = slice(first[k], first[k + 1])
            atoms.positions, atoms.cell = file["positions"][here], file["cell"][k]
            alone = summed(atoms)
            assert file["energy"][k] == pytest.approx(alone.get_potential_energy(), abs=1e-10)
            assert np.abs(file["forces"][here] - alone.get_forces()).max() < 1e-10
            if atoms.pbc.all():
                assert np.abs(file["stress"][k] - alone.get_stress()).max() < 1e-12
            if command[0] == "relax":
                assert np.linalg.norm(alone.get_forces(), axis=1).max() < 0.02


# --- crystals -------------------------------------------------------------------------------------------------------


def test_equations_of_state_are_of_the_sum(tmp_path: Path) -> None:
    out = ran("eos", [bulk("Al"), bulk("Cu")], tmp_path, "--no-relax", "--points", 5, "--strain", 0.12)
    for k, metal in enumerate(("Al", "Cu")):
        curve = rows(out / "results" / f"{k:07d}.eos.csv")
        assert len(curve) == 5
        for point in curve:
            atoms = bulk(metal)
            atoms.set_cell(atoms.cell[:] * (float(point["volume"]) / atoms.get_volume()) ** (1 / 3), scale_atoms=True)
            assert float(point["energy"]) == pytest.approx(summed(atoms).get_potential_energy(), abs=1e-9)


def strained(k: int, size: float) -> Atoms:
    """Aluminium, strained by Voigt's component k."""
    strain = np.zeros((3, 3))
    strain[{0: (0, 0), 1: (1, 1), 3: (1, 2)}[k]] = size
    atoms = bulk("Al")
    atoms.set_cell(atoms.cell[:] @ (np.eye(3) + 0.5 * (strain + strain.T)), scale_atoms=True)
    return atoms


def test_elastic_constants_are_of_the_sum(tmp_path: Path) -> None:
    """One atom a cell, so that nothing relaxes: slopes of the stresses of the sum."""
    row = rows(ran("elastic", [bulk("Al")], tmp_path, "--no-relax") / "elastic.csv")[0]
    slopes = {}
    for name, (i, j) in {"c11": (0, 0), "c12": (0, 1), "c44": (3, 3)}.items():
        up, down = (summed(strained(j, size)).get_stress()[i] for size in (1e-4, -1e-4))
        slopes[name] = (up - down) / 2e-4 / units.GPa
    assert {k: float(row[k]) for k in slopes} == pytest.approx(slopes, rel=1e-3, abs=0.05)


def test_phonons_are_of_the_sum(tmp_path: Path) -> None:
    pytest.importorskip("phonopy")
    import phonopy

    metal = bulk("Al", cubic=True)
    metal.symbols[0] = "Mg"  # cubic, four atoms, two kinds
    out = ran("phonons", [metal], tmp_path, "--no-relax", "--supercell", "2,2,2")
    ours = phonopy.load(out / "results" / "0000000.phonopy_params.yaml")
    again = phonopy.Phonopy(ours.unitcell, supercell_matrix=ours.supercell_matrix, primitive_matrix="auto")
    again.generate_displacements(distance=0.01)
    forces = []
    for s in again.supercells_with_displacements:
        atoms = Atoms(s.symbols, cell=s.cell, scaled_positions=s.scaled_positions, pbc=True)
        forces.append(summed(atoms).get_forces())
    again.forces = forces
    again.produce_force_constants()
    found, expected = (p.run_qpoints([[0, 0, 0], [0.5, 0, 0], [0.1, 0.2, 0.3]]).frequencies for p in (ours, again))
    assert np.abs(found - expected).max() < 1e-3
    assert float(rows(out / "phonons.csv")[0]["max_frequency"]) > 1.0


def test_what_d3_does_not_know_fails_alone(tmp_path: Path) -> None:
    """Two atoms of one place in their cell: the model says so, and D3 is not asked."""
    overlap = Atoms("Al2", [[0, 0, 0], [0, 0, 1e-5]], cell=[8, 8, 8], pbc=True)
    write(tmp_path / "in.extxyz", [overlap, bulk("Al")])
    words = ("-o", "out", "-m", "almgcu-demo", "-t", 1, "--dispersion", NAME, "--no-relax", "--points", 5)
    done = run_command("eos", "in.extxyz", *words, cwd=tmp_path)
    assert done.returncode == 1
    table = rows(tmp_path / "out" / "eos.csv")
    assert [row["status"] for row in table] == ["failed", "ok"]
    assert "overlap" in table[0]["error"]
