"""Relaxing many at once takes ASE's steps to ASE's minima, and nothing that happens to one touches another."""

from __future__ import annotations

import subprocess
import sys
import threading
import tomllib
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from ase import Atoms
from ase.build import bulk
from ase.constraints import (
    FixAtoms,
    FixedPlane,
    FixScaled,
)

import dpa1_fast
from bench.speed.relax import mixed, one_by_one
from dpa1_fast.dynamics.relax import Relaxed, relax
from dpa1_fast.dynamics.stepper import Moving, Step
from dpa1_fast.errors import DPA1Warning, StructureError
from dpa1_fast.structures.structure import from_ase

ENGINE = dpa1_fast.load("almgcu-demo", threads=1)


def relaxed(structures: list[Any], **how: Any) -> list[Relaxed]:
    found = relax(ENGINE, structures, **how)
    assert all(isinstance(f, Relaxed) for f in found), found
    return found  # type: ignore[return-value]


def equal(a: Relaxed, b: Relaxed) -> bool:
    return (
        (a.steps, a.converged, a.result.energy, a.energy_before)
        == (b.steps, b.converged, b.result.energy, b.energy_before)
        and a.atoms.positions.tobytes() == b.atoms.positions.tobytes()
        and a.atoms.cell[:].tobytes() == b.atoms.cell[:].tobytes()
        and a.result.forces.tobytes() == b.result.forces.tobytes()
        and a.result.virial.tobytes() == b.result.virial.tobytes()
    )


@pytest.mark.parametrize("cell", [False, True])
def test_same_steps_and_same_minima_as_ase(cell: bool) -> None:
    """Crystals, slabs, clusters and wires in one call against ASE's FIRE (with cells: UnitCellFilter) one by one."""
    structures = mixed(12)
    found = relaxed(structures, cell=cell)
    for ours, (atoms, steps) in zip(found, one_by_one(ENGINE, structures, cell, 0.05, 500), strict=True):
        assert ours.converged
        assert ours.steps == steps
        assert ours.result.energy == pytest.approx(atoms.get_potential_energy(), abs=1e-9)
        assert np.allclose(ours.atoms.positions, atoms.positions, atol=1e-7)
        assert np.allclose(ours.atoms.cell[:], atoms.cell[:], atol=1e-7)
        assert ours.result.energy < ours.energy_before


@pytest.mark.parametrize("cell", [False, True])
def test_what_the_last_step_said_is_an_evaluation_of_where_it_ended_to_the_last_bit(cell: bool) -> None:
    """Nothing is computed again at the end, so the numbers that are handed out must be those of the final structure."""
    structures = mixed(8)
    structures[0].set_constraint(FixAtoms([0]))
    structures[1].set_constraint(FixAtoms(range(len(structures[1]))))  # done before it begins
    for f in relaxed(structures, cell=cell) + relaxed(structures, cell=cell, steps=3, max_atoms=20):
        found = Moving(ENGINE)
        found.select([from_ase(ENGINE.config, f.atoms, "where it ended")])
        again = found.step(f.atoms.positions, f.atoms.cell[:][None])
        assert f.result.energy == again.energy[0]
        assert np.array_equal(f.result.energies, again.energies)
        assert np.array_equal(f.result.forces, again.forces)
        assert np.array_equal(f.result.virial, again.virial[0])
        (fresh,) = ENGINE.evaluate([f.atoms])
        assert f.result.volume == fresh.volume
        assert np.allclose(f.result.virial, fresh.virial, rtol=0, atol=1e-11)


def test_results_are_the_engines_and_inputs_stay_as_they_were() -> None:
    structures = mixed(6)
    for k, atoms in enumerate(structures):
        atoms.info["name"] = f"number {k}"
        atoms.set_tags(range(len(atoms)))
    before = [a.copy() for a in structures]
    found = relaxed(structures, cell=True)
    assert structures == before
    expected = ENGINE.evaluate([f.atoms for f in found])
    first = ENGINE.evaluate(structures)
    for f, r, r0, atoms in zip(found, expected, first, structures, strict=True):
        # A fresh list has the neighbours of an atom in another order.
        assert f.result.energy == pytest.approx(r.energy, abs=1e-11)
        assert np.allclose(f.result.forces, r.forces, rtol=0, atol=1e-11)
        assert f.energy_before == pytest.approx(r0.energy, abs=1e-11)
        assert f.atoms.info == atoms.info
        assert np.array_equal(f.atoms.numbers, atoms.numbers)
        assert np.array_equal(f.atoms.get_tags(), atoms.get_tags())
        assert np.array_equal(f.atoms.pbc, atoms.pbc)
        assert np.array_equal(f.atoms.cell[:], atoms.cell[:]) != atoms.pbc.all()
        # Where a cell moved, ASE's criterion is on forces as seen from the cell at the start.
        assert np.linalg.norm(r.forces, axis=1).max() < 0.05 * (1.1 if atoms.pbc.all() else 1.0)


@pytest.mark.parametrize("cell", [False, True])
def test_company_changes_nothing_to_the_last_bit(cell: bool) -> None:
    structures = mixed(9)
    structures[2].set_constraint(FixedPlane([0, 1], [0.3, -0.5, 0.8]))
    structures[3].set_constraint([FixAtoms([0]), FixScaled([1], (True, False, False))])
    together = relaxed(structures, cell=cell)
    backwards = relaxed(structures[::-1], cell=cell)[::-1]
    few_at_a_time = relaxed(structures, cell=cell, max_atoms=40)
    alone = [relaxed([s], cell=cell)[0] for s in structures]
    for a, *others in zip(together, backwards, few_at_a_time, alone, strict=True):
        assert all(equal(a, b) for b in others)


def test_bad_structures_fail_in_their_places() -> None:
    good = mixed(3)
    overlapping, lost, foreign, flat = (good[0].copy() for _ in range(4))
    overlapping.positions[1] = overlapping.positions[0]
    lost.positions[0, 2] = np.nan
    foreign.symbols[0] = "Fe"
    flat.cell[2] = flat.cell[1]
    before = StructureError("file.xyz", "could not be read")
    found = relax(ENGINE, [overlapping, good[0], lost, good[1], foreign, flat, before, good[2]])
    reasons = {k: str(f) for k, f in enumerate(found) if isinstance(f, StructureError)}
    assert "structure 0: atoms 0 and 1 overlap" in reasons[0]
    assert "structure 2: position of atom 0 is not finite" in reasons[2]
    assert "structure 4: the model does not know the element Fe" in reasons[4]
    assert "structure 5: singular cell" in reasons[5]
    assert found[6] is before
    assert sorted(reasons) == [0, 2, 4, 5, 6]
    for k, f in zip((1, 3, 7), relaxed(good), strict=True):
        assert equal(found[k], f)  # type: ignore[arg-type]


@pytest.mark.parametrize("cell", [False, True])
def test_a_structure_that_fails_on_its_way_leaves_and_others_go_on(cell: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    structures, calls = mixed(4), []
    expected = relaxed(structures, cell=cell)
    step = Moving.step

    def explodes(self: Moving, positions: Any, cells: Any) -> Step:
        out = step(self, positions, cells)
        for k, s in enumerate(self.verlet.structures):
            if s.name == "structure 2":
                calls.append(k)
                if len(calls) > 5:
                    out.errors[k] = StructureError(s.name, "boom")
                    out.forces[self.verlet.offsets[k] : self.verlet.offsets[k + 1]] = 0.0
        return out

    monkeypatch.setattr(Moving, "step", explodes)
    found = relax(ENGINE, structures, cell=cell)
    assert isinstance(found[2], StructureError)
    assert "boom" in str(found[2])
    assert len(calls) == 6, "it left the batch at once"
    assert all(equal(found[k], expected[k]) for k in (0, 1, 3))  # type: ignore[arg-type]


@pytest.mark.parametrize("what", [0, 2, 3])
def test_numbers_that_are_not_finite_are_an_error_of_one_structure(what: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Energy, forces or only the virial, in the third evaluation of one of three structures."""
    structures, evaluate, calls = mixed(3), dpa1_fast.Engine.evaluate_batch, []
    expected = relaxed(structures, cell=True)

    def overflows(self: dpa1_fast.Engine, batch: Any, gradient: bool = True, hidden: bool = False) -> Any:
        outputs = evaluate(self, batch, gradient, hidden)
        calls.append(1)
        if len(calls) == 3:
            # Large structures stand first in the batch; this is the first of them.
            outputs[what][0] = np.inf
        return outputs

    monkeypatch.setattr(dpa1_fast.Engine, "evaluate_batch", overflows)
    found = relax(ENGINE, structures, cell=True)
    first = int(np.argmax([len(s) for s in structures]))
    assert isinstance(found[first], StructureError)
    assert f"structure {first}: the model's energy, forces or virial overflow in float64" in str(found[first])
    assert all(equal(a, b) for k, (a, b) in enumerate(zip(found, expected, strict=True)) if k != first)  # type: ignore[arg-type]


def test_a_cell_that_collapses_is_an_error_of_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    """The model here squeezes one crystal until its cell has no volume; no warning, and no other structure notices."""
    structures, step = [mixed(1)[0], bulk("Al"), mixed(3)[2]], Moving.step
    structures[1].set_constraint(FixScaled([0], (True, False, False)))
    expected = relaxed(structures, cell=True)

    def squeezes(self: Moving, positions: Any, cells: Any) -> Step:
        out = step(self, positions, cells)
        for k, s in enumerate(self.verlet.structures):
            if s.name == "structure 1" and k not in out.errors:
                out.virial[k] = -1e9 * np.diag([1.0, 1.0, 2.0])
        return out

    monkeypatch.setattr(Moving, "step", squeezes)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        warnings.simplefilter("ignore", DPA1Warning)  # more neighbours than sel, on the way
        found = relax(ENGINE, structures, cell=True)
    assert isinstance(found[1], StructureError)
    assert "structure 1" in str(found[1])
    assert equal(found[0], expected[0])  # type: ignore[arg-type]
    assert equal(found[2], expected[2])  # type: ignore[arg-type]


def test_what_does_not_converge_says_so() -> None:
    structures = mixed(5)
    full = relaxed(structures)
    cut = relaxed(structures, steps=15)
    assert [f.converged for f in cut] == [f.steps <= 15 for f in full]
    assert [f.steps for f in cut] == [min(f.steps, 15) for f in full]
    none = relaxed(structures, steps=0)
    assert [f.steps for f in none] == [0] * 5
    assert all(f.result.energy == pytest.approx(f.energy_before, abs=1e-11) for f in none)


def test_what_is_relaxed_already_takes_no_step() -> None:
    crystal = bulk("Al", a=4.05)
    found = relaxed([crystal, *mixed(2)])
    assert (found[0].steps, found[0].converged) == (0, True)
    assert np.array_equal(found[0].atoms.positions, crystal.positions)
    assert relax(ENGINE, []) == []


def test_any_collection_of_structures_will_do() -> None:
    structures = mixed(3)
    for given in (tuple(structures), (s for s in structures)):
        for a, b in zip(relax(ENGINE, given), relaxed(structures), strict=True):  # type: ignore[arg-type]
            assert equal(a, b)  # type: ignore[arg-type]


def test_an_interrupted_relaxation_leaves_nothing_behind(monkeypatch: pytest.MonkeyPatch) -> None:
    structures, calls = mixed(4), []
    expected = relaxed(structures, cell=True)
    threads, of_torch = set(threading.enumerate()), torch.get_num_threads()
    step = Moving.step

    def interrupted(self: Moving, positions: Any, cells: Any) -> Step:
        calls.append(1)
        if len(calls) == 5:
            raise KeyboardInterrupt
        return step(self, positions, cells)

    before = [a.copy() for a in structures]
    with monkeypatch.context() as patch:
        patch.setattr(Moving, "step", interrupted)
        with pytest.raises(KeyboardInterrupt):
            relax(ENGINE, structures, cell=True)
    assert set(threading.enumerate()) <= threads
    assert torch.get_num_threads() == of_torch
    assert structures == before
    assert all(equal(a, b) for a, b in zip(relaxed(structures, cell=True), expected, strict=True))


def test_relaxing_needs_no_other_package() -> None:
    program = """
import sys
sys.modules["torch_sim"] = None
import dpa1_fast
from ase.build import bulk, fcc111
(found,) = dpa1_fast.relax(dpa1_fast.load("almgcu-demo", threads=1), [bulk("Al", a=3.95)], cell=True)
print(found.converged, found.steps > 0)
"""
    said = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert said.stdout.split() == ["True", "True"]


def test_a_left_handed_cell_relaxes_as_its_mirror_name_does() -> None:
    right = mixed(1)[0]
    left = right.copy()
    left.set_cell(-right.cell[:], scale_atoms=False)
    a, b = relaxed([right, left], cell=True)
    assert b.result.energy == pytest.approx(a.result.energy, abs=1e-9)
    assert np.allclose(b.atoms.cell[:], -a.atoms.cell[:], atol=1e-9)


def test_a_cell_relaxes_to_no_pressure() -> None:
    squeezed = bulk("Cu", "fcc", a=3.4)
    (found,) = relaxed([squeezed], cell=True, fmax=1e-4)
    assert found.result.stress is not None
    assert np.abs(found.result.stress).max() < 1e-4 / 10
    assert found.atoms.get_volume() > squeezed.get_volume()


def test_arguments_that_make_no_sense_are_refused_and_threads_restored() -> None:
    threads = torch.get_num_threads()
    with pytest.raises(TypeError, match="list"):
        relax(ENGINE, Atoms("Al"))  # type: ignore[arg-type]
    for wrong in ({"fmax": 0.0}, {"fmax": float("nan")}, {"steps": -1}, {"max_atoms": 0}):
        with pytest.raises(ValueError, match="positive"):
            relax(ENGINE, mixed(1), **wrong)  # type: ignore[arg-type]
    assert torch.get_num_threads() == threads


def test_the_extra_that_relaxing_needed_once_can_still_be_named_and_installs_nothing() -> None:
    extras = tomllib.loads((Path(__file__).parents[1] / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    assert extras["optional-dependencies"]["relax"] == []
    assert [need.split(">")[0] for need in extras["optional-dependencies"]["torchsim"]] == ["torch-sim-atomistic"]
