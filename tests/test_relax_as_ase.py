"""What is held, and cells and atoms of every kind, relax by ASE's steps to ASE's minima."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from ase import Atoms
from ase.build import bulk, fcc111
from ase.constraints import (
    FixAtoms,
    FixBondLength,
    FixCartesian,
    FixCom,
    FixedLine,
    FixedPlane,
    FixScaled,
    Hookean,
)
from test_relax import ENGINE, relaxed

from bench.speed.relax import mixed, one_by_one
from dpa1_fast.dynamics.relax import Relaxed, relax
from dpa1_fast.errors import StructureError


def same_as_ase(before: Atoms, after: Any, cell: bool, steps: int = 500) -> None:
    ((ase, taken),) = one_by_one(ENGINE, [before], cell, 0.05, steps)
    assert isinstance(after, Relaxed), after
    assert after.steps == taken
    assert np.allclose(after.atoms.positions, ase.positions, rtol=0, atol=1e-7)
    assert np.allclose(after.atoms.cell[:], ase.cell[:], rtol=0, atol=1e-7)
    assert [c.todict() for c in after.atoms.constraints] == [c.todict() for c in before.constraints]


SOME = [0, 2]
TILTED = [0.3, -0.5, 0.8]
CONSTRAINTS = {
    "FixAtoms": [FixAtoms(SOME)],
    "FixAtoms from behind": [FixAtoms([-1])],
    "FixAtoms all": [FixAtoms(range(8))],
    "FixCartesian": [FixCartesian(SOME, mask=(True, False, True))],
    "FixScaled": [FixScaled(SOME, mask=(True, True, False))],
    "FixedLine": [FixedLine(SOME, TILTED)],
    "FixedPlane": [FixedPlane(SOME, TILTED)],
    "several": [FixAtoms([1]), FixScaled([0], (False, True, True)), FixedPlane([2, 3], TILTED)],
    "on one atom": [FixedPlane([0], TILTED), FixCartesian([0], (True, False, False)), FixedLine([0], [0, 1, 1])],
}


@pytest.mark.parametrize("cell", [False, True])
def test_constraints_are_heeded_as_ase_heeds_them(cell: bool) -> None:
    """On a sheared crystal, whose lattice vectors are along no axis, and on a slab, all in one call."""
    crystal = bulk("Al", cubic=True, a=4.1) * (2, 1, 1)
    crystal.set_cell(crystal.cell[:] @ [[1.02, 0.05, 0.0], [0.0, 0.97, 0.06], [0.04, 0.0, 1.01]], scale_atoms=True)
    slab = fcc111("Al", (2, 2, 2), a=4.05, vacuum=6.0)
    slab.pbc = (True, True, False)
    structures = []
    for k, constraints in enumerate(CONSTRAINTS.values()):
        for pure in (crystal, slab):
            atoms = pure.copy()
            atoms.symbols[1::3] = "Mg"
            atoms.rattle(0.08, seed=k)
            atoms.set_constraint(constraints)
            structures.append(atoms)
    for before, after in zip(structures, relax(ENGINE, structures, cell=cell), strict=True):
        same_as_ase(before, after, cell)


def test_random_constraints_are_heeded_as_ase_heeds_them() -> None:
    rng = np.random.default_rng(1)
    structures = mixed(12, seed=3)
    for atoms in structures:
        constraints = []
        for _ in range(int(rng.integers(1, 4))):
            some = rng.permutation(len(atoms))[: max(1, len(atoms) // 4)]
            mask, direction = rng.random(3) < 0.5, rng.normal(size=3)
            kind = (FixAtoms, FixCartesian, FixScaled, FixedLine, FixedPlane)[int(rng.integers(5))]
            more = {FixAtoms: (), FixedLine: (direction,), FixedPlane: (direction,)}.get(kind, (mask,))
            constraints.append(kind(some, *more))
        atoms.set_constraint(constraints)
    for before, after in zip(structures, relax(ENGINE, structures, cell=True, steps=60), strict=True):
        same_as_ase(before, after, cell=True, steps=60)


def test_what_a_constraint_holds_stays_to_the_last_bit() -> None:
    held, sliding, lifted = (mixed(1)[0] for _ in range(3))
    held.set_constraint(FixAtoms([0, 2]))
    sliding.set_constraint(FixCartesian([1], mask=(True, False, True)))
    lifted.set_constraint(FixScaled([3], mask=(True, True, False)))
    moved = [
        after.atoms.positions - before.positions
        for before, after in zip((held, sliding, lifted), relaxed([held, sliding, lifted]), strict=True)
    ]
    assert (moved[0][[0, 2]] == 0).all()
    assert (np.linalg.norm(moved[0], axis=1)[[1, 3]] > 0).all()
    assert (moved[1][1] != 0).tolist() == [False, True, False]
    assert np.allclose(moved[2][3, :2], 0.0, rtol=0, atol=1e-12)
    assert moved[2][3, 2] != 0


def test_constraints_that_cannot_be_heeded_are_named_and_others_go_on() -> None:
    def with_constraint(constraint: Any) -> Atoms:
        atoms = mixed(1)[0]
        atoms.set_constraint(constraint)
        return atoms

    flat = Atoms("Al2", [[0, 0, 0], [2.9, 0, 0]], cell=[[3, 0, 0], [6, 0, 0], [0, 0, 1]])
    flat.set_constraint(FixScaled([0], (True, False, False)))
    with np.errstate(invalid="ignore"):
        nowhere = FixedLine([0], [0, 0, 0])
    bad = {
        "FixBondLengths is not supported": with_constraint(FixBondLength(0, 1)),
        "Hookean is not supported": with_constraint(Hookean(0, 1, k=5.0, rt=2.0)),
        "FixCom is not supported": with_constraint([FixAtoms([0]), FixCom()]),
        "FixAtoms is for atom 99, but there are": with_constraint(FixAtoms([0, 99])),
        "FixCartesian is for atom -50, but there are": with_constraint(FixCartesian([-50])),
        "FixedLine has no direction": with_constraint(nowhere),
        "FixScaled is along lattice vectors that are linearly dependent": flat,
    }
    found = relax(ENGINE, [*bad.values(), mixed(1)[0]])
    for (reason, atoms), error in zip(bad.items(), found, strict=False):
        assert isinstance(error, StructureError), (reason, atoms)
        assert reason in str(error)
    assert isinstance(found[-1], Relaxed)


def test_a_crystal_with_a_sliding_atom_and_a_moving_cell_takes_as_many_steps_as_in_ase() -> None:
    atoms = mixed(3)[2]
    atoms.set_constraint(FixCartesian([1], mask=(True, False, True)))
    same_as_ase(atoms, relax(ENGINE, [atoms], cell=True)[0], cell=True)


@pytest.mark.parametrize("cell", [False, True])
def test_atoms_alone_relax(cell: bool) -> None:
    """One atom in a cell, one in none, and one that only sees its images along a wire."""
    squeezed, lonely, wire = bulk("Al", a=3.9), Atoms("Cu"), Atoms("Al", cell=[0, 0, 2.6], pbc=(False, False, True))
    found = relaxed([squeezed, lonely, wire], cell=cell)
    for before, after in zip((squeezed, lonely, wire), found, strict=True):
        same_as_ase(before, after, cell)
    assert [f.steps == 0 for f in found] == [not cell, True, True]
    assert found[1].result.stress is None
