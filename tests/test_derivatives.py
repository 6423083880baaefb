"""Forces and virials are the derivatives of the energy, and the energy has the symmetries of physics."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from conftest import OPTIONS, crystal, make_model, molecule

from dpa1_fast import DPA1, Engine
from dpa1_fast.structures.batch import collate, neighborhood
from dpa1_fast.structures.structure import from_ase

STEP = 1e-4  # Å; central differences of fourth order


def energy(engine: Engine, atoms: object) -> float:
    return engine.evaluate([atoms])[0].energy


def slope(f: object) -> float:
    """Derivative at 0 of a function of one number, to fourth order in STEP."""
    a, b, c, d = (f(k * STEP) for k in (-2, -1, 1, 2))  # type: ignore[operator]
    return (a - 8 * b + 8 * c - d) / (12 * STEP)


@pytest.mark.parametrize("make", [molecule, crystal])
def test_forces_are_minus_the_gradient(model: DPA1, make: object) -> None:
    engine, atoms = Engine(model), make()  # type: ignore[operator]
    forces = engine.evaluate([atoms])[0].forces
    for i, axis in [(0, 0), (1, 1), (len(atoms) - 1, 2)]:

        def moved(x: float, i: int = i, axis: int = axis) -> float:
            other = atoms.copy()
            other.positions[i, axis] += x
            return energy(engine, other)

        assert abs(slope(moved) + forces[i, axis]) < 2e-8


def test_virial_is_minus_the_strain_derivative(model: DPA1) -> None:
    engine, atoms = Engine(model), crystal()
    result = engine.evaluate([atoms])[0]
    for a, b in [(0, 0), (1, 1), (2, 0), (1, 2)]:

        def strained(x: float, a: int = a, b: int = b) -> float:
            strain = np.eye(3)
            strain[b, a] += x
            other = atoms.copy()
            other.set_cell(atoms.cell[:] @ strain, scale_atoms=True)
            return energy(engine, other)

        assert abs(slope(strained) + result.virial[a, b]) < 5e-8
    assert result.stress is not None
    assert np.allclose(result.stress[:3], -np.diag(result.virial) / atoms.get_volume(), atol=1e-14)


def test_atomic_parts_sum_to_the_whole(model: DPA1) -> None:
    result = Engine(model).evaluate([crystal()], atomic_virials=True)[0]
    assert result.atomic_virials is not None
    assert abs(result.energies.sum() - result.energy) < 1e-12
    assert np.abs(result.atomic_virials.sum(0) - result.virial).max() < 1e-12
    assert np.abs(result.forces.sum(0)).max() < 1e-12


def test_rotation_translation_permutation(model: DPA1) -> None:
    engine, atoms = Engine(model), molecule()
    before = engine.evaluate([atoms])[0]
    turn = np.linalg.qr(np.random.default_rng(3).normal(size=(3, 3)))[0]
    order = np.random.default_rng(4).permutation(len(atoms))
    moved = atoms.copy()
    moved.positions = atoms.positions @ turn.T + [3.0, -2.0, 7.0]
    after = engine.evaluate([moved[order]])[0]
    assert abs(after.energy - before.energy) < 1e-11
    assert np.abs(after.forces - before.forces[order] @ turn.T).max() < 1e-11
    assert np.abs(after.virial - turn @ before.virial @ turn.T).max() < 1e-11


def test_a_lattice_vector_more_or_less_changes_nothing(model: DPA1) -> None:
    engine, atoms = Engine(model), crystal()
    before = engine.evaluate([atoms])[0]
    moved = atoms.copy()
    moved.positions[0] += atoms.cell[0] - 2 * atoms.cell[2]
    after = engine.evaluate([moved])[0]
    assert abs(after.energy - before.energy) < 1e-11
    assert np.abs(after.forces - before.forces).max() < 1e-11


@pytest.mark.parametrize("name", [n for n, o in OPTIONS.items() if o.get("smooth_type_embedding", True)])
def test_smooth_models_are_smooth_across_the_cutoff(name: str) -> None:
    model = make_model(**OPTIONS[name])
    engine, rcut = Engine(model), model.config.rcut
    atoms = molecule(4, seed=2, box=2.0)
    atoms += molecule(1, seed=5)

    direction = np.array([1.0, 0.3, -0.2]) / np.linalg.norm([1.0, 0.3, -0.2])

    def at(distance: float) -> tuple[float, np.ndarray]:
        other = atoms.copy()
        other.positions[-1] = other.positions[0] + distance * direction
        result = engine.evaluate([other])[0]
        return result.energy, result.forces

    inside, outside = at(rcut - 1e-6), at(rcut + 1e-6)
    work = 2e-6 * float(outside[1][-1] @ direction)
    assert abs(inside[0] - outside[0] - work) < 1e-11
    # An attention that is gated by directions has a kink of its own within 1e-12/(sw/q) of the cut-off.
    if "attn_dotr" in OPTIONS[name] or not model.config.attn_layer:
        assert np.abs(inside[1] - outside[1]).max() < 1e-6


def test_loss_on_forces_has_the_right_gradient(model: DPA1) -> None:
    """Training differentiates twice: d(force loss)/d(parameter) against finite differences."""
    parts = [neighborhood(model.config, from_ase(model.config, a, "s")) for a in (molecule(6), crystal())]
    batch = collate(model.config, parts)

    def loss() -> torch.Tensor:
        prediction = model(batch)
        return (prediction.forces**2).sum() + (prediction.energy**2).sum() + (prediction.virial**2).sum()

    model.zero_grad()
    loss().backward()
    generator = torch.Generator().manual_seed(0)
    for parameter in model.parameters():
        assert parameter.grad is not None
        direction = torch.randn(parameter.shape, generator=generator, dtype=parameter.dtype)
        predicted = float((parameter.grad * direction).sum())
        start = parameter.detach().clone()

        def along(
            x: float, p: torch.Tensor = parameter, at: torch.Tensor = start, to: torch.Tensor = direction
        ) -> float:
            with torch.no_grad():
                p.copy_(at + x * to)
            return float(loss().detach())

        measured = slope(along)
        along(0.0)
        assert abs(measured - predicted) < 1e-6 * max(1.0, abs(predicted))
