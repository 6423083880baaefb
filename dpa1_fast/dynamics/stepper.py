"""What every driver stands on: an engine, and a set of structures whose neighbour lists last from step to step."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from ..engine import Engine
from ..errors import StructureError
from ..structures.batch import Batch, sum_structures
from ..structures.on_device.moving import MovingOnDevice
from ..structures.on_device.search import DeviceSearch
from ..structures.structure import SMALLEST_VOLUME, Structure
from ..structures.verlet import SKIN, Array, Verlet
from ..uncertainty import Estimate, Uncertainty


@dataclass(frozen=True)
class Step:
    """What a set of structures evaluates to, one structure after another.

    Attributes:
        energy (S,), energies (n,): eV. forces (n, 3): eV/Å. virial (S, 3, 3): eV, as in ``Result``.
        errors: of each structure that cannot be evaluated; its numbers are 0.
        estimates: of each structure, where they were asked for.
        batch: what was evaluated.
    """

    energy: Array
    energies: Array
    forces: Array
    virial: Array
    errors: dict[int, StructureError]
    estimates: list[Estimate] | None
    batch: Batch

    @cached_property
    def closest(self) -> Array:
        """(S,) Å, see ``Batch.closest``; computed when somebody asks."""
        return self.batch.closest().cpu().numpy()


class Moving:
    """Evaluates a set of structures again and again.

    Args:
        engine: evaluates. skin: Å, see ``verlet.py``.

    Attributes:
        verlet: neighbour lists, made where the engine has those of so many atoms made.
    """

    def __init__(self, engine: Engine, skin: float = SKIN) -> None:
        self.engine, self.skin = engine, skin
        self.verlet = self._lists(None)

    def select(self, members: Sequence[int | Structure]) -> None:
        """Changes the set, see ``Verlet.select``."""
        before = self.verlet.structures
        now = [before[m] if isinstance(m, int) else m for m in members]
        search = self.engine.search
        if search is None or not search.worth(sum(len(s) for s in now), moving=True):
            search = None
        if (search is None) != isinstance(self.verlet, Verlet):
            self.verlet, members = self._lists(search), now
        self.verlet.select(members)

    def forget(self) -> None:
        """Empties the set. After an error in ``step``, lists and what was searched for them may not match."""
        self.verlet = self._lists(None)

    def _lists(self, search: DeviceSearch | None) -> Verlet | MovingOnDevice:
        return Verlet(self.engine.config, self.skin) if search is None else MovingOnDevice(search)

    def step(self, positions: Array, cells: Array, trust: Uncertainty | None = None) -> Step:
        """Evaluates the set at positions (n, 3) and cells (S, 3, 3), rows being lattice vectors, in Å.

        Args:
            trust: also how far each result is to be trusted.
        """
        batch, errors = self.verlet.batch(positions, cells)
        outputs = self.engine.evaluate_batch(batch, gradient=False, hidden=trust is not None)
        estimates = None if trust is None else trust.estimates(batch.to("cpu"), outputs)
        offsets = self.verlet.offsets
        energies, forces, virial = (x.numpy() for x in (outputs.energies, outputs.forces, outputs.virials))
        energy = sum_structures(energies, offsets)
        if self.engine.dispersion is not None:
            places = np.split(positions, offsets[1:-1])
            where = zip(self.verlet.structures, places, cells, strict=True)
            errors |= self.engine.dispersion.add(where, energy, forces, virial, without=errors)
        if not (np.isfinite(energy).all() and np.isfinite(virial).all() and np.isfinite(forces).all()):
            per_atom = np.logical_and.reduceat(np.isfinite(forces).all(axis=1), offsets[:-1])
            finite = np.isfinite(energy) & np.isfinite(virial).all(axis=(1, 2)) & per_atom
            for k in np.flatnonzero(~finite).tolist():
                whole = np.isfinite(forces[offsets[k] : offsets[k + 1]]).all(axis=1)
                place = "" if whole.all() else f" (first at atom {int(whole.argmin())})"
                told = (
                    f"the model's energy, forces or virial overflow in {self.engine.precision}{place}: atoms are far "
                    "too close together"
                )
                errors[k] = StructureError(self.verlet.structures[k].name, told)
                energy[k], virial[k] = 0.0, 0.0
            wrong = np.repeat(~finite, np.diff(offsets))
            energies[wrong], forces[wrong] = 0.0, 0.0
        return Step(energy, energies, forces, virial, errors, estimates, batch)


def stress(virial: Array, cells: Array, pbc: NDArray[np.bool_]) -> Array:
    """(S, 3, 3) eV/Å³, tension positive, symmetric; 0 where a structure has no volume.

    Args:
        virial: (S, 3, 3) eV. cells: (S, 3, 3) Å. pbc: (S, 3).
    """
    volume = np.abs(np.linalg.det(cells))
    has = pbc.any(axis=1) & (volume >= SMALLEST_VOLUME)
    symmetric = 0.5 * (virial + virial.transpose(0, 2, 1))
    return -symmetric / np.where(has, volume, np.inf)[:, None, None]
