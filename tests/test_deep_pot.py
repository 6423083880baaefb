"""``DeepPot.eval`` takes and returns what ``deepmd.infer.DeepPot.eval`` does."""

from __future__ import annotations

import numpy as np
import pytest
from conftest import DATA, read_cases

from dpa1_fast import DeepPot
from dpa1_fast.errors import StructureError

pytestmark = pytest.mark.usefixtures("quiet")


@pytest.fixture
def potential() -> DeepPot:
    return DeepPot(DATA / "concat_hard.dp")


def test_what_it_says_of_the_model(potential: DeepPot) -> None:
    assert potential.get_type_map() == ["O", "H"]
    assert potential.get_ntypes() == 2
    assert potential.get_rcut() == 4.0
    assert (potential.get_dim_fparam(), potential.get_dim_aparam()) == (0, 0)
    assert not potential.has_default_fparam()
    assert potential.get_sel_type() == [0, 1]


def test_shapes_and_every_way_to_give_coordinates(potential: DeepPot) -> None:
    case = next(c for c in read_cases(DATA / "concat_hard.npz") if c.name == "triclinic")
    n = len(case.type)
    frames = np.stack([case.coord, case.coord + 0.1])
    for coords in (frames, frames.reshape(2, -1), frames.reshape(-1), frames.tolist()):
        for cells in (np.stack([case.cell] * 2), np.stack([case.cell.reshape(9)] * 2)):
            e, f, v, ae, av = potential.eval(coords, cells, case.type, atomic=True)
            assert e.shape == (2, 1)
            assert f.shape == (2, n, 3)
            assert v.shape == (2, 9)
            assert ae.shape == (2, n, 1)
            assert av.shape == (2, n, 9)
            assert np.abs(e - case.energy).max() < 1e-10
    assert len(potential.eval(frames, None, case.type)) == 3


def test_mixed_types_frame_by_frame(potential: DeepPot) -> None:
    cases = {c.name: c for c in read_cases(DATA / "concat_hard.npz")}
    a, b = cases["triclinic"], cases["left_handed"]
    coords, cells = np.stack([a.coord, b.coord]), np.stack([a.cell, b.cell])
    e, f, v = potential.eval(coords, cells, np.stack([a.type, b.type]), mixed_type=True)
    for k, case in enumerate((a, b)):
        assert abs(e[k, 0] - case.energy) < 1e-9
        assert np.abs(f[k] - case.force).max() < 1e-9
        assert np.abs(v[k] - case.virial).max() < 1e-8


def test_parameters_for_all_frames_or_each() -> None:
    potential = DeepPot(DATA / "v2_parameters.pt")
    case = next(c for c in read_cases(DATA / "v2_parameters.npz") if c.name == "molecule")
    n = len(case.type)
    coords = np.stack([case.coord] * 2)
    for fparam in (case.fparam, np.stack([case.fparam] * 2)):
        for aparam in (case.aparam, np.stack([case.aparam] * 2), case.aparam.reshape(1, -1)):
            e = potential.eval(coords, None, case.type, fparam=fparam, aparam=aparam)[0]
            assert np.abs(e - case.energy).max() < n * 1e-10
    alike = potential.eval(coords, None, case.type, fparam=case.fparam, aparam=[0.5])[0]
    each = potential.eval(coords, None, case.type, fparam=case.fparam, aparam=np.full((n, 1), 0.5))[0]
    assert np.array_equal(alike, each)
    assert potential.has_default_fparam()
    default = potential.eval(coords, None, case.type, aparam=case.aparam)[0]
    told = potential.eval(coords, None, case.type, fparam=[0.3, -0.2], aparam=case.aparam)[0]
    assert np.array_equal(default, told)


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        (([[0.0, 0.0]], None, [0]), "coords: 2 numbers are not frames of 1 atoms"),
        (([], None, [0]), "coords: 0 numbers"),
        (([[0.0, 0.0, 0.0]], None, []), "no atoms"),
        (([[0.0, 0.0, 0.0]], [[1.0, 0, 0]], [0]), "cells: has 3 numbers, expected 1 × 9"),
        (([[0.0, 0.0, 0.0]], None, [7]), "frame 0: atom type 7 is outside the model's 0..1"),
        (([[0.0, 0.0, 0.0]], None, [-2]), "atom type -2"),
        (([[np.nan, 0.0, 0.0]], None, [0]), "frame 0: position of atom 0 is not finite"),
    ],
)
def test_wrong_shapes_are_named(potential: DeepPot, arguments: tuple[object, ...], reason: str) -> None:
    with pytest.raises(StructureError, match=reason):
        potential.eval(*arguments)  # type: ignore[arg-type]
