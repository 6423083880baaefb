"""``dpa1-fast phonons`` against phonopy with our ASE calculator, supercell after supercell; the examples run."""

from __future__ import annotations

import csv
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from ase import Atoms
from ase.build import bulk
from ase.io import write

import dpa1_fast
from dpa1_fast.drivers.ase import DPA1Calculator
from dpa1_fast.dynamics.relax import Relaxed, relax

pytestmark = pytest.mark.drivers

pytest.importorskip("phonopy")
from phonopy import Phonopy  # noqa: E402
from phonopy.structure.atoms import PhonopyAtoms  # noqa: E402

from dpa1_fast.errors import StructureError  # noqa: E402
from dpa1_fast.properties.base import Found  # noqa: E402
from dpa1_fast.properties.job import Job  # noqa: E402
from dpa1_fast.properties.phonons import Phonons  # noqa: E402
from dpa1_fast.sources import find_sources  # noqa: E402

ROOT = Path(__file__).parents[2]
ENGINE = dpa1_fast.load("almgcu-demo", threads=1)


def relaxed(start: Atoms) -> Atoms:
    done = relax(ENGINE, [start], cell=True, fmax=1e-4)[0]
    assert isinstance(done, Relaxed)
    return done.atoms


def one_by_one(metal: Atoms, repeats: list[int]) -> tuple[Phonopy, int]:
    """phonopy with our calculator, and how many displacements it asked for."""
    calculator = DPA1Calculator(ENGINE)
    cell = PhonopyAtoms(symbols=list(metal.symbols), cell=metal.cell[:], scaled_positions=metal.get_scaled_positions())
    phonopy = Phonopy(cell, supercell_matrix=np.diag(repeats), primitive_matrix="auto")
    phonopy.generate_displacements(distance=0.01)
    forces = []
    for s in phonopy.supercells_with_displacements:
        atoms = Atoms(s.symbols, cell=s.cell, scaled_positions=s.scaled_positions, pbc=True, calculator=calculator)
        forces.append(atoms.get_forces())
    phonopy.forces = forces
    phonopy.produce_force_constants()
    phonopy.run_mesh(60.0)
    phonopy.run_thermal_properties(temperatures=[0.0, 300.0], cutoff_frequency=0.01)
    return phonopy, len(forces)


def alloy() -> Atoms:
    """Of no symmetry."""
    atoms = bulk("Al", cubic=True)
    atoms.symbols[0] = "Cu"
    atoms.symbols[1] = "Mg"
    atoms.rattle(0.05, seed=1)
    return atoms


def test_a_supercell_of_other_vectors_than_the_cells_is_that_of_phonopy() -> None:
    """The cubic supercell of a primitive cell has what the cubic cell repeated has, and phonopy with our calculator."""
    small = relaxed(bulk("Al"))
    cube = bulk("Al", a=2 * float(np.max(small.cell[:])), cubic=True)
    options = Phonons(supercell=(-3, 3, 3, 3, -3, 3, 3, 3, -3))
    found = options.found(ENGINE, [options.ask(small, "small")], 1e-3)[0]
    repeated = Phonons(supercell=(3, 3, 3))
    same = repeated.found(ENGINE, [repeated.ask(cube, "cube")], 1e-3)[0]
    assert isinstance(found, Found)
    assert isinstance(same, Found)
    assert found.row["supercell"] == "-3 3 3 3 -3 3 3 3 -3"
    theirs, _ = one_by_one(cube, [3, 3, 3])
    assert found.row["max_frequency"] == pytest.approx(float(theirs.mesh.frequencies.max()), abs=1e-3)
    for column in ("max_frequency", "zero_point_energy", "free_energy", "heat_capacity"):
        assert found.row[column] == pytest.approx(same.row[column], rel=1e-6), column


@pytest.mark.parametrize("start", [bulk("Al"), bulk("Mg"), bulk("Cu"), alloy()], ids=lambda a: str(a.symbols))
def test_frequencies_are_those_of_phonopy_with_our_calculator(start: Atoms) -> None:
    metal = relaxed(start)
    repeats = [int(np.ceil(12.0 / x)) for x in metal.cell.lengths()]
    began = time.process_time()
    asked = Phonons().ask(metal, "metal")
    found = Phonons().found(ENGINE, [asked], 1e-3)[0]
    assert isinstance(found, Found)
    ours = time.process_time() - began
    began = time.process_time()
    phonopy, displacements = one_by_one(metal, repeats)
    theirs = time.process_time() - began
    assert found.row["displacements"] == displacements
    gap = np.abs(phonopy.mesh.frequencies - asked.phonopy.mesh.frequencies).max()
    told = f"{ours:.3f} s, one by one {theirs:.3f} s: {theirs / ours:.1f} times as fast"
    print(f"{metal.symbols}: {displacements} displacements, {gap:.1e} THz; {told}")
    assert gap < 1e-3
    assert found.row["min_frequency"] == pytest.approx(phonopy.mesh.frequencies.min(), abs=1e-3)
    thermal = phonopy.thermal_properties
    assert found.row["zero_point_energy"] == pytest.approx(thermal.free_energy[0] / 96.48533212, abs=1e-6)
    assert found.row["heat_capacity"] == pytest.approx(thermal.heat_capacity[1] / 96485.33212, abs=1e-9)


def test_several_crystals_in_a_batch_are_what_each_is_alone() -> None:
    metals = [bulk("Al"), alloy(), bulk("Mg"), bulk("Cu", cubic=True)]
    asked = [Phonons(length=8.0).ask(metal, "metal") for metal in metals]
    together = Phonons(length=8.0).found(ENGINE, asked, 1e-3)
    for metal, found in zip(metals, together, strict=True):
        alone = Phonons(length=8.0).found(ENGINE, [Phonons(length=8.0).ask(metal, "metal")], 1e-3)[0]
        assert isinstance(found, Found)
        assert isinstance(alone, Found)
        assert found.row == alone.row
        assert found.files == alone.files


def test_masses_of_a_structure_are_those_of_its_atoms() -> None:
    """Four times as heavy, half as fast; and where masses differ, atoms of an element are not equivalent."""
    normal, heavy, mixed = (bulk("Al", cubic=True) for _ in range(3))
    heavy.set_masses(4 * normal.get_masses())
    mixed.set_masses(normal.get_masses() * [1.0, 1.0, 1.0, 4.0])
    how = Phonons(length=8.0)
    rows = [f.row for f in how.found(ENGINE, [how.ask(a, "Al") for a in (normal, heavy, mixed)], 1e-3)]
    assert rows[1]["max_frequency"] == pytest.approx(rows[0]["max_frequency"] / 2, rel=1e-6)
    assert rows[1]["max_frequency"] < rows[2]["max_frequency"] < 1.0001 * rows[0]["max_frequency"]
    zero_point = [row["zero_point_energy"] for row in rows]
    assert zero_point[2] > 4 * zero_point[1]  # of four atoms, not of one
    heavy.set_masses([0.0, 1, 1, 1])
    with pytest.raises(StructureError, match="has the mass 0"):
        how.ask(heavy, "Al")


def test_a_left_handed_cell_is_as_good_as_a_right_handed_one() -> None:
    right, left = bulk("Al", cubic=True), bulk("Al", cubic=True)
    left.set_cell(left.cell[[1, 0, 2]])
    how = Phonons(length=8.0)
    rows = [f.row for f in how.found(ENGINE, [how.ask(a, "Al") for a in (right, left)], 1e-3)]
    assert rows[0]["max_frequency"] == pytest.approx(rows[1]["max_frequency"], abs=1e-6)
    assert rows[0]["zero_point_energy"] == pytest.approx(rows[1]["zero_point_energy"], rel=1e-6)


def test_strange_cells_and_positions_fail_alone(tmp_path: Path) -> None:
    """Positions that are no numbers end a process in spglib; a cell of 0.3 Å would be a supercell of 64,000 atoms."""
    skew = Atoms("Al", cell=[[3, 0, 0], [29.9, 3, 0], [0, 0, 3]], pbc=True)
    strange = [
        Atoms("Al", [[np.nan, 0, 0]], cell=[4, 4, 4], pbc=True), Atoms("Al", cell=[0.3] * 3, pbc=True),
        Atoms("AlX", [[0, 0, 0], [0, 0, 2]], cell=[4, 4, 4], pbc=True),
        Atoms("Al2", [[0, 0, 0], [0, 0, 1e-5]], cell=[4, 4, 4], pbc=True), skew, bulk("Al"),
    ]  # fmt: skip
    write(tmp_path / "in.extxyz", strange)
    made = Job(ENGINE, "almgcu-demo", Phonons(length=8.0), tmp_path / "out", None)
    assert made.run(find_sources([str(tmp_path / "in.extxyz")], ENGINE.config.type_map)) == (6, 4)
    with (tmp_path / "out" / "phonons.csv").open(encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    said = ["position of atom 0 is not finite", "would have 19,683 atoms, more than 10,000", "Invalid symbol: X"]
    for row, words in zip(rows, [*said, "phonopy makes no supercell"], strict=False):
        assert words in row["error"]
    assert [row["status"] for row in rows[4:]] == ["ok", "ok"]


@pytest.mark.parametrize(
    ("name", "said"), [("phonopy_phonons", "frequencies from"), ("matcalc_elasticity", "bulk modulus")]
)
def test_the_examples_run(name: str, said: str) -> None:
    command = [sys.executable, str(ROOT / "examples" / "drivers" / f"{name}.py")]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=300, cwd=ROOT)
    assert done.returncode == 0, done.stderr
    assert said in done.stdout
