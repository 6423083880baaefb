"""Relaxations under ASE's FixSymmetry take ASE's steps, and a crystal comes out in the space group it went in with."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import spglib
from ase import Atoms
from ase.build import bulk, fcc111
from ase.constraints import FixAtoms, FixSymmetry
from ase.io import read, write
from commands import run_command
from test_relax import ENGINE, equal, relaxed
from test_relax_as_ase import same_as_ase

from dpa1_fast import relax
from dpa1_fast.errors import StructureError
from dpa1_fast.screening.options import OptionError, Options


def space_group(atoms: Atoms) -> int:
    cell = (atoms.cell[:], atoms.get_scaled_positions(), atoms.numbers)
    return int(spglib.get_symmetry_dataset(cell, symprec=1e-6).number)


def held(atoms: Atoms, **how: Any) -> Atoms:
    """Symmetric under FixSymmetry, whatever noise it came with."""
    atoms.rattle(1e-4, seed=0)
    atoms.set_constraint(FixSymmetry(atoms, **how))
    return atoms


def crystals() -> dict[str, Atoms]:
    """A cubic one far from its volume, a tetragonal and a hexagonal one, and one whose atoms may move along an axis."""
    cubic = bulk("Al", cubic=True, a=4.2)
    cubic.symbols[0] = "Cu"
    tetragonal = bulk("Al", cubic=True, a=4.0)
    tetragonal.symbols[:2] = "Mg"
    tetragonal.set_cell(tetragonal.cell[:] * [[1.0], [1.0], [1.06]], scale_atoms=True)
    stack = bulk("Al", cubic=True, a=4.05) * (1, 1, 2)
    stack.symbols[:2] = "Mg"
    stack.positions[4:6, 2] += 0.15
    return {"cubic": cubic, "tetragonal": tetragonal, "hexagonal": bulk("Mg", a=3.3, c=5.0), "along an axis": stack}


@pytest.mark.parametrize("cell", [False, True])
def test_the_steps_are_those_of_ase_and_the_space_group_stays(cell: bool) -> None:
    before = [held(atoms) for atoms in crystals().values()]
    groups = [space_group(atoms) for atoms in before]
    assert len(set(groups)) == 4
    for atoms, after, group in zip(before, relaxed(before, cell=cell), groups, strict=True):
        assert after.converged
        assert space_group(after.atoms) == group
        same_as_ase(atoms, after, cell)
    with_others = relaxed([bulk("Al"), *before[::-1]], cell=cell)[:0:-1]
    assert all(equal(a, b) for a, b in zip(relaxed(before, cell=cell), with_others, strict=True))


def test_atoms_pushed_off_after_it_was_set_come_no_nearer_to_symmetry_and_no_further() -> None:
    """As in ASE, whose forces and steps are symmetric whatever the positions are; the cell is kept apart on request."""
    rattled, own_cell = held(crystals()["cubic"]), held(crystals()["tetragonal"], adjust_cell=False)
    rattled.rattle(0.02, seed=3)
    own_cell.set_cell(own_cell.cell[:] @ [[1.01, 0.02, 0.0], [0.0, 1.0, 0.0], [0.0, 0.0, 0.99]], scale_atoms=True)
    for before, after in zip((rattled, own_cell), relax(ENGINE, [rattled, own_cell], cell=True, steps=40), strict=True):
        same_as_ase(before, after, cell=True, steps=40)


def test_a_symmetry_that_does_not_fit_is_named() -> None:
    other, flat = held(crystals()["cubic"]), held(crystals()["cubic"])
    shorter = Atoms(other.numbers[:3], other.positions[:3], cell=other.cell, pbc=True, constraint=other.constraints)
    flat.cell[2] = flat.cell[1]
    found = relax(ENGINE, [shorter, flat, other])
    assert "FixSymmetry is for 4 atoms, but there are 3" in str(found[0])
    assert isinstance(found[1], StructureError)
    assert not isinstance(found[2], StructureError)


def test_it_goes_together_with_fixed_atoms() -> None:
    stack = held(crystals()["along an axis"])
    stack.set_constraint([*stack.constraints, FixAtoms([0, 1])])
    (after,) = relaxed([stack])
    same_as_ase(stack, after, cell=False)
    assert np.array_equal(after.atoms.positions[:2], stack.positions[:2])


def test_the_command_keeps_the_symmetry(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of crystals that come in a little off; a slab has no space group to keep, and says so."""
    before = [crystals()["cubic"], crystals()["tetragonal"]]
    groups = [space_group(a) for a in before]
    for atoms in before:
        atoms.rattle(1e-4, seed=0)
    before[1].set_constraint(FixAtoms([0]))
    write(tmp_path / "in.extxyz", [*before, fcc111("Al", (1, 1, 2), vacuum=5.0)])
    words = ("-m", "almgcu-demo", "-o", tmp_path / "out", "--cell", "--keep-symmetry", "--steps", "20", "--no-report")
    done = run_command("relax", tmp_path / "in.extxyz", *words, "--threads", "1")
    assert done.returncode == 1, done.stderr
    after = read(tmp_path / "out" / "results.extxyz", ":")
    assert [space_group(a) for a in before] == [1, 1]
    assert [space_group(a) for a in after] == groups
    assert len(after[1].constraints) == 1  # its own
    failures = (tmp_path / "out" / "failures.csv").read_text(encoding="utf-8")
    assert "--keep-symmetry needs a crystal" in failures
    with pytest.raises(OptionError, match="is of relaxations"):
        Options(inputs=("a",), models=("m",), output=tmp_path, keep_symmetry=True)
    monkeypatch.setattr("dpa1_fast.screening.options.find_spec", lambda name: None)
    with pytest.raises(OptionError, match="needs spglib"):
        Options(inputs=("a",), models=("m",), output=tmp_path, relax="cell", keep_symmetry=True)


def test_what_has_no_symmetry_to_find_fails_alone(tmp_path: Path) -> None:
    """spglib has errors of its own for atoms that overlap, and crashes where positions are no numbers."""
    strange = [
        Atoms("Al2", [[0, 0, 0], [0, 0, 1e-5]], cell=[4, 4, 4], pbc=True),
        Atoms("Al", [[np.nan, 0, 0]], cell=[4, 4, 4], pbc=True), bulk("Al"),
    ]  # fmt: skip
    write(tmp_path / "in.extxyz", strange)
    words = ("-m", "almgcu-demo", "-o", tmp_path / "out", "--cell", "--keep-symmetry", "--no-report", "--threads", "1")
    done = run_command("relax", tmp_path / "in.extxyz", *words)
    assert done.returncode == 1, done.stderr
    assert len(read(tmp_path / "out" / "results.extxyz", ":")) == 1
    failures = (tmp_path / "out" / "failures.csv").read_text(encoding="utf-8")
    assert "its symmetry cannot be found" in failures
    assert "position of atom 0 is not finite" in failures
