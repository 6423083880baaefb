"""Substituted crystals for pretraining: of the elements that are there, near them, and never what is held back."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest
from ase import Atoms
from ase.build import bulk
from ase.calculators.singlepoint import SinglePointCalculator

sys.path.insert(0, str(Path(__file__).parents[1] / "examples" / "dpa1_68"))
import more


def labelled(atoms: Atoms) -> Atoms:
    atoms.calc = SinglePointCalculator(atoms, energy=-3.0 * len(atoms), forces=np.zeros((len(atoms), 3)))
    return atoms


def salt(a: str, b: str, length: float) -> Atoms:
    return labelled(bulk(a + b, "rocksalt", a=length, cubic=True))


ELEMENTS = ("Al", "Mg", "Cu", "Zn", "Ga", "Ni", "Fe", "Co", "Mn", "Cr")


@pytest.fixture(scope="module")
def maker() -> more.Maker:
    singles = [labelled(bulk(s, "fcc", a=4.0, cubic=True)) for s in ELEMENTS]
    alloy = bulk("Al", cubic=True)
    alloy.symbols[:] = ["Al", "Mg", "Zn", "Zn"]
    steel = bulk("Fe", "fcc", a=3.6, cubic=True)
    steel.symbols[:] = ["Fe", "Ni", "Co", "Zn"]
    return more.Maker([*singles, salt("Mg", "Ga", 5.6), labelled(alloy), labelled(steel)], [salt("Ni", "Ga", 5.4)])


def drawn(maker: more.Maker, seed: int, count: int) -> list[Atoms]:
    source = more.drawn(maker, np.random.default_rng(seed))
    return [next(source) for _ in range(count)]


def test_nothing_held_back_is_drawn_and_no_atoms_touch(maker: more.Maker) -> None:
    found = drawn(maker, 1, 300)
    for atoms in found:
        assert set(atoms.symbols) <= set(ELEMENTS)
        assert not {"Al", "Mg", "Cu"} <= set(atoms.symbols)
        assert len({"Cr", "Mn", "Fe", "Co", "Ni"} & set(atoms.symbols)) < 4
        assert more.composition(atoms) != "GaNi"
        assert more.closest(atoms) >= more.CLOSEST
    assert len({more.composition(a) for a in found}) > 60


def test_the_same_seed_draws_the_same(maker: more.Maker) -> None:
    for a, b in zip(drawn(maker, 7, 20), drawn(maker, 7, 20), strict=True):
        assert np.array_equal(a.positions, b.positions)
        assert list(a.symbols) == list(b.symbols)


def test_elements_that_stand_near_are_drawn_more_often(maker: more.Maker) -> None:
    at = more.places()
    assert np.allclose(at[[1, 6, 12, 26, 57, 71, 72, 79]].round(1).tolist(), [
        [1, 17], [2, 14], [3, 2], [4, 8], [6, 3], [6, 4.4], [6, 4], [6, 11]])  # fmt: skip
    weights = dict(zip(maker.elements, maker.weights[list(maker.elements).index(26)], strict=True))
    assert weights[26] == 0
    assert weights[27] > weights[28] > weights[29] > weights[13] > 0


def test_labels_that_the_data_set_would_reject_are_not_kept(maker: more.Maker) -> None:
    good = salt("Mg", "Ga", 5.6)
    assert maker.sensible(good)
    for energy, force in ((-3.0 * 8 + 41.0, 0.0), (np.nan, 0.0), (-24.0, 15.1)):
        bad = salt("Mg", "Ga", 5.6)
        bad.calc.results["energy"] = energy
        bad.calc.results["forces"][0, 0] = force
        assert not maker.sensible(bad)


def test_distances_are_those_of_all_images() -> None:
    pair = Atoms("MgO", [[0.1, 0.1, 0.1], [3.9, 3.9, 3.9]], cell=[4, 4, 4], pbc=True)
    radii = more.covalent_radii
    assert more.closest(pair) == pytest.approx(0.2 * np.sqrt(3) / (radii[12] + radii[8]))
