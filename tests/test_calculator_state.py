"""A calculator answers for the atoms it is asked about, whatever was asked, changed or refused before."""

from __future__ import annotations

import copy
import pickle
import pickletools
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import pytest
import torch
from ase import Atoms
from ase.build import bulk
from ase.calculators.calculator import CalculatorSetupError, PropertyNotImplementedError
from ase.mep import NEB
from conftest import DATA, crystal, make_model, molecule

import dpa1_fast
from dpa1_fast import DeepPot, Engine
from dpa1_fast.config import FittingConfig
from dpa1_fast.drivers.ase import DPA1Calculator
from dpa1_fast.errors import BackendError, StructureError

ENGINE = Engine(make_model(), threads=1)
WITH_PARAMETERS = Engine(make_model(fitting=FittingConfig(neuron=(8,), numb_fparam=1, numb_aparam=1)), threads=1)


def fresh(atoms: Atoms, name: str = "energy", engine: Engine = ENGINE) -> bytes:
    """What a calculator says that never saw anything else, to the last bit."""
    return np.asarray(DPA1Calculator(engine).get_property(name, atoms.copy())).tobytes()


def bits(value: Any) -> bytes:
    return np.asarray(value).tobytes()


def with_parameters() -> Atoms:
    atoms = molecule()
    atoms.info["fparam"] = [0.5]
    atoms.set_array("aparam", np.linspace(0, 1, len(atoms)))
    return atoms


# --- errors ---------------------------------------------------------------------------------------------------------


def test_a_refused_structure_is_refused_again_and_leaves_nothing_behind() -> None:
    calc, good, unknown = DPA1Calculator(ENGINE), molecule(), bulk("Au", cubic=True)
    good.calc = unknown.calc = calc
    good.get_potential_energy()
    for ask in (unknown.get_potential_energy, unknown.get_forces, unknown.get_stress, unknown.get_potential_energy):
        with pytest.raises(StructureError, match="does not know the element Au"):
            ask()
        assert calc.results == {}
        assert calc.atoms is None
    unknown.rattle(0.05)
    with pytest.raises(StructureError, match="does not know the element Au"):
        unknown.get_forces()
    with pytest.raises(CalculatorSetupError, match="no atoms"):
        calc.get_potential_energy()
    assert bits(good.get_potential_energy()) == fresh(good)


@pytest.mark.parametrize("error", [MemoryError, KeyboardInterrupt])
def test_an_evaluation_that_is_cut_short_leaves_nothing_behind(error: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    atoms = molecule()
    calc = atoms.calc = DPA1Calculator(ENGINE)
    atoms.get_forces()
    atoms.positions[0] += 0.01

    def cut_short(*_: Any) -> None:
        raise error

    with monkeypatch.context() as patch:
        patch.setattr(type(calc._moving), "step", cut_short)
        with pytest.raises(error):
            atoms.get_forces()
        assert calc.results == {}
    assert bits(atoms.get_forces()) == fresh(atoms, "forces")


def test_what_the_caller_says_of_changes_is_not_believed() -> None:
    calc, a, b = DPA1Calculator(ENGINE), molecule(), molecule(seed=3)
    calc.calculate(a, ["energy"], [])
    calc.calculate(b, ["energy"], [])
    assert bits(calc.results["energy"]) == fresh(b)
    calc.calculate(a, ["energy"], ["positions"])
    assert bits(calc.results["energy"]) == fresh(a)


def test_asking_for_the_stress_of_a_molecule_does_not_cost_its_energy() -> None:
    atoms = molecule()
    calc = atoms.calc = DPA1Calculator(ENGINE)
    atoms.get_forces()
    known = calc.results
    with pytest.raises(PropertyNotImplementedError, match="no volume"):
        atoms.get_stress()
    assert calc.results is known
    assert not calc.calculation_required(atoms, ["energy", "forces"])


def test_charges_and_magnetic_moments_do_not_matter_to_the_model() -> None:
    atoms = molecule()
    calc = atoms.calc = DPA1Calculator(ENGINE)
    atoms.get_forces()
    atoms.set_initial_charges(np.ones(len(atoms)))
    assert calc.check_state(atoms) == []
    atoms.positions[0, 0] = np.nextafter(atoms.positions[0, 0], 9)
    assert calc.check_state(atoms) == ["positions"], "the last bit counts"


# --- parameters -----------------------------------------------------------------------------------------------------


def test_parameters_count_at_once() -> None:
    atoms = with_parameters()
    atoms.calc = DPA1Calculator(WITH_PARAMETERS)
    seen = set()

    def ask() -> None:
        energy = bits(atoms.get_potential_energy())
        assert energy == fresh(atoms, engine=WITH_PARAMETERS)
        assert bits(atoms.get_forces()) == fresh(atoms, "forces", WITH_PARAMETERS)
        seen.add(energy)

    ask()
    atoms.info["fparam"] = np.array([2.0])
    ask()
    atoms.info["fparam"][0] = -1.0  # in place: what was remembered must not be the same array
    ask()
    atoms.arrays["aparam"][0] = 3.0
    ask()
    del atoms.arrays["aparam"]
    with pytest.raises(StructureError, match="atomic parameters"):
        atoms.get_potential_energy()
    atoms.info["aparam"] = [0.7]
    ask()
    atoms.info["aparam"] = [0.8]
    ask()
    assert len(seen) == 6, "every change made a difference"
    del atoms.info["fparam"]
    with pytest.raises(StructureError, match="frame parameters"):
        atoms.get_forces()


def test_parameters_that_a_model_does_not_have_are_not_looked_at() -> None:
    atoms = molecule()
    calc = atoms.calc = DPA1Calculator(ENGINE)
    atoms.get_potential_energy()
    atoms.info["fparam"] = object()
    assert not calc.calculation_required(atoms, ["energy"])


# --- several users --------------------------------------------------------------------------------------------------


def test_two_threads_share_one_calculator() -> None:
    calc = DPA1Calculator(ENGINE)
    structures = [molecule(seed=k) if k % 2 else crystal(k) for k in range(4)]
    expected = [(fresh(a), fresh(a, "forces")) for a in structures]

    def ask(k: int) -> bool:
        atoms = structures[k].copy()
        return all(
            (bits(calc.get_property("energy", atoms)), bits(calc.get_property("forces", atoms))) == expected[k]
            for _ in range(40)
        )

    with ThreadPoolExecutor(4) as pool:
        assert all(pool.map(ask, range(4)))


def test_a_band_shares_one_calculator() -> None:
    start, end = molecule(5), molecule(5)
    end.positions[0] += 0.5

    def band(shared: bool) -> Any:
        images = [start.copy() for _ in range(5)]
        images[-1].positions = end.positions
        calc = DPA1Calculator(ENGINE)
        for image in images:
            image.calc = calc if shared else DPA1Calculator(ENGINE)
        neb = NEB(images, method="improvedtangent", allow_shared_calculator=shared)
        neb.interpolate()
        return neb.get_forces()

    assert bits(band(shared=True)) == bits(band(shared=False))


# --- copies ---------------------------------------------------------------------------------------------------------


def by_pickle(x: Any) -> Any:
    return pickle.loads(pickle.dumps(x))  # noqa: S301 (made here)


WAYS = {"copy": copy.copy, "deepcopy": copy.deepcopy, "pickle": by_pickle}


def functions_in(data: bytes) -> set[str]:
    """Modules from which a pickle takes classes and functions."""
    texts: list[str] = []
    modules = set()
    for operation, argument, _ in pickletools.genops(data):
        if isinstance(argument, str):
            texts.append(argument)
        if operation.name in ("STACK_GLOBAL", "GLOBAL", "INST"):
            modules.add(texts[-2] if operation.name == "STACK_GLOBAL" else argument.split()[0])
    return modules


@pytest.mark.parametrize("way", WAYS)
def test_copies_of_a_calculator_go_their_own_ways(way: str) -> None:
    a, b = molecule(), molecule(seed=3)
    calc = a.calc = DPA1Calculator(ENGINE, type_dict={"H": 0, "C": 1, "O": 2}, skin=0.3)
    energy = a.get_potential_energy()
    other = b.calc = WAYS[way](calc)
    assert other.get_potential_energy() == energy, "what was known is known"
    assert other.type_dict == calc.type_dict
    assert (other.engine is calc.engine) == (way == "copy")
    assert bits(b.get_forces()) == fresh(b, "forces")
    assert bits(calc.results["energy"]) == fresh(a)
    assert calc.check_state(a) == []
    a.positions += 0.01
    assert bits(a.get_forces()) == fresh(a, "forces")


@pytest.mark.parametrize("way", ["deepcopy", "pickle"])
def test_copies_of_atoms_carry_their_calculator(way: str) -> None:
    atoms = crystal()
    atoms.calc = DPA1Calculator(ENGINE)
    for known in (False, True):
        other = WAYS[way](atoms)
        assert other.calc is not atoms.calc
        assert ("energy" in other.calc.results) == known
        assert bits(other.get_stress()) == fresh(atoms, "stress")
        atoms.get_stress()


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("options", [{"precision": "float32"}, {"backend": "reference"}, {"threads": 2}])
def test_copies_of_an_engine_carry_model_and_options(way: str, options: dict[str, Any]) -> None:
    engine, structures = Engine(make_model(tebd_input_mode="strip"), **options), [molecule(), crystal()]
    other = WAYS[way](engine)
    for name in ("backend", "precision", "threads", "device", "config", "fixed_shape"):
        assert getattr(other, name) == getattr(engine, name), name
    for x, y in zip(engine.evaluate(structures), other.evaluate(structures), strict=True):
        assert bits(x.energy) == bits(y.energy)
        assert bits(x.forces) == bits(y.forces)
    assert all(
        bits(x) == bits(y) for x, y in zip(engine.descriptors(structures), other.descriptors(structures), strict=True)
    )


@pytest.mark.parametrize("file", ["econf_float32.pth", "concat_smooth_davg.dp", "v2_parameters.pt"])
@pytest.mark.usefixtures("quiet")
def test_any_model_file_survives_a_pickle_without_a_second_warning(file: str, recwarn: Any) -> None:
    potential = DeepPot(DATA / file, threads=1)
    recwarn.clear()
    other = by_pickle(potential)
    assert not recwarn.list
    n, more = 4, {"aparam": [0.5]} if potential.get_dim_aparam() else {}
    coords = np.random.default_rng(0).uniform(0, 4, (1, n, 3))
    types = [0, 1, 1, 0]
    for x, y in zip(potential.eval(coords, None, types, **more), other.eval(coords, None, types, **more), strict=True):
        assert bits(x) == bits(y)


def test_loading_a_pickled_engine_runs_one_function_of_ours_and_draws_no_random_numbers() -> None:
    data = pickle.dumps(ENGINE)
    assert functions_in(data) == {"dpa1_fast.engine"}
    assert functions_in(pickle.dumps(DPA1Calculator(ENGINE))) <= {"dpa1_fast.drivers.ase", "dpa1_fast.engine"} | {
        "ase.calculators.calculator"
    }
    before = torch.get_rng_state()
    pickle.loads(data)  # noqa: S301 (made here)
    assert torch.equal(torch.get_rng_state(), before)


def test_a_pickle_that_cannot_be_served_says_so() -> None:
    function, (config, tensors, *options) = ENGINE.__reduce__()
    with pytest.raises(ValueError, match="not a dpa1-fast model that was pickled"):
        function(config, tensors[:-8], *options)
    with pytest.raises(ValueError, match="not a dpa1-fast model that was pickled"):
        function(Engine(make_model(attn_layer=1)).__reduce__()[1][0], tensors, *options)
    with pytest.raises(BackendError, match="precision 'float8'"):
        function(config, tensors, "cpu", "reference", "float8", 1, False)


# --- TorchSim -------------------------------------------------------------------------------------------------------


def torch_sim_parts(structures: list[Atoms], **options: Any) -> tuple[Any, Any]:
    """A model, and the state of the structures."""
    torch_sim = pytest.importorskip("torch_sim")
    from dpa1_fast.drivers.torchsim import DPA1Model

    state = torch_sim.io.atoms_to_state(structures, torch.device("cpu"), torch.float64)
    return DPA1Model(ENGINE, **options), state


def test_torch_sim_gets_only_what_it_wants() -> None:
    model, state = torch_sim_parts([crystal()])
    whole = model(state)
    for forces, stress in ((True, False), (False, True), (False, False), (True, True)):
        model.compute_forces, model.compute_stress = forces, stress
        assert (model.compute_forces, model.compute_stress) == (forces, stress)
        other, _ = torch_sim_parts([crystal()], compute_forces=forces, compute_stress=stress)
        for out in (model(state), other(state)):
            assert set(out) == {"energy", *["forces"] * forces, *["stress"] * stress}
            assert all(torch.equal(x, whole[name]) for name, x in out.items())


def test_a_torch_sim_state_that_failed_leaves_nothing_behind() -> None:
    good, bad = crystal(), crystal(2)
    bad.symbols[0] = "Fe"
    model, state = torch_sim_parts([good])
    _, refused = torch_sim_parts([good, bad])
    whole = model(state)
    for _ in range(2):
        with pytest.raises(StructureError, match="system 1: the model does not know the element Fe"):
            model(refused)
    assert all(torch.equal(x, whole[name]) for name, x in model(state).items())


def test_errors_name_a_system_by_its_present_place() -> None:
    systems = [crystal(3), crystal(1), crystal(2)]
    model, state = torch_sim_parts(systems)
    model(state)
    systems = systems[1:]
    _, state = torch_sim_parts(systems)
    state.positions[-1] = state.positions[-2]
    with pytest.raises(StructureError, match=r"^system 1: atoms 3 and 4 overlap"):
        model(state)


@pytest.mark.parametrize(
    ("index", "systems"), [([0, 1, 0, 1, 1], 2), ([0] * 5, 2), ([1] * 5, 1), ([0, 0, 0, 2, 2], 3), ([0] * 4, 1)]
)
def test_a_torch_sim_state_whose_parts_do_not_fit_is_refused(index: list[int], systems: int) -> None:
    model, state = torch_sim_parts([crystal()])
    parts = {"positions": state.positions, "atomic_numbers": state.atomic_numbers, "pbc": True}
    cells = state.cell.expand(systems, 3, 3)
    with pytest.raises(ValueError, match="system_idx must go from 0 to"):
        model(parts | {"system_idx": torch.tensor(index), "cell": cells})
    with pytest.raises(ValueError, match="positions of shape"):
        model(parts | {"system_idx": None, "cell": state.cell, "positions": state.positions[:4]})


@pytest.mark.parametrize("way", WAYS)
def test_copies_of_a_torch_sim_model(way: str) -> None:
    model, state = torch_sim_parts([crystal(), crystal(2)], compute_stress=False)
    whole = model(state)
    other = WAYS[way](model)
    found = other(state)
    assert set(found) == {"energy", "forces"}
    assert all(torch.equal(x, whole[name]) for name, x in found.items())
    assert (other.engine is model.engine) == (way == "copy")
    other.compute_stress = True
    assert not model.compute_stress


def test_the_bundled_models_calculator_can_be_copied_too() -> None:
    atoms = bulk("Al", cubic=True)
    atoms.calc = DPA1Calculator("almgcu-demo", threads=1)
    engine = dpa1_fast.load("almgcu-demo", threads=1)
    assert bits(copy.deepcopy(atoms).get_potential_energy()) == fresh(atoms, engine=engine)
