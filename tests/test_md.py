"""Molecular dynamics of many at once takes ASE's steps, goes on to the same bits when killed, and never writes NaN."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from ase import Atoms, units
from ase.build import fcc111
from ase.constraints import FixAtoms, FixBondLength, FixCartesian
from ase.md.bussi import Bussi as AseBussi
from ase.md.langevinbaoab import LangevinBAOAB
from ase.md.nose_hoover_chain import NoseHooverChainNVT
from ase.md.verlet import VelocityVerlet
from md_systems import ENGINE, alloy, cluster, crash

from dpa1_fast.drivers.ase import DPA1Calculator
from dpa1_fast.dynamics.ensembles import Bussi, Ensemble, Langevin
from dpa1_fast.dynamics.md import MolecularDynamics
from dpa1_fast.dynamics.nose_hoover import NoseHoover
from dpa1_fast.dynamics.relax import Relaxed, relax
from dpa1_fast.errors import StructureError

FS, KT = units.fs, units.kB * 400.0


# --- the steps ------------------------------------------------------------------------------------------------------

CASES: dict[str, tuple[Callable[[], Ensemble], Callable[[Atoms], Any]]] = {
    "nve": (lambda: Ensemble(FS), lambda a: VelocityVerlet(a, FS)),
    "langevin": (
        lambda: Langevin(FS, KT, 0.02 / FS, [[5]]),
        lambda a: LangevinBAOAB(a, FS, temperature_K=400, T_tau=FS / 0.02, rng=np.random.default_rng([5])),
    ),
    "bussi": (
        lambda: Bussi(FS, KT, 20 * FS, [[5]]),
        lambda a: AseBussi(a, FS, 400, 20 * FS, rng=np.random.default_rng([5])),
    ),
    "nose-hoover": (lambda: NoseHoover(FS, KT, 20 * FS), lambda a: NoseHooverChainNVT(a, FS, 400, 20 * FS)),
}


@pytest.mark.parametrize("name", CASES)
def test_steps_are_those_of_ase(name: str) -> None:
    ours, theirs = CASES[name]
    atoms, ensemble = alloy(), ours()
    md = MolecularDynamics(ENGINE, [atoms], ensemble)
    # ASE counts the total momentum as degrees of freedom.
    md.motion.dof[:] = 3 * len(atoms)
    ensemble.begin(md.motion)
    md.run(15)
    atoms.calc = DPA1Calculator(ENGINE)
    theirs(atoms).run(15)
    assert np.allclose(md.motion.positions, atoms.positions, rtol=0, atol=1e-12)
    assert np.allclose(md.motion.velocities, atoms.get_velocities(), rtol=0, atol=1e-12)


def test_a_system_does_in_company_what_it_does_alone() -> None:
    systems = [alloy(1), cluster(), alloy(2)]
    seeds = [[9, k] for k in range(3)]
    together = MolecularDynamics(ENGINE, systems, Langevin(FS, KT, 0.01 / FS, seeds), temperature=300)
    together.run(15)
    for k, atoms in enumerate(systems):
        atoms.set_velocities(velocities_at_start(systems)[k])
        alone = MolecularDynamics(ENGINE, [atoms], Langevin(FS, KT, 0.01 / FS, [seeds[k]]))
        alone.run(15)
        here = slice(*together.motion.offsets[k : k + 2])
        assert alone.motion.positions.tobytes() == together.motion.positions[here].tobytes()
        assert alone.motion.velocities.tobytes() == together.motion.velocities[here].tobytes()


def velocities_at_start(systems: list[Atoms]) -> list[Any]:
    md = MolecularDynamics(ENGINE, systems, Langevin(FS, KT, 0.01 / FS, [[0]] * len(systems)), temperature=300)
    return [md.motion.velocities[slice(*md.motion.offsets[k : k + 2])] for k in range(len(systems))]


@pytest.mark.parametrize("name", CASES)
def test_what_is_conserved_goes_with_the_square_of_the_time_step(name: str) -> None:
    gone = []
    for dt in (1.0, 0.5):
        make = {
            "nve": lambda t: Ensemble(t),
            "langevin": lambda t: Langevin(t, KT, 1e-9 / FS, [[5]]),  # noise of its own hides the order otherwise
            "bussi": lambda t: Bussi(t, KT, 1e7 * FS, [[5]]),
            "nose-hoover": lambda t: NoseHoover(t, KT, 30 * FS),
        }[name]
        md = MolecularDynamics(ENGINE, [alloy()], make(dt * FS))
        md.begin()
        before = md.conserved()
        md.run(round(24 / dt))
        gone.append(abs(float((md.conserved() - before)[0])))
    assert gone[0] < 4e-3  # eV, of four atoms
    assert gone[1] == pytest.approx(gone[0] / 4, rel=0.1)


@pytest.mark.parametrize("name", ["langevin", "bussi", "nose-hoover"])
def test_thermostats_reach_their_temperature(name: str) -> None:
    """Mean over 32 systems, cold at first, of the last steps of a short run with strong coupling."""
    start = relax(ENGINE, [cluster()], fmax=0.01)[0]
    assert isinstance(start, Relaxed)
    atoms = [start.atoms.copy() for _ in range(32)]
    seeds = [[1, k] for k in range(32)]
    ensemble: Ensemble = {
        "langevin": lambda: Langevin(2 * FS, KT, 0.05 / FS, seeds),
        "bussi": lambda: Bussi(2 * FS, KT, 10 * FS, seeds),
        "nose-hoover": lambda: NoseHoover(2 * FS, KT, 20 * FS),
    }[name]()
    md = MolecularDynamics(ENGINE, atoms, ensemble, temperature=100)
    seen = []
    md.run(120, lambda: seen.append(md.temperatures().mean()) or True)
    assert np.mean(seen[60:]) == pytest.approx(400, abs=40)


# --- what may move --------------------------------------------------------------------------------------------------


def test_what_is_fixed_stays_where_it_is() -> None:
    slab = fcc111("Al", (1, 1, 4), vacuum=6.0)
    slab.set_constraint([FixAtoms([0, 1]), FixCartesian(2, mask=(True, True, False))])
    md = MolecularDynamics(ENGINE, [slab], Langevin(FS, KT, 0.05 / FS, [[0]]), temperature=400)
    assert md.motion.dof.tolist() == [4.0]
    md.run(20)
    gone = md.motion.positions - slab.positions
    assert not gone[:2].any()
    assert not gone[2, :2].any()
    assert gone[2, 2] != 0.0
    assert (gone[3] != 0.0).all()


def test_what_cannot_be_simulated_is_named() -> None:
    held = cluster()
    held.set_constraint(FixBondLength(0, 1))
    with pytest.raises(StructureError, match=r"system 0: constraint FixBondLengths is not supported"):
        MolecularDynamics(ENGINE, [held], Ensemble(FS), temperature=300)
    with pytest.raises(StructureError, match="no velocities: give a temperature"):
        MolecularDynamics(ENGINE, [cluster()], Ensemble(FS))
    wild = cluster()
    wild.arrays["momenta"] = np.full((4, 3), np.nan)
    with pytest.raises(StructureError, match="velocity of atom 0 is not finite"):
        MolecularDynamics(ENGINE, [wild], Ensemble(FS))
    light = cluster()
    light.set_masses([27, 0, 1, 1])
    with pytest.raises(StructureError, match=r"atom 1 \(Mg\) has the mass 0"):
        MolecularDynamics(ENGINE, [light], Ensemble(FS), temperature=300)


def test_drawn_velocities_have_their_temperature_and_no_momentum() -> None:
    md = MolecularDynamics(ENGINE, [alloy(kelvin=0), cluster()], Ensemble(FS), temperature=250)
    assert md.temperatures() == pytest.approx([250, 250])
    momentum = (md.motion.masses * md.motion.velocities)[:4].sum(axis=0)
    assert np.abs(momentum).max() < 1e-12


# --- blowing up -----------------------------------------------------------------------------------------------------


def test_a_system_that_blows_up_stops_and_names_step_and_atom() -> None:
    md = MolecularDynamics(ENGINE, [alloy(), crash(), alloy(1)], Ensemble(FS))
    alone = MolecularDynamics(ENGINE, [alloy(1)], Ensemble(FS))
    md.run(12)
    alone.run(12)
    assert list(md.failed) == [1]
    assert md.ids.tolist() == [0, 2]
    assert str(md.failed[1]).startswith("system 1: stopped at step 4: atoms 0 and 1 overlap")
    assert md.motion.positions[4:].tobytes() == alone.motion.positions.tobytes()


def test_a_time_step_that_is_too_long_is_said() -> None:
    md = MolecularDynamics(ENGINE, [alloy()], Ensemble(60 * FS))
    md.run(50)
    assert "atom" in md.failed[0].reason
    assert "the time step is too long" in md.failed[0].reason
