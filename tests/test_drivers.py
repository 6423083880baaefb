"""ASE and TorchSim get what the engine says, at every step, and what DeePMD-kit's calculator would give."""

from __future__ import annotations

import importlib
import inspect
import sys
import tomllib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from ase import units
from ase.build import bulk, fcc111
from ase.calculators.calculator import PropertyNotImplementedError
from ase.md.verlet import VelocityVerlet
from conftest import crystal, make_model, molecule

import dpa1_fast
from dpa1_fast import Engine
from dpa1_fast.config import FittingConfig
from dpa1_fast.drivers.ase import DPA1Calculator
from dpa1_fast.errors import StructureError

ENGINE = Engine(make_model(), threads=1)


def same(atoms: Any, engine: Engine = ENGINE) -> None:
    """What the calculator says is what the engine says of a fresh list."""
    result = engine.evaluate([atoms])[0]
    assert atoms.get_potential_energy() == pytest.approx(result.energy, abs=1e-11)
    assert np.allclose(atoms.get_forces(), result.forces, rtol=0, atol=1e-11)
    assert np.allclose(atoms.get_potential_energies(), result.energies, rtol=0, atol=1e-11)
    assert np.allclose(atoms.calc.results["virial"], result.virial, rtol=0, atol=1e-11)
    if result.stress is not None:
        assert np.allclose(atoms.get_stress(), result.stress, rtol=0, atol=1e-11)


def slab() -> Any:
    return molecule(6, 2, 3.0, cell=[[4.0, 0, 0], [1.0, 3.8, 0], [0, 0, 0]], pbc=[True, True, False])


def test_ase_finds_the_calculator_by_name() -> None:
    from ase._4.plugins import PluginCollection
    from ase.calculators.calculator import get_calculator_class

    from dpa1_fast.drivers import ase_plugin

    assert get_calculator_class("dpa1_fast") is DPA1Calculator
    (plugin,) = PluginCollection(ase_plugin.__ase_plugins__).calculators
    assert plugin.name == "dpa1_fast"
    assert plugin.implementation is DPA1Calculator
    told = tomllib.loads((Path(__file__).parents[1] / "pyproject.toml").read_text())["project"]["entry-points"]
    assert told["ase.plugins"]["dpa1_fast"] == ase_plugin.__name__


@pytest.mark.parametrize("make", [molecule, crystal, slab])
def test_every_step_is_what_the_engine_says(make: Any) -> None:
    atoms = make()
    atoms.calc = DPA1Calculator(ENGINE)
    rng = np.random.default_rng(0)
    for _ in range(6):
        same(atoms)
        atoms.positions += rng.normal(scale=0.05, size=atoms.positions.shape)
        if atoms.pbc.all():
            atoms.set_cell(atoms.cell[:] * 1.01, scale_atoms=True)
    assert atoms.calc._moving.verlet.searches < 6, "the list was reused"


def test_one_calculator_serves_one_structure_after_another() -> None:
    calc = DPA1Calculator(ENGINE)
    for atoms in (molecule(), crystal(), molecule(5, 3), slab()):
        atoms.calc = calc
        same(atoms)
    atoms.pbc = False
    same(atoms)
    atoms.symbols[0] = "C" if atoms.symbols[0] == "H" else "H"
    same(atoms)


def test_molecular_dynamics_conserves_energy() -> None:
    """Atoms leave the cell unwrapped, lists are reused and searched again, and no pair gets lost on the way."""
    atoms = bulk("Al", cubic=True) * (2, 2, 2)
    atoms.symbols[::4] = "Cu"
    atoms.calc = DPA1Calculator("almgcu-demo", threads=1)
    atoms.set_momenta(
        np.random.default_rng(0).normal(size=(len(atoms), 3)) * np.sqrt(atoms.get_masses() * 0.1)[:, None]
    )
    before = atoms.get_total_energy()
    VelocityVerlet(atoms, 1 * units.fs).run(100)
    assert atoms.calc._moving.verlet.searches > 1
    assert atoms.get_total_energy() == pytest.approx(before, abs=2e-3)  # eV, all 32 atoms; goes with dt²
    same(atoms, atoms.calc.engine)


def test_the_stress_is_the_derivative_of_the_energy() -> None:
    atoms = crystal()
    atoms.calc = DPA1Calculator(ENGINE)
    stress, volume, h = atoms.get_stress(voigt=False), atoms.get_volume(), 1e-5
    for a, b in np.ndindex(3, 3):
        energies = []
        for sign in (1, -1):
            strained, strain = atoms.copy(), np.eye(3)
            strain[a, b] += sign * h
            strained.set_cell(atoms.cell[:] @ strain, scale_atoms=True)
            strained.calc = atoms.calc
            energies.append(strained.get_potential_energy())
        assert stress[a, b] == pytest.approx((energies[0] - energies[1]) / (2 * h * volume), abs=1e-7)


def test_a_molecule_has_no_stress() -> None:
    atoms = molecule()
    atoms.calc = DPA1Calculator(ENGINE)
    with pytest.raises(PropertyNotImplementedError):
        atoms.get_stress()
    same(atoms)


def test_keywords_and_properties_are_those_of_deepmd() -> None:
    """deepmd.calculator.DP of 3.2.0: names and order."""
    names = list(inspect.signature(DPA1Calculator.__init__).parameters)[1:7]
    assert names == ["model", "label", "type_dict", "neighbor_list", "head", "nlist_backend"]
    assert {"energy", "free_energy", "forces", "virial", "stress"} <= set(DPA1Calculator.implemented_properties)
    assert DPA1Calculator("almgcu-demo", "DP", None, None, None, "auto").engine.precision == "float64"


def test_type_dict_says_which_type_an_element_is() -> None:
    atoms, renamed = molecule(), molecule()
    renamed.symbols = ["".join({"H": "C", "C": "O", "O": "H"}[s]) for s in atoms.symbols]
    atoms.calc = DPA1Calculator(ENGINE)
    renamed.calc = DPA1Calculator(ENGINE, type_dict={"C": 0, "O": 1, "H": 2})
    assert renamed.get_potential_energy() == atoms.get_potential_energy()


def test_parameters_are_read_from_info_at_every_step() -> None:
    engine = Engine(make_model(fitting=FittingConfig(neuron=(8,), numb_fparam=1, numb_aparam=1)), threads=1)
    atoms = molecule()
    atoms.calc = DPA1Calculator(engine)
    with pytest.raises(StructureError, match="frame parameters"):
        atoms.get_potential_energy()
    atoms.info["fparam"], atoms.info["aparam"] = [0.5], np.linspace(0, 1, len(atoms))
    same(atoms, engine)
    atoms.info["fparam"] = [1.5]
    atoms.positions[0] += 0.01
    same(atoms, engine)


def test_what_is_wrong_is_named_and_can_be_mended() -> None:
    atoms = molecule()
    good = atoms.positions.copy()
    atoms.calc = DPA1Calculator(ENGINE)
    same(atoms)
    atoms.positions[1] = atoms.positions[0]
    with pytest.raises(StructureError, match="atoms 0 and 1 overlap"):
        atoms.get_potential_energy()
    atoms.positions[1] = np.nan
    with pytest.raises(StructureError, match="atom 1 is not finite"):
        atoms.get_forces()
    atoms.positions = good
    same(atoms)
    atoms.symbols[0] = "Fe"
    with pytest.raises(StructureError, match="does not know the element Fe"):
        atoms.get_potential_energy()


# --- TorchSim -------------------------------------------------------------------------------------------------------

torch_sim = pytest.importorskip("torch_sim")
NVE = torch_sim.Integrator.nve if hasattr(torch_sim, "Integrator") else torch_sim.nve  # the older name


def torch_sim_model(engine: Engine = ENGINE) -> Any:
    from dpa1_fast.drivers.torchsim import DPA1Model

    return DPA1Model(engine)


def state_of(structures: list[Any]) -> Any:
    return torch_sim.io.atoms_to_state(structures, torch.device("cpu"), torch.float64)


def test_torch_sims_own_validation_passes() -> None:
    from torch_sim.models.interface import validate_model_outputs

    model = make_model(type_map=("Si", "Fe", "Mg", "C", "H"), rcut=5.0, sel=(100,))
    validate_model_outputs(torch_sim_model(Engine(model, threads=1)), torch.device("cpu"), torch.float64)


def agrees(output: Any, structures: list[Any], engine: Engine = ENGINE) -> None:
    results = engine.evaluate(structures)
    assert np.allclose(output["energy"], [r.energy for r in results], rtol=0, atol=1e-11)
    assert np.allclose(output["forces"], np.concatenate([r.forces for r in results]), rtol=0, atol=1e-11)
    for stress, result in zip(output["stress"].numpy(), results, strict=True):
        expected = np.zeros(6) if result.stress is None else result.stress
        assert np.allclose(stress, stress.T)
        assert np.allclose(stress[[0, 1, 2, 1, 0, 0], [0, 1, 2, 2, 2, 1]], expected, rtol=0, atol=1e-11)


def test_systems_keep_their_lists_as_others_leave_and_come() -> None:
    model = torch_sim_model()
    rng = np.random.default_rng(0)
    systems = [crystal(seed, 5) for seed in range(1, 5)]
    for s in systems[1:]:
        s.symbols = systems[0].symbols  # Alike in elements: positions tell who is who.
    agrees(model(state_of(systems)), systems)
    verlet = model._moving.verlet
    assert verlet.searches == 4
    systems = [systems[0], systems[2], systems[3], crystal(9, 4)]
    for s in systems:
        s.positions += rng.uniform(-0.05, 0.05, s.positions.shape)
    agrees(model(state_of(systems)), systems)
    assert verlet.searches == 5, "the new one alone is searched"
    systems = systems[::-1]
    agrees(model(state_of(systems)), systems)


def test_periodicity_is_the_states() -> None:
    for pbc in (False, [True, True, False]):
        atoms = crystal()
        atoms.pbc = pbc
        state = state_of([crystal()])
        parts = {key: getattr(state, key) for key in ("positions", "cell", "atomic_numbers", "system_idx")}
        agrees(torch_sim_model()(parts | {"pbc": torch.tensor(pbc)}), [atoms])
    model = torch_sim_model()
    flat, deep = crystal(), crystal()
    deep.pbc = False
    both = state_of([flat, flat])
    parts = {key: getattr(both, key) for key in ("positions", "cell", "atomic_numbers", "system_idx")}
    agrees(model(parts | {"pbc": torch.tensor([[True] * 3, [False] * 3])}), [flat, deep])


def test_a_bad_system_is_named() -> None:
    crowded = crystal()
    crowded.positions[1] = crowded.positions[0]
    with pytest.raises(StructureError, match="system 1: atoms 0 and 1 overlap"):
        torch_sim_model()(state_of([crystal(), crowded]))
    with pytest.raises(StructureError, match="system 0: the model does not know the element Fe"):
        torch_sim_model()(state_of([bulk("Fe")]))


def test_torch_sim_runs_dynamics_with_it() -> None:
    engine = dpa1_fast.load("almgcu-demo", threads=1)
    atoms = [bulk("Al", cubic=True), bulk("Cu", cubic=True) * (2, 1, 1)]
    final = torch_sim.integrate(
        atoms, torch_sim_model(engine), integrator=NVE, n_steps=20, temperature=300, timestep=0.002
    )
    agrees(torch_sim_model(engine)(final), final.to_atoms(), engine)


def test_slabs_of_ase_have_a_stress_only_with_a_volume() -> None:
    atoms = fcc111("Al", (1, 1, 3), vacuum=6.0)
    atoms.calc = DPA1Calculator("almgcu-demo", threads=1)
    assert atoms.get_stress().shape == (6,)
    atoms.cell[2] = 0.0
    with pytest.raises(PropertyNotImplementedError):
        atoms.get_stress()


def test_without_torch_sim_its_driver_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [n for n in sys.modules if n.startswith(("torch_sim", "dpa1_fast.drivers", "dpa1_fast.screening"))]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "torch_sim", None)
    with pytest.raises(ImportError, match=r"pip install 'dpa1-fast\[torchsim\]'"):
        importlib.import_module("dpa1_fast.drivers.torchsim")
