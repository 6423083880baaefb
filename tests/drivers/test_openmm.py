"""OpenMM: a ``PythonForce``, and openmm-ml's potential by its name."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from ase import Atoms
from conftest import crystal, make_model, molecule

from dpa1_fast import Engine
from dpa1_fast.checkpoint import write_model

pytestmark = pytest.mark.drivers

openmm = pytest.importorskip("openmm")
from openmm import app, unit  # noqa: E402

ENGINE = Engine(make_model(), threads=1)


def system_of(atoms: Atoms, force: Any = None) -> Any:
    system = openmm.System()
    for mass in atoms.get_masses():
        system.addParticle(mass)
    if atoms.pbc.any():
        system.setDefaultPeriodicBoxVectors(*(atoms.cell.array * 0.1))
    if force is not None:
        system.addForce(force)
    return system


def answer(system: Any, atoms: Atoms) -> tuple[float, np.ndarray]:
    """eV and eV/Å, in the precision of the Reference platform."""
    from dpa1_fast.drivers.openmm import KJ_PER_MOL

    context = openmm.Context(system, openmm.VerletIntegrator(0.001), openmm.Platform.getPlatformByName("Reference"))
    if atoms.pbc.any():
        context.setPeriodicBoxVectors(*(atoms.cell.array * 0.1))
    context.setPositions(atoms.positions * 0.1)
    state = context.getState(energy=True, forces=True)
    energy = state.getPotentialEnergy().value_in_unit(unit.kilojoule_per_mole) * KJ_PER_MOL
    forces = state.getForces(asNumpy=True).value_in_unit(unit.kilojoule_per_mole / unit.nanometer) * KJ_PER_MOL / 10
    return energy, forces


def box() -> Atoms:
    """Cells of OpenMM are reduced: the same lattice, its vectors chosen so."""
    return molecule(8, 3, 4.4, cell=[[5.0, 0, 0], [1.1, 5.1, 0], [-0.8, 0.9, 5.2]], pbc=True)


@pytest.mark.parametrize("make", [molecule, box])
def test_a_force_is_what_the_engine_says(make: Any) -> None:
    from dpa1_fast.drivers.openmm import python_force

    atoms = make()
    energy, forces = answer(system_of(atoms, python_force(ENGINE, atoms.symbols, bool(atoms.pbc.any()))), atoms)
    expected = ENGINE.evaluate([atoms])[0]
    assert abs(energy - expected.energy) < 1e-9
    assert np.abs(forces - expected.forces).max() < 1e-9


def test_some_of_the_particles_alone() -> None:
    from dpa1_fast.drivers.openmm import python_force

    atoms, chosen = molecule(9), [1, 4, 5, 7]
    force = python_force(ENGINE, [atoms.symbols[i] for i in chosen], False, chosen)
    energy, forces = answer(system_of(atoms, force), atoms)
    expected = ENGINE.evaluate([atoms[chosen]])[0]
    assert abs(energy - expected.energy) < 1e-9
    assert np.abs(forces[chosen] - expected.forces).max() < 1e-9
    assert not np.delete(forces, chosen, axis=0).any()


def test_a_system_with_it_can_be_serialized() -> None:
    from dpa1_fast.drivers.openmm import python_force

    atoms = molecule()
    system = system_of(atoms, python_force(ENGINE, atoms.symbols, False))
    again = openmm.XmlSerializer.deserialize(openmm.XmlSerializer.serialize(system))
    assert answer(again, atoms)[0] == answer(system, atoms)[0]


def test_what_is_wrong_with_the_atoms_is_said() -> None:
    from dpa1_fast.drivers.openmm import python_force
    from dpa1_fast.errors import StructureError

    with pytest.raises(StructureError, match="does not know the element Xe"):
        python_force(ENGINE, ["Xe"], False)
    atoms = molecule()
    force = python_force(ENGINE, atoms.symbols, False)
    atoms.positions[3] = atoms.positions[5]
    with pytest.raises(Exception, match="atoms 3 and 5 overlap"):
        answer(system_of(atoms, force), atoms)


def topology_of(atoms: Atoms) -> Any:
    topology = app.Topology()
    residue = topology.addResidue("ALL", topology.addChain())
    for symbol in atoms.symbols:
        topology.addAtom(symbol, app.Element.getBySymbol(symbol), residue)
    return topology


def test_openmm_ml_finds_the_potential_by_name(tmp_path: Any) -> None:
    from openmmml import MLPotential

    write_model(make_model(), tmp_path / "model.dp")
    atoms = box()
    topology = topology_of(atoms)
    topology.setPeriodicBoxVectors(atoms.cell.array * 0.1 * unit.nanometer)
    system = MLPotential("dpa1_fast", model=str(tmp_path / "model.dp"), threads=1).createSystem(topology)
    energy, forces = answer(system, atoms)
    expected = ENGINE.evaluate([atoms])[0]
    assert abs(energy - expected.energy) < 1e-9
    assert np.abs(forces - expected.forces).max() < 1e-9


def test_a_system_that_is_periodic_counts_where_its_topology_has_no_box(tmp_path: Any) -> None:
    """As with the other potentials of openmm-ml: a mixed system whose own forces are periodic."""
    from dpa1_fast.drivers.openmm_ml import DPA1Potential

    write_model(make_model(), tmp_path / "model.dp")
    atoms = box()
    other = openmm.CustomNonbondedForce("0")
    other.setNonbondedMethod(openmm.CustomNonbondedForce.CutoffPeriodic)
    other.setCutoffDistance(0.05)
    for _ in atoms:
        other.addParticle([])
    system = system_of(atoms, other)
    DPA1Potential(str(tmp_path / "model.dp"), threads=1).addForces(topology_of(atoms), system, None, 0)
    energy, _ = answer(system, atoms)
    assert abs(energy - ENGINE.evaluate([atoms])[0].energy) < 1e-9


def test_energy_is_conserved() -> None:
    from dpa1_fast.drivers.openmm import python_force

    atoms = crystal()
    atoms.set_cell([[5.0, 0, 0], [0, 5.0, 0], [0, 0, 5.0]])
    system = system_of(atoms, python_force(ENGINE, atoms.symbols, True))
    integrator = openmm.VerletIntegrator(0.0001)
    context = openmm.Context(system, integrator, openmm.Platform.getPlatformByName("Reference"))
    context.setPositions(atoms.positions * 0.1)
    context.setVelocitiesToTemperature(100, 1)

    def total() -> float:
        state = context.getState(energy=True)
        return (state.getPotentialEnergy() + state.getKineticEnergy()).value_in_unit(unit.kilojoule_per_mole)

    before = total()
    integrator.step(60)
    assert abs(total() - before) < 0.05  # kJ/mol
