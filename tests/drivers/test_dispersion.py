"""D3 on top of a model: the numbers of simple-dftd3's own calculator, wherever an engine's are asked for."""

from __future__ import annotations

import copy
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from ase import Atoms
from ase.build import bulk, fcc111
from ase.io import read, write

import dpa1_fast
from dpa1_fast.drivers.ase import DPA1Calculator
from dpa1_fast.dynamics.relax import Relaxed, relax
from dpa1_fast.errors import BackendError, StructureError
from dpa1_fast.properties.eos import Eos
from dpa1_fast.properties.force_constants import Supercell, force_constants
from dpa1_fast.structures.structure import from_ase

pytestmark = pytest.mark.drivers

pytest.importorskip("dftd3")
from dftd3.ase import DFTD3  # noqa: E402

NAME = "d3bj:pbe"
BARE = dpa1_fast.load("almgcu-demo", threads=1)
ENGINE = dpa1_fast.load("almgcu-demo", threads=1, dispersion=NAME)


def crystal() -> Atoms:
    atoms = bulk("Al", cubic=True)
    atoms.symbols[0] = "Mg"
    atoms.rattle(0.05, seed=1)
    return atoms


def cluster() -> Atoms:
    return Atoms("AlCuMg", [[0, 0, 0], [2.6, 0, 0], [0.3, 2.7, 0.2]])


def d3(atoms: Atoms) -> Atoms:
    out: Atoms = atoms.copy()
    out.calc = DFTD3(method="pbe", damping="d3bj")
    return out


@pytest.mark.parametrize("make", [crystal, cluster, lambda: fcc111("Al", (1, 1, 3), vacuum=6.0)])
def test_it_is_added_to_what_the_model_says(make: Any) -> None:
    atoms = make()
    with_d3, bare, alone = ENGINE.evaluate([atoms])[0], BARE.evaluate([atoms])[0], d3(atoms)
    assert with_d3.energy - bare.energy == pytest.approx(alone.get_potential_energy(), abs=1e-12)
    assert np.abs(with_d3.forces - bare.forces - alone.get_forces()).max() < 1e-12
    if atoms.pbc.all():
        assert with_d3.stress is not None
        assert bare.stress is not None
        assert np.abs(with_d3.stress - bare.stress - alone.get_stress()).max() < 1e-12
    calculated = atoms.copy()
    calculated.calc = DPA1Calculator(ENGINE)
    assert calculated.get_potential_energy() == pytest.approx(with_d3.energy, abs=1e-12)
    assert np.abs(calculated.get_forces() - with_d3.forces).max() < 1e-12


def test_it_goes_along_with_copies() -> None:
    energy = ENGINE.evaluate([cluster()])[0].energy
    for other in (copy.deepcopy(ENGINE), pickle.loads(pickle.dumps(ENGINE))):  # noqa: S301 (our own)
        assert other.evaluate([cluster()])[0].energy == energy


def test_relaxations_and_properties_have_it() -> None:
    ends = [relax(engine, [bulk("Al")], cell=True, fmax=1e-3)[0] for engine in (ENGINE, BARE)]
    assert all(isinstance(e, Relaxed) for e in ends)
    volumes = [e.atoms.get_volume() for e in ends if isinstance(e, Relaxed)]
    assert volumes[0] < 0.99 * volumes[1]  # it attracts
    asked = Eos(strain=0.03, points=5).ask(ends[0].atoms, "Al")  # type: ignore[union-attr]
    results = ENGINE.evaluate(asked.copies)
    assert asked.found(results).row["volume"] == pytest.approx(volumes[0], rel=1e-3)


def test_force_constants_have_it() -> None:
    atoms = bulk("Al", cubic=True) * (2, 2, 2)
    structure = from_ase(ENGINE.config, atoms, "Al")
    constants = [force_constants(e, Supercell(structure, [0]), 0.002)[0] for e in (ENGINE, BARE)]
    moved = [d3(atoms), d3(atoms)]
    moved[0].positions[0, 0] += 1e-3
    moved[1].positions[0, 0] -= 1e-3
    column = -(moved[0].get_forces() - moved[1].get_forces()) / 2e-3
    assert np.abs((constants[0] - constants[1])[0, :, 0] - column).max() < 1e-6


def test_commands_take_it(tmp_path: Path) -> None:
    from commands import run_command

    write(tmp_path / "a.extxyz", [crystal(), cluster()])
    out = run_command("relax", tmp_path / "a.extxyz", "-m", "almgcu-demo", "-o", tmp_path / "r", "--dispersion", NAME,
                      "-p", "float64", "--threads", "1", "--steps", "60")  # fmt: skip
    assert out.returncode == 0, out.stderr
    frames = read(tmp_path / "r" / "results.extxyz", ":")
    for frame in frames:
        assert ENGINE.evaluate([frame])[0].energy == pytest.approx(frame.get_potential_energy(), abs=1e-8)


def test_what_it_does_not_know_it_names() -> None:
    wrong = {"pbe": "is not DAMPING:FUNCTIONAL", "d5:pbe": "dampings: d3bj", "d3bj:nonsense": "does not know"}
    for name, said in wrong.items():
        with pytest.raises(BackendError, match=said):
            dpa1_fast.load("almgcu-demo", dispersion=name)
    from dpa1_fast.dispersion import Dispersion

    structure = from_ase(BARE.config, cluster(), "water")
    with pytest.raises(StructureError, match="the type OW is none"):
        Dispersion(NAME, ["OW", "OW", "OW"]).of(structure, structure.positions, structure.cell)
