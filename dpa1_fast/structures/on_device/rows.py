"""Structures one after another in flat arrays on the host: what the search on a device begins with."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from ..structure import Structure

Array = NDArray[np.float64]
Index = NDArray[np.int64]
Mask = NDArray[np.bool_]


@dataclass(frozen=True)
class Rows:
    """S structures of n atoms in all.

    Attributes:
        structures: those the rest was made of; what changes as they move stands below.
        positions (n, 3), cells (S, 3, 3): Å, rows of a cell are lattice vectors. pbc (S, 3).
        types (n,): −1 is a virtual atom. offsets (S + 1,): first atoms. home (n,): which structure.
        fparam (S, F), aparam (n, A), or None.
    """

    structures: Sequence[Structure]
    positions: Array
    cells: Array
    pbc: Mask
    types: Index
    offsets: Index
    home: Index
    fparam: Array | None
    aparam: Array | None

    @classmethod
    def of(cls, structures: Sequence[Structure]) -> Rows:
        """Those of structures that have been checked."""
        sizes = np.array([len(s.types) for s in structures], dtype=np.int64)
        fparams = [s.fparam for s in structures if s.fparam is not None]
        aparams = [s.aparam for s in structures if s.aparam is not None]
        return cls(
            structures=structures,
            positions=np.concatenate([s.positions for s in structures]),
            cells=np.stack([s.cell for s in structures]),
            pbc=np.stack([s.pbc for s in structures]),
            types=np.concatenate([s.types for s in structures]),
            offsets=np.concatenate([[0], np.cumsum(sizes)]),
            home=np.repeat(np.arange(len(sizes)), sizes),
            fparam=np.stack(fparams) if fparams else None,
            aparam=np.concatenate(aparams) if aparams else None,
        )

    def at(self, k: int) -> Structure:
        """Structure k, where it is now."""
        here = slice(self.offsets[k], self.offsets[k + 1])
        return replace(self.structures[k], positions=self.positions[here], cell=self.cells[k])
