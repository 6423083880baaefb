"""Whether a cell is one. Nine numbers: plain floats take a tenth of what array functions do, once a structure."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from ..errors import StructureError

SMALLEST_HEIGHT = 0.1
"""Å. A periodic axis whose lattice planes lie closer than this is taken for a broken cell."""

FLAT = 1e-10
"""Squared volume of unit vectors along the periodic axes, below which they are linearly dependent."""

Vector = Sequence[float]


def cross(a: Vector, b: Vector) -> tuple[float, float, float]:
    """a × b."""
    return a[1] * b[2] - a[2] * b[1], a[2] * b[0] - a[0] * b[2], a[0] * b[1] - a[1] * b[0]


def volume_of(cell: Sequence[Vector]) -> float:
    """|a · (b × c)|, Å³.

    Args:
        cell: three vectors, Å.
    """
    a, b, c = cell
    return abs(sum(x * y for x, y in zip(a, cross(b, c), strict=True)))


def check_cell(name: str, cell: NDArray[np.float64], pbc: NDArray[np.bool_]) -> None:
    """Refuses a cell whose periodic vectors do not span as many dimensions as there are periodic axes.

    Args:
        name: of the structure. cell: (3, 3) Å, rows are lattice vectors. pbc: (3,).

    Raises:
        StructureError: naming the axis.
    """
    axes = [k for k, periodic in enumerate(pbc.tolist()) if periodic]
    rows = cell.tolist()
    vectors = [rows[k] for k in axes]
    lengths = [math.hypot(*v) for v in vectors]
    for axis, length in zip(axes, lengths, strict=True):
        if length < SMALLEST_HEIGHT:
            raise StructureError(
                name, f"singular cell: periodic axis {'abc'[axis]} has length {length:.3g} Å; set pbc off there"
            )
    if len(axes) < 2:
        return
    if len(axes) == 2:
        faces, size = lengths[::-1], math.hypot(*cross(*vectors))
    else:
        faces = [math.hypot(*cross(vectors[k - 2], vectors[k - 1])) for k in range(3)]
        size = volume_of(vectors)
    if (size / math.prod(lengths)) ** 2 < FLAT:
        raise StructureError(name, "singular cell: its periodic vectors are linearly dependent")
    height, axis = min((size / face, axis) for face, axis in zip(faces, axes, strict=True))
    if height < SMALLEST_HEIGHT:
        raise StructureError(name, f"singular cell: lattice planes along {'abc'[axis]} are {height:.3g} Å apart")
