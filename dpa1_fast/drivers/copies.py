"""Copies of one set of atoms, evaluated again and again in one batch: what OpenMM (one copy) and i-PI (beads) need."""

from __future__ import annotations

from typing import Any

import numpy as np
from ase import Atoms

from ..dynamics.stepper import Moving, Step
from ..engine import Engine
from ..loading import load
from ..structures.structure import from_ase
from ..structures.verlet import SKIN, Array


class Copies:
    """Evaluates copies of the same atoms at other places; neighbour lists last from call to call.

    Args:
        model: a file or a bundled model's name, or an ``Engine``. atoms: elements, pbc, parameters of the model.
        skin: Å. options: as for ``dpa1_fast.load``, where ``model`` is no engine.

    Raises:
        ModelFileError, BackendError: as ``dpa1_fast.load``. StructureError: the atoms cannot be evaluated.
    """

    def __init__(self, model: Any, atoms: Atoms, skin: float = SKIN, **options: Any) -> None:
        self.engine = model if isinstance(model, Engine) else load(model, **options)
        self.atoms, self.skin = atoms, skin
        self._structure = from_ase(self.engine.config, atoms, "the atoms")
        self._moving, self._count = Moving(self.engine, skin), 0

    def __reduce__(self) -> tuple[Any, ...]:
        return Copies, (self.engine, self.atoms, self.skin)

    def __call__(self, positions: Array, cells: Array) -> Step:
        """Energies, forces and virials of all copies.

        Args:
            positions: (B, n, 3) Å. cells: (B, 3, 3) Å, rows are lattice vectors.

        Raises:
            StructureError: a copy that cannot be evaluated.
        """
        if self._count != len(positions):
            self._moving.select([self._structure] * len(positions))
            self._count = len(positions)
        step = self._moving.step(
            np.asarray(positions, float).reshape(-1, 3), np.asarray(cells, float).reshape(-1, 3, 3)
        )
        for k in sorted(step.errors):
            raise step.errors[k]
        return step
