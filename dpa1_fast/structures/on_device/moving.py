"""A set of structures that moves, searched anew on the device at every step: no skin, and nothing of a step is kept.

To the drivers it is what ``verlet.Verlet`` is. A search there takes less than the host would to see whether an old list
still serves.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from ...errors import StructureError
from ..batch import Batch
from ..structure import FARTHEST, Structure, moved
from .rows import Array, Index, Mask, Rows
from .search import DeviceSearch


class MovingOnDevice:
    """The batch of a set of structures at every step.

    Args:
        search: finds neighbours.

    Attributes:
        structures: the set, in order; positions and cells are those of when each came in.
        offsets: (S + 1,) the first atom of each structure. pbc: (S, 3) which axes are periodic.
        searches: how many structures were searched.
    """

    def __init__(self, search: DeviceSearch) -> None:
        self.search = search
        self.structures: list[Structure] = []
        self.searches = 0

    def select(self, members: Sequence[int | Structure]) -> None:
        """Changes the set: an integer keeps that structure of the present set, a Structure is new."""
        before = self.structures
        self.structures = [before[m] if isinstance(m, int) else m for m in members]
        self._rows = Rows.of(self.structures)
        self._checked = self._rows.cells.copy()

    @property
    def offsets(self) -> Index:
        """(S + 1,)"""
        return self._rows.offsets

    @property
    def pbc(self) -> Mask:
        """(S, 3)"""
        return self._rows.pbc

    def serves(self, k: int, positions: Array, cell: Array) -> bool:
        """As of ``Verlet``: structures of the same atoms are as good as each other, where no list is kept."""
        return True

    def batch(self, positions: Array, cells: Array) -> tuple[Batch, dict[int, StructureError]]:
        """The set as a batch on the device, and which structures cannot be evaluated; see ``Verlet.batch``.

        Args:
            positions: (n, 3) Å of all structures, one after another. cells: (S, 3, 3) Å, rows are lattice vectors.
        """
        positions, cells = (np.ascontiguousarray(x, dtype=np.float64) for x in (positions, cells))
        errors = self._wrong(positions, cells)
        self.searches += len(self.structures) - len(errors)
        # Drivers rename structures as these change places.
        rows = replace(self._rows, structures=self.structures, positions=positions, cells=cells)
        found = self.search.batch(rows, errors)
        return found.batch, found.errors

    def _wrong(self, positions: Array, cells: Array) -> dict[int, StructureError]:
        """Structures whose atoms or cell are none, looked at one by one where a glance at all finds something new."""
        largest = np.maximum.reduceat(np.abs(positions).max(axis=1), self.offsets[:-1])
        new = (cells != self._checked).any(axis=(1, 2))
        errors: dict[int, StructureError] = {}
        for k in np.flatnonzero(~(largest <= FARTHEST) | new).tolist():
            try:
                moved(self.structures[k], positions[self.offsets[k] : self.offsets[k + 1]], cells[k])
            except StructureError as error:
                errors[k] = error
            else:
                self._checked[k] = cells[k]
        return errors
