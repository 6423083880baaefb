"""Our FIRE is ASE's, step by step, for many systems at once."""

from __future__ import annotations

from typing import Any

import numpy as np
from ase import Atoms
from ase.calculators.calculator import Calculator, all_changes
from ase.optimize import FIRE

from dpa1_fast.dynamics.fire import Fire


class Bowl(Calculator):
    """Energy ½ xᵀKx + Σ sin(2x) of coordinates x, with many steps uphill on the way down."""

    implemented_properties = ("energy", "forces")

    def __init__(self, stiffness: Any) -> None:
        super().__init__()
        self.stiffness = stiffness

    def force(self, positions: Any) -> Any:
        x = positions.ravel()
        return (-self.stiffness @ x - 2.0 * np.cos(2.0 * x)).reshape(-1, 3)

    def calculate(self, atoms: Any = None, properties: Any = None, system_changes: Any = all_changes) -> None:
        super().calculate(atoms, properties, system_changes)
        x = atoms.positions.ravel()
        energy = float(0.5 * x @ self.stiffness @ x + np.sin(2.0 * x).sum())
        self.results = {"energy": energy, "forces": self.force(atoms.positions)}


def bowls(count: int) -> tuple[list[Bowl], list[Any]]:
    rng = np.random.default_rng(0)
    sizes = rng.integers(1, 9, count).tolist()
    roots = [rng.normal(size=(3 * n, 3 * n)) * rng.uniform(0.2, 1.5) for n in sizes]
    return [Bowl(r @ r.T) for r in roots], [rng.normal(scale=2.0, size=(n, 3)) for n in sizes]


def paths(calculators: list[Bowl], starts: list[Any], steps: int) -> list[list[Any]]:
    """Positions of each system after each step, all of them in one Fire."""
    fire, positions = Fire(), np.concatenate(starts)
    fire.change(np.zeros(0, dtype=bool), [len(s) for s in starts])
    out: list[list[Any]] = [[] for _ in starts]
    for _ in range(steps):
        parts = np.split(positions, fire.first[1:])
        positions = positions + fire.step(np.concatenate([c.force(p) for c, p in zip(calculators, parts, strict=True)]))
        for path, part in zip(out, np.split(positions, fire.first[1:]), strict=True):
            path.append(part.copy())
    return out


def test_paths_are_those_of_ase() -> None:
    calculators, starts = bowls(12)
    for calculator, start, path in zip(calculators, starts, paths(calculators, starts, 150), strict=True):
        atoms = Atoms(f"H{len(start)}", start, calculator=calculator)
        optimizer = FIRE(atoms, logfile=None)
        for ours in path:
            optimizer.step()
            assert np.allclose(ours, atoms.positions, rtol=0, atol=1e-9)
        assert np.abs(path[0] - start).max() > 0.0


def test_who_is_in_company_takes_the_steps_of_who_is_alone_to_the_last_bit() -> None:
    """With others that come and go, one of them beyond all numbers."""
    calculators, starts = bowls(6)
    alone = [paths([c], [s], 60)[0] for c, s in zip(calculators, starts, strict=True)]
    fire, rng = Fire(), np.random.default_rng(1)
    waiting, batch, positions = list(range(6)), [], {}
    done = dict.fromkeys(waiting, 0)
    stay = np.zeros(0, dtype=bool)
    while waiting or batch:
        new = [waiting.pop() for _ in range(min(len(waiting), int(rng.integers(0, 3))))]
        batch = [k for k, stays in zip(batch, stay, strict=True) if stays] + new
        positions |= {k: starts[k] for k in new}
        fire.change(stay, [len(starts[k]) for k in new])
        if not batch:
            stay = np.zeros(0, dtype=bool)
            continue
        forces = [calculators[k].force(positions[k]) * (np.nan if k == 5 else 1.0) for k in batch]
        moves = np.split(fire.step(np.concatenate(forces)), fire.first[1:])
        for k, move in zip(batch, moves, strict=True):
            positions[k] = positions[k] + move
            if k != 5:
                assert np.array_equal(positions[k], alone[k][done[k]])
            done[k] += 1
        stay = np.array([done[k] < 60 for k in batch])
    assert set(done.values()) == {60}


def test_a_system_without_force_stays_and_longest_is_the_longest_row() -> None:
    fire = Fire()
    fire.change(np.zeros(0, dtype=bool), [2, 1])
    force = np.array([[3.0, 4.0, 0.0], [1.0, 0.0, 0.0], [0.0, 0.0, 0.0]])
    assert fire.longest(force).tolist() == [5.0, 0.0]
    for _ in range(3):
        assert (fire.step(force)[2] == 0.0).all()
    assert fire.taken.tolist() == [3, 3]
