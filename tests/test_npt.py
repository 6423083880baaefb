"""NPT: ASE's steps whatever the cell may do, what must stay stays, and cells are as warm as they should be."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from ase import Atoms, units
from ase.build import bulk
from ase.md.nose_hoover_chain import MTKNPT, IsotropicMTKNPT, MaskedMTKNPT
from ase.md.velocitydistribution import thermalize_momenta

import dpa1_fast
from dpa1_fast.drivers.ase import DPA1Calculator
from dpa1_fast.dynamics.ensembles import Ensemble
from dpa1_fast.dynamics.md import MolecularDynamics
from dpa1_fast.dynamics.npt import Npt
from dpa1_fast.errors import StructureError

ENGINE = dpa1_fast.load("almgcu-demo", threads=1)
FS, KT = units.fs, units.kB * 400.0


def npt(shape: str, dt: float = FS, pressure: float = 0.01) -> Npt:
    return Npt(dt, KT, 20 * FS, pressure, 100 * FS, shape)


def hot(atoms: Atoms, seed: int = 0) -> Atoms:
    atoms.rattle(0.05, seed=seed)
    thermalize_momenta(atoms, 500.0, rng=np.random.default_rng(seed))
    return atoms


def alloy(seed: int = 0, a: float = 4.05, b: float = 4.2, c: float = 4.0) -> Atoms:
    """Al with a Cu in it, hot, in a cell with right angles and three lengths."""
    atoms = bulk("Al", cubic=True)
    atoms.symbols[seed % len(atoms)] = "Cu"
    atoms.set_cell([a, b, c], scale_atoms=True)
    return hot(atoms, seed)


def skewed() -> Atoms:
    """Magnesium, whose cell is hexagonal, sheared so that no angle is left."""
    atoms = bulk("Mg")
    atoms.set_cell(atoms.cell[:] @ (np.eye(3) + [[0, 0.02, -0.03], [0.01, 0, 0.04], [0, 0, 0]]), scale_atoms=True)
    return hot(atoms)


# --- the steps ------------------------------------------------------------------------------------------------------

FIXED = (FS, 400, 0.01, 20 * FS, 100 * FS)
CASES: dict[str, tuple[str, Callable[[], Atoms], Callable[[Atoms], Any], int]] = {
    # The numbers are what ASE counts as the barostat's degrees of freedom. A mask is a list: of a tuple that holds a
    # False nothing moves there.
    "iso": ("iso", skewed, lambda a: IsotropicMTKNPT(a, *FIXED), 1),
    "tri": ("tri", skewed, lambda a: MTKNPT(a, *FIXED), 9),
    "aniso": ("aniso", alloy, lambda a: MaskedMTKNPT(a, *FIXED, mask=[True, True, True]), 3),
    "ab": ("ab", alloy, lambda a: MaskedMTKNPT(a, *FIXED, mask=[True, True, False]), 2),
    "c of a hexagonal cell": (
        "c", lambda: hot(bulk("Mg")), lambda a: MaskedMTKNPT(a, *FIXED, mask=[False, False, True]), 1
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", CASES)
def test_steps_are_those_of_ase(name: str) -> None:
    shape, make, theirs, count = CASES[name]
    atoms, ensemble = make(), npt(shape)
    md = MolecularDynamics(ENGINE, [atoms], ensemble)
    # ASE counts the total momentum as degrees of freedom, and nine of a cell whose momentum is symmetric.
    md.motion.dof[:] = 3 * len(atoms)
    ensemble.begin(md.motion)
    ensemble.of_barostat.dof[:] = count
    ensemble.of_barostat.masses[:, 0] = (9 if shape == "iso" else count) * ensemble.of_barostat.masses[:, 1]
    start = atoms.cell.copy()
    md.run(15)
    atoms.calc = DPA1Calculator(ENGINE)
    theirs(atoms).run(15)
    assert np.allclose(md.motion.positions, atoms.positions, rtol=0, atol=1e-12)
    assert np.allclose(md.motion.velocities, atoms.get_velocities(), rtol=0, atol=1e-12)
    assert np.allclose(md.motion.cells[0], atoms.cell[:], rtol=0, atol=1e-12)
    assert np.abs(atoms.cell.lengths() - start.lengths()).max() > 1e-4


@pytest.mark.parametrize("shape", ["iso", "semi", "aniso", "tri", "b"])
def test_what_is_conserved_goes_with_the_square_of_the_time_step(shape: str) -> None:
    gone = []
    for dt in (1.0, 0.5):
        md = MolecularDynamics(ENGINE, [alloy()], npt(shape, dt * FS))
        md.begin()
        before = md.conserved()
        md.run(round(24 / dt))
        gone.append(abs(float((md.conserved() - before)[0])))
    assert gone[0] < 4e-3  # eV, of four atoms
    assert gone[1] == pytest.approx(gone[0] / 4, rel=0.1)


def test_a_system_does_in_company_what_it_does_alone() -> None:
    systems = [alloy(1), alloy(2, a=3.9), bulk("Al", cubic=True).repeat((2, 1, 1))]
    systems[2] = hot(systems[2], 3)
    for shape in ("iso", "semi", "aniso", "tri"):
        together = MolecularDynamics(ENGINE, systems, npt(shape))
        together.run(10)
        for k, atoms in enumerate(systems):
            alone = MolecularDynamics(ENGINE, [atoms], npt(shape))
            alone.run(10)
            here = slice(*together.motion.offsets[k : k + 2])
            assert alone.motion.positions.tobytes() == together.motion.positions[here].tobytes()
            assert alone.motion.velocities.tobytes() == together.motion.velocities[here].tobytes()
            assert alone.motion.cells[0].tobytes() == together.motion.cells[k].tobytes()


# --- what cells do --------------------------------------------------------------------------------------------------


def moved(atoms: Atoms, shape: str, steps: int = 30) -> tuple[Any, Any]:
    """(lengths, angles) after some steps over those before, and their difference."""
    md = MolecularDynamics(ENGINE, [atoms], npt(shape))
    md.run(steps)
    end = Atoms(cell=md.motion.cells[0]).cell
    return end.lengths() / atoms.cell.lengths(), end.angles() - atoms.cell.angles()


def test_what_must_stay_of_a_cell_stays() -> None:
    lengths, angles = moved(skewed(), "iso")
    assert np.ptp(lengths) < 1e-12
    assert np.abs(angles).max() < 1e-10
    lengths, angles = moved(hot(bulk("Mg")), "semi")
    assert lengths[0] == pytest.approx(lengths[1], abs=1e-12)
    assert abs(lengths[2] - lengths[0]) > 1e-4
    assert np.abs(angles).max() < 1e-10
    lengths, angles = moved(alloy(), "aniso")
    assert np.ptp(lengths) > 1e-4
    assert np.abs(angles).max() < 1e-10
    lengths, angles = moved(alloy(), "ac")
    assert lengths[1] == pytest.approx(1.0, abs=1e-14)
    assert (np.abs(lengths[[0, 2]] - 1.0) > 1e-4).all()
    lengths, angles = moved(skewed(), "tri")
    assert np.ptp(lengths) > 1e-4
    assert np.abs(angles).min() > 1e-4


def test_angles_that_would_not_stay_are_said() -> None:
    told = r"changes lengths and keeps angles, but the lattice vector a is not at right angles to b: take --npt tri"
    for shape in ("aniso", "ab"):
        with pytest.raises(StructureError, match=f"system 1: --npt {shape} {told}"):
            MolecularDynamics(ENGINE, [alloy(), hot(bulk("Mg"))], npt(shape))
    with pytest.raises(StructureError, match="system 0: NPT needs a structure that is periodic along all three axes"):
        MolecularDynamics(ENGINE, [Atoms("Al2", [[0, 0, 0], [0, 0, 2.8]])], npt("tri"), temperature=300)


@pytest.mark.parametrize(("shape", "count"), [("iso", 1), ("semi", 2), ("aniso", 3), ("tri", 6), ("b", 1)])
def test_a_barostat_has_a_degree_of_freedom_for_each_way_that_a_cell_goes(shape: str, count: int) -> None:
    """As many as its momenta span: with nine for any shape, as in ASE, cells would be half too hot."""
    ensemble, seen = npt(shape), list[Any]()
    md = MolecularDynamics(ENGINE, [alloy()], ensemble)
    md.run(12, lambda: seen.append(ensemble.momentum[0].ravel().copy()) or True)
    assert np.linalg.matrix_rank(np.array(seen), tol=1e-9 * np.abs(seen).max()) == count
    assert ensemble.of_barostat.dof.tolist() == [count]


# --- blowing up -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("shape", ["iso", "aniso", "tri"])
def test_a_cell_that_collapses_stops(shape: str) -> None:
    quiet: Ensemble = npt(shape)
    alone = MolecularDynamics(ENGINE, [alloy(1)], quiet)
    alone.run(20)
    crushed = alloy(1)
    crushed.set_velocities(np.full((4, 3), 0.4 / FS))  # of one direction, so that pressure is not the same along all
    md = MolecularDynamics(ENGINE, [crushed, alloy(1)], npt(shape))
    md.run(20)
    assert "stopped at step" in str(md.failed[0])
    assert list(md.failed) == [0]
    assert md.motion.positions.tobytes() == alone.motion.positions.tobytes()
    pressed = MolecularDynamics(ENGINE, [alloy()], Npt(FS, KT, 20 * FS, 1e3, 5 * FS, shape))
    pressed.run(200)
    assert "stopped at step" in str(pressed.failed[0])
