"""Cells are refused where their periodic vectors are short, flat or close together, and measured in plain floats."""

from __future__ import annotations

import numpy as np
import pytest

from dpa1_fast.errors import StructureError
from dpa1_fast.structures.cell import SMALLEST_HEIGHT, check_cell, volume_of


@pytest.mark.parametrize("seed", range(5))
def test_the_volume_is_the_determinant(seed: int) -> None:
    cell = np.random.default_rng(seed).normal(size=(3, 3)) * 7
    assert volume_of(cell.tolist()) == pytest.approx(abs(np.linalg.det(cell)), rel=1e-12)


@pytest.mark.parametrize("axes", [(0,), (2,), (0, 1), (1, 2), (0, 2), (0, 1, 2)])
@pytest.mark.parametrize("seed", range(3))
def test_heights_are_those_of_the_dual_basis(axes: tuple[int, ...], seed: int) -> None:
    # The lowest of them decides, and its axis is named: scaled to just under the bar it is refused, just above not.
    cell, pbc = np.random.default_rng(seed).normal(size=(3, 3)), np.zeros(3, dtype=bool)
    pbc[list(axes)] = True
    rows = cell[pbc]
    heights = 1 / np.sqrt(np.diag(np.linalg.inv(rows @ rows.T)))
    axis = "abc"[axes[int(heights.argmin())]]
    check_cell("x", cell * SMALLEST_HEIGHT / heights.min() * 1.001, pbc)
    with pytest.raises(StructureError, match=f"x: singular cell: .* {axis} "):
        check_cell("x", cell * SMALLEST_HEIGHT / heights.min() * 0.999, pbc)


def test_dependent_vectors_are_refused() -> None:
    flat = np.array([[3.0, 0, 0], [0, 3, 0], [3, 3, 1e-6]])
    with pytest.raises(StructureError, match="linearly dependent"):
        check_cell("x", flat, np.array([True, True, True]))
    with pytest.raises(StructureError, match="linearly dependent"):
        check_cell("x", np.array([[3.0, 0, 0], [6, 1e-6, 0], [0, 0, 1]]), np.array([True, True, False]))
    check_cell("x", flat, np.array([True, True, False]))
    check_cell("x", np.zeros((3, 3)), np.zeros(3, dtype=bool))
