"""Whatever was asked of a calculator before, and whatever failed: it answers what a fresh one answers, bit for bit.

A sequence edits one of three structures, asks one ASE calculator that serves them all, and asks a fresh calculator the
same. The same with one TorchSim model, whose states are edited. ``--fuzz-examples N`` says how many sequences,
``--fuzz-first N`` which.
"""

from __future__ import annotations

import copy
import pickle
from collections.abc import Callable
from typing import Any

import hypothesis
import numpy as np
import pytest
import torch
from ase import Atoms
from conftest import crystal, make_model, molecule
from hypothesis import given, settings
from hypothesis import strategies as st

from dpa1_fast import Engine
from dpa1_fast.config import FittingConfig
from dpa1_fast.drivers.ase import DPA1Calculator

pytestmark = pytest.mark.filterwarnings("ignore::dpa1_fast.errors.DPA1Warning")

PARAMETERS = FittingConfig(neuron=(8,), numb_fparam=1, numb_aparam=1, default_fparam=(0.3,))
ENGINES = {
    "plain": Engine(make_model(), threads=1),
    "parameters": Engine(make_model(fitting=PARAMETERS, attn_layer=1), threads=1),
    "crowded": Engine(make_model(sel=(4,), exclude_types=((0, 1),), attn_layer=0), threads=1),
}
Random = np.random.Generator


# --- what may happen to atoms ---------------------------------------------------------------------------------------


def nudge(atoms: Atoms, rng: Random) -> None:
    atoms.positions += rng.normal(scale=0.02, size=atoms.positions.shape)


def shake(atoms: Atoms, rng: Random) -> None:
    atoms.positions += rng.normal(scale=0.3, size=atoms.positions.shape)


def last_bit(atoms: Atoms, rng: Random) -> None:
    atoms.positions[0, 0] = np.nextafter(atoms.positions[0, 0], rng.choice([-9.0, 9.0]))


def mend(atoms: Atoms, rng: Random) -> None:
    good = crystal(int(rng.integers(8)), len(atoms)) if rng.random() < 0.5 else molecule(len(atoms), 1)
    atoms.positions, atoms.numbers, atoms.pbc = good.positions, good.numbers, good.pbc
    atoms.cell = good.cell
    atoms.info["fparam"] = [0.5]
    atoms.set_array("aparam", np.linspace(0, 1, len(atoms)))


def strain(atoms: Atoms, rng: Random) -> None:
    atoms.set_cell(atoms.cell[:] @ (np.eye(3) + rng.normal(scale=0.02, size=(3, 3))), scale_atoms=bool(rng.integers(2)))


def flatten(atoms: Atoms, rng: Random) -> None:
    atoms.cell[int(rng.integers(3))] = 0.0


def periodicity(atoms: Atoms, rng: Random) -> None:
    atoms.pbc = rng.integers(2, size=3)


def element(atoms: Atoms, rng: Random) -> None:
    atoms.symbols[int(rng.integers(len(atoms)))] = rng.choice(["H", "C", "O", "X"])


def stranger(atoms: Atoms, _: Random) -> None:
    atoms.symbols[-1] = "Fe"


def reorder(atoms: Atoms, rng: Random) -> None:
    order = rng.permutation(len(atoms))
    atoms.positions, atoms.numbers = atoms.positions[order], atoms.numbers[order]


def exchange(atoms: Atoms, rng: Random) -> None:
    order = rng.permutation(len(atoms))
    atoms.numbers = atoms.numbers[order]


def shift(atoms: Atoms, rng: Random) -> None:
    atoms.positions[int(rng.integers(len(atoms)))] += rng.integers(-2, 3, size=3) @ atoms.cell[:]


def overlap(atoms: Atoms, _: Random) -> None:
    atoms.positions[-1] = atoms.positions[0]


def not_a_number(atoms: Atoms, rng: Random) -> None:
    atoms.positions[int(rng.integers(len(atoms))), 1] = rng.choice([np.nan, np.inf])


def grow(atoms: Atoms, rng: Random) -> None:
    if len(atoms) < 7:
        atoms.extend(Atoms("C", positions=[rng.uniform(-3, 6, 3)]))


def shrink(atoms: Atoms, rng: Random) -> None:
    if len(atoms) > 1:
        del atoms[int(rng.integers(len(atoms)))]


def fparam(atoms: Atoms, rng: Random) -> None:
    atoms.info["fparam"] = rng.normal(size=1)


def fparam_in_place(atoms: Atoms, rng: Random) -> None:
    if isinstance(atoms.info.get("fparam"), (list, np.ndarray)):
        atoms.info["fparam"][0] = float(rng.normal())


def no_fparam(atoms: Atoms, _: Random) -> None:
    atoms.info.pop("fparam", None)


def bad_fparam(atoms: Atoms, _: Random) -> None:
    atoms.info["fparam"] = [1.0, 2.0]


def aparam(atoms: Atoms, rng: Random) -> None:
    atoms.set_array("aparam", rng.normal(size=len(atoms)))


def no_aparam(atoms: Atoms, _: Random) -> None:
    atoms.arrays.pop("aparam", None)


def aparam_in_info(atoms: Atoms, rng: Random) -> None:
    atoms.info["aparam"] = rng.normal(size=len(atoms)).tolist()


EDITS = (
    nudge, nudge, shake, last_bit, mend, mend, mend, strain, flatten, periodicity, element, stranger, reorder, exchange,
    shift, overlap, not_a_number, grow, shrink, fparam, fparam_in_place, no_fparam, bad_fparam, aparam, no_aparam,
    aparam_in_info,
)  # fmt: skip


# --- ASE ------------------------------------------------------------------------------------------------------------


def as_it_is(calc: DPA1Calculator) -> DPA1Calculator:
    return calc


def without_results(calc: DPA1Calculator) -> DPA1Calculator:
    calc.results.clear()
    return calc


def reset(calc: DPA1Calculator) -> DPA1Calculator:
    calc.reset()
    return calc


def meddled(calc: DPA1Calculator) -> DPA1Calculator:
    if calc.atoms is not None:
        calc.atoms.positions[0] += 0.1
    return calc


def pickled(calc: DPA1Calculator) -> DPA1Calculator:
    return pickle.loads(pickle.dumps(calc))  # type: ignore[no-any-return]  # noqa: S301 (made here)


HANDLING = (*[as_it_is] * 12, without_results, reset, meddled, copy.copy, copy.deepcopy, pickled)

PROPERTIES = ("energy", "free_energy", "forces", "energies", "virial", "stress")


def of_atoms(calc: DPA1Calculator, atoms: Atoms, name: str) -> Any:
    """As programs ask: through the atoms."""
    atoms.calc = calc
    return getattr(atoms, {"energy": "get_potential_energy", "energies": "get_potential_energies"}[name])()


def lied_to(calc: DPA1Calculator, atoms: Atoms, name: str) -> Any:
    """Nothing changed, a caller says."""
    calc.calculate(atoms, [name], [])
    return calc.results[name]


def asked(calc: DPA1Calculator, atoms: Atoms, name: str) -> Any:
    return calc.get_property(name, atoms)


def known(calc: DPA1Calculator, atoms: Atoms, name: str) -> Any:
    """What is known already, if it is."""
    if calc.calculation_required(atoms, [name]):
        assert calc.get_property(name, atoms, allow_calculation=False) is None
        return calc.get_property(name, atoms)
    return calc.get_property(name, atoms, allow_calculation=False)


def last(calc: DPA1Calculator, _: Atoms, name: str) -> Any:
    """Of the atoms that it holds."""
    return calc.get_property(name)


def answer(ask: Callable[..., Any], calc: DPA1Calculator, atoms: Atoms, name: str) -> Any:
    try:
        value = ask(calc, atoms, name)
    except Exception as error:
        return type(error).__name__, str(error)
    return np.shape(value), np.asarray(value).tobytes()


QUESTIONS = [
    *((ask, name) for ask in (asked, known, last, lied_to) for name in PROPERTIES),
    (of_atoms, "energy"), (of_atoms, "energies"),
]  # fmt: skip
ASE_STEPS = st.tuples(
    st.sampled_from(EDITS),
    st.integers(0, 2),
    st.integers(0, 9999),
    st.sampled_from(HANDLING),
    st.sampled_from(QUESTIONS),
)


def ase_sequence(engine: Engine, steps: Any) -> None:
    calc = DPA1Calculator(engine)
    structures = [
        molecule(3),
        crystal(1, 4),
        molecule(4, 2, 3.0, cell=np.diag([4.0, 3.8, 0.0]), pbc=[True, True, False]),
    ]
    for atoms in structures:
        atoms.info["fparam"] = [0.5]
        atoms.set_array("aparam", np.linspace(0, 1, len(atoms)))
    for edit, which, seed, handle, (ask, name) in steps:
        atoms = structures[which]
        edit(atoms, np.random.default_rng(seed))
        calc = handle(calc)
        fresh, about = DPA1Calculator(engine), calc.atoms if ask is last else atoms
        if about is None:
            assert answer(ask, calc, atoms, name)[0] == "CalculatorSetupError"
            continue
        expected = answer(asked, fresh, about.copy(), name)
        assert answer(ask, calc, atoms, name) == expected, (edit.__name__, ask.__name__, name)
        if isinstance(expected[0], str) and expected[0] != "PropertyNotImplementedError":
            assert calc.results == {}
            assert calc.atoms is None


@pytest.mark.parametrize("kind", ENGINES)
def test_an_ase_calculator_answers_what_a_fresh_one_answers(kind: str, fuzz_examples: int, fuzz_first: int) -> None:
    @settings(max_examples=fuzz_examples, deadline=None, database=None, derandomize=True)
    @hypothesis.seed(fuzz_first)
    @given(st.lists(ASE_STEPS, min_size=2, max_size=10))
    def run(steps: Any) -> None:
        ase_sequence(ENGINES[kind], steps)

    run()


# --- TorchSim -------------------------------------------------------------------------------------------------------


def state_of(systems: list[Atoms]) -> dict[str, Any]:
    return {
        "positions": torch.from_numpy(np.concatenate([a.positions for a in systems])),
        "cell": torch.from_numpy(np.stack([a.cell[:].T for a in systems])),
        "atomic_numbers": torch.from_numpy(np.concatenate([a.numbers for a in systems])),
        "system_idx": torch.repeat_interleave(torch.tensor([len(a) for a in systems])),
        "pbc": torch.from_numpy(np.stack([a.pbc for a in systems])),
    }


def leave(systems: list[Atoms], rng: Random) -> None:
    if len(systems) > 1:
        del systems[int(rng.integers(len(systems)))]


def come(systems: list[Atoms], rng: Random) -> None:
    if len(systems) < 5:
        new = systems[0].copy() if rng.integers(2) else crystal(int(rng.integers(9)), 4)
        systems.insert(int(rng.integers(len(systems) + 1)), new)


def mix(systems: list[Atoms], rng: Random) -> None:
    rng.shuffle(systems)  # type: ignore[arg-type]


def one(edit: Callable[[Atoms, Random], None]) -> Callable[[list[Atoms], Random], None]:
    """The edit of one of the systems."""

    def on(systems: list[Atoms], rng: Random) -> None:
        edit(systems[int(rng.integers(len(systems)))], rng)

    on.__name__ = edit.__name__
    return on


def everyone(systems: list[Atoms], rng: Random) -> None:
    for atoms in systems:
        nudge(atoms, rng)


def all_mended(systems: list[Atoms], rng: Random) -> None:
    for atoms in systems:
        mend(atoms, rng)


STATE_EDITS = (*map(one, EDITS), leave, leave, come, come, mix, everyone, everyone, *[all_mended] * 6)
MODEL_HANDLING = (*["as it is"] * 12, "copy", "deepcopy", "pickle")
STATE_STEPS = st.tuples(
    st.sampled_from(STATE_EDITS), st.integers(0, 9999), st.sampled_from(MODEL_HANDLING), st.booleans(), st.booleans()
)


def outputs(model: Any, state: Any) -> Any:
    try:
        found = model(state)
    except Exception as error:
        return type(error).__name__, str(error)
    return {name: (tuple(x.shape), x.numpy().tobytes()) for name, x in found.items()}


def torch_sim_sequence(engine: Engine, steps: Any) -> None:
    from dpa1_fast.drivers.torchsim import DPA1Model

    ways: dict[str, Callable[[Any], Any]] = {"as it is": lambda x: x, "copy": copy.copy, "deepcopy": copy.deepcopy}
    ways["pickle"] = lambda x: pickle.loads(pickle.dumps(x))  # noqa: S301 (made here)
    model, systems = DPA1Model(engine), [molecule(3), crystal(1, 4), crystal(2, 4)]
    for edit, seed, handling, forces, stress in steps:
        edit(systems, np.random.default_rng(seed))
        model = ways[handling](model)
        model.compute_forces, model.compute_stress = forces, stress
        state = state_of(systems)
        expected = outputs(DPA1Model(engine, compute_forces=forces, compute_stress=stress), state)
        assert outputs(model, state) == expected, edit.__name__
        if isinstance(expected, dict):
            assert set(expected) == {"energy", *["forces"] * forces, *["stress"] * stress}


@pytest.mark.parametrize("kind", ["plain", "crowded"])
def test_a_torch_sim_model_answers_what_a_fresh_one_answers(kind: str, fuzz_examples: int, fuzz_first: int) -> None:
    pytest.importorskip("torch_sim")

    @settings(max_examples=fuzz_examples, deadline=None, database=None, derandomize=True)
    @hypothesis.seed(fuzz_first)
    @given(st.lists(STATE_STEPS, min_size=2, max_size=10))
    def run(steps: Any) -> None:
        torch_sim_sequence(ENGINES[kind], steps)

    run()
