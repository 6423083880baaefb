"""TorchSim's own tests of a model: what its validator, its calculator consistency and its autobatchers want.

With TorchSim 0.3 (Python 3.11) and from 0.6 (Python 3.12); what only the newer one has is asked of that alone.
"""

from __future__ import annotations

from typing import Any, get_args

import pytest
import torch
from conftest import crystal, make_model, molecule

from dpa1_fast import Engine
from dpa1_fast.drivers.ase import DPA1Calculator
from dpa1_fast.kernels.outputs import Outputs
from dpa1_fast.structures.batch import Batch

pytestmark = pytest.mark.drivers

ts = pytest.importorskip("torch_sim")
from torch_sim.models.interface import validate_model_outputs  # noqa: E402
from torch_sim.typing import MemoryScaling  # noqa: E402

CPU = torch.device("cpu")
TYPES = ("H", "C", "N", "O", "Mg", "Si", "Fe", "Ar", "Cu", "Al", "S", "Ca", "Ti", "Os")
ENGINE = Engine(make_model(type_map=TYPES), threads=1)


def model_of(engine: Engine = ENGINE) -> Any:
    from dpa1_fast.drivers.torchsim import DPA1Model

    return DPA1Model(engine)


def state_of(structures: list[Any]) -> Any:
    return ts.io.atoms_to_state(structures, CPU, torch.float64)


def test_the_validator_is_content() -> None:
    validate_model_outputs(model_of(), CPU, torch.float64)


def test_results_are_those_of_our_calculator() -> None:
    """By TorchSim's own comparison where it has one (0.6), over its own states whose elements the model knows."""
    try:
        from torch_sim.testing import SIMSTATE_GENERATORS, assert_model_calculator_consistency
    except ImportError:
        model, calculator = model_of(), DPA1Calculator(ENGINE)
        for atoms in (crystal(), molecule()):
            out = model(state_of([atoms]))
            atoms.calc = calculator
            assert abs(float(out["energy"]) - atoms.get_potential_energy()) < 1e-10
            assert abs(out["forces"].numpy() - atoms.get_forces()).max() < 1e-10
        return
    known = {name: make(CPU, torch.float64) for name, make in SIMSTATE_GENERATORS.items()}
    symbols = {name: set(ts.io.state_to_atoms(s)[0].symbols) for name, s in known.items()}
    done = 0
    for name, state in known.items():
        if symbols[name] <= set(TYPES) and ts.io.state_to_atoms(state)[0].pbc.all():
            assert_model_calculator_consistency(model_of(), DPA1Calculator(ENGINE), state, *[1e-10] * 6)
            done += 1
    assert done >= 5, done


def test_memory_goes_with_what_this_version_can_count() -> None:
    assert model_of().memory_scales_with == ("n_edges" if "n_edges" in get_args(MemoryScaling) else "n_atoms")


def test_the_autobatcher_makes_batches_that_fit(monkeypatch: pytest.MonkeyPatch) -> None:
    """A backend that holds forty atoms at a time: TorchSim finds that out, and evaluates all."""
    most, run = 40, type(ENGINE.evaluator).__call__

    def small(self: Any, batch: Batch, *args: Any, **options: Any) -> Outputs:
        if batch.n_atoms > most:
            raise MemoryError("the CPU engine ran out of memory")
        return run(self, batch, *args, **options)

    systems = [crystal(seed, 4 + seed % 2) for seed in range(1, 9)]
    expected = [r.energy for r in ENGINE.evaluate(systems)]
    monkeypatch.setattr(type(ENGINE.evaluator), "__call__", small)
    # The engine halves batches by itself until one structure is left; here that is not enough.
    monkeypatch.setattr("dpa1_fast.scheduler.halves", lambda batch: None)
    with pytest.raises(RuntimeError, match="CUDA out of memory"):
        model_of()(state_of([crystal(1, 5)] * 9))
    # TorchSim measures memory on GPUs alone: here it only sees whether a batch passes.
    monkeypatch.setattr("torch_sim.autobatching.measure_model_memory_forward", lambda state, model: bool(model(state)))
    batcher = ts.BinningAutoBatcher(model_of(), memory_scales_with=model_of().memory_scales_with, max_atoms_to_try=200)
    found = ts.static(state_of(systems), model_of(), autobatcher=batcher)
    energies = [float(p["potential_energy"]) for p in found]
    assert energies == pytest.approx(expected, abs=1e-10)


def test_molecular_dynamics_runs() -> None:
    final = ts.integrate(
        state_of([crystal(), crystal(2)]), model_of(), integrator=ts.Integrator.nve if hasattr(ts, "Integrator") else
        ts.integrators.nve, n_steps=3, temperature=100, timestep=0.0005,
    )  # fmt: skip
    assert torch.isfinite(final.positions).all()
