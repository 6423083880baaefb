"""``dpa1-fast phonons`` against phonopy with our ASE calculator, one displacement after another; the examples run."""

from __future__ import annotations

import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from ase import Atoms
from ase.build import bulk

import dpa1_fast
from dpa1_fast.drivers.ase import DPA1Calculator
from dpa1_fast.dynamics.relax import Relaxed, relax

pytestmark = pytest.mark.drivers

pytest.importorskip("phonopy")
from phonopy import Phonopy  # noqa: E402
from phonopy.structure.atoms import PhonopyAtoms  # noqa: E402

from dpa1_fast.properties.phonons import Phonons  # noqa: E402

ROOT = Path(__file__).parents[2]
ENGINE = dpa1_fast.load("almgcu-demo", threads=1)


def relaxed(symbol: str) -> Atoms:
    done = relax(ENGINE, [bulk(symbol)], cell=True, fmax=1e-4)[0]
    assert isinstance(done, Relaxed)
    return done.atoms


@pytest.mark.parametrize("symbol", ["Al", "Mg", "Cu"])
def test_frequencies_are_those_of_phonopy_with_our_calculator(symbol: str) -> None:
    metal, calculator = relaxed(symbol), DPA1Calculator(ENGINE)
    asked = Phonons(supercell=(3, 3, 3)).ask(metal, symbol)
    began = time.process_time()
    results = ENGINE.evaluate(asked.copies)
    ours = time.process_time() - began
    found = asked.found(results)
    cell = PhonopyAtoms(symbols=list(metal.symbols), cell=metal.cell[:], scaled_positions=metal.get_scaled_positions())
    phonopy = Phonopy(cell, supercell_matrix=np.diag([3, 3, 3]))
    phonopy.generate_displacements(distance=0.01)
    forces = []
    began = time.process_time()
    for s in phonopy.supercells_with_displacements:
        atoms = Atoms(s.symbols, cell=s.cell, scaled_positions=s.scaled_positions, pbc=True, calculator=calculator)
        forces.append(atoms.get_forces())
    theirs = time.process_time() - began
    phonopy.forces = forces
    phonopy.produce_force_constants()
    phonopy.run_mesh(60.0)
    gap = np.abs(phonopy.mesh.frequencies - asked.phonopy.mesh.frequencies).max()
    told = f"forces {ours:.3f} s in a batch, {theirs:.3f} s one by one"
    print(f"{symbol}: {len(forces)} displacements, {gap:.1e} THz; {told}")
    assert gap < 1e-3
    assert not found.row["imaginary"]
    assert found.row["max_frequency"] == pytest.approx(phonopy.mesh.frequencies.max(), abs=1e-3)


@pytest.mark.parametrize(
    ("name", "said"), [("phonopy_phonons", "frequencies from"), ("matcalc_elasticity", "bulk modulus")]
)
def test_the_examples_run(name: str, said: str) -> None:
    command = [sys.executable, str(ROOT / "examples" / "drivers" / f"{name}.py")]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=300, cwd=ROOT)
    assert done.returncode == 0, done.stderr
    assert said in done.stdout
