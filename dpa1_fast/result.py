"""What one structure evaluates to, and how it is taken out of what a whole batch did."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from .dispersion import Dispersion
from .errors import StructureError
from .kernels.outputs import Outputs
from .structures.batch import Batch, sum_structures
from .structures.structure import Structure
from .uncertainty import Estimate, Uncertainty

VOIGT = ((0, 0), (1, 1), (2, 2), (1, 2), (0, 2), (0, 1))


@dataclass(frozen=True)
class Result:
    """What one structure evaluates to.

    Attributes:
        energy: eV. energies: (n,) eV, zero for virtual atoms. forces: (n, 3) eV/Å.
        virial: (3, 3) eV, −dE/dε: positive wants to expand. atomic_virials: (n, 3, 3) eV where they were asked for,
            each edge booked on the neighbour as DeePMD-kit does; they sum to ``virial``.
        volume: Å³, or None for a structure without one.
        uncertainty: standard deviations and flags, where they were asked for.
        closest: Å, distance of the two closest atoms within the cut-off, infinite where there are none; where it was
            asked for.
    """

    energy: float
    forces: NDArray[np.float64]
    virial: NDArray[np.float64]
    energies: NDArray[np.float64]
    volume: float | None
    atomic_virials: NDArray[np.float64] | None = None
    uncertainty: Estimate | None = None
    closest: float | None = None

    @property
    def stress(self) -> NDArray[np.float64] | None:
        """(6,) eV/Å³, Voigt order xx yy zz yz xz xy, ASE's sign (tension positive); None without a volume."""
        if self.volume is None:
            return None
        stress = -0.5 * (self.virial + self.virial.T) / self.volume
        return np.array([stress[a, b] for a, b in VOIGT])


def results_of(
    structures: Sequence[Structure],
    batch: Batch,
    outputs: Outputs,
    precision: str,
    atomic_virials: bool,
    trust: Uncertainty | None,
    closest: bool,
    dispersion: Dispersion | None,
) -> Iterator[Result | StructureError]:
    """The result of each structure of a batch, or why there is none.

    Args:
        structures: those of the batch, in its order. precision: as messages call it. atomic_virials, closest: whether
            they are asked for. trust: what estimates uncertainties, where they are asked for. dispersion: to be added.
    """
    energies = outputs.energies
    forces, virial = outputs.forces.numpy(), outputs.virials.numpy()
    offsets = [0, *itertools.accumulate(len(s) for s in structures)]
    per_atom = energies.numpy()
    energy = sum_structures(per_atom, offsets)
    per_atom_virial = batch.to("cpu").atomic_virials(outputs.gradient).numpy() if atomic_virials else None
    estimates = None if trust is None else trust.estimates(batch.to("cpu"), outputs)
    shortest = batch.closest().tolist() if closest else itertools.repeat(None)
    wrong: dict[int, StructureError] = {}
    if dispersion is not None:
        wrong = dispersion.add([(s, s.positions, s.cell) for s in structures], energy, forces, virial)
    fine = bool(np.isfinite(energy).all() and np.isfinite(forces).all())
    for k, (structure, near) in enumerate(zip(structures, shortest, strict=False)):
        a, b = offsets[k], offsets[k + 1]
        if k in wrong:
            yield wrong[k]
            continue
        if not fine and not (np.isfinite(energy[k]) and np.isfinite(forces[a:b]).all()):
            reason = f"the model's energy or forces overflow in {precision}: atoms are far too close together"
            yield StructureError(structure.name, reason)
            continue
        atomic = None if per_atom_virial is None else per_atom_virial[a:b]
        estimate = None if estimates is None else estimates[k]
        yield Result(float(energy[k]), forces[a:b], virial[k], per_atom[a:b], structure.volume, atomic, estimate, near)
