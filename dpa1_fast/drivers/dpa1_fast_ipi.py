"""i-PI: a potential that evaluates all beads of a batch at once, in i-PI itself (``ffdirect``) or as its client.

i-PI loads this file by its path (``dpa1-fast ipi`` prints it), as a module of its own: imports are absolute.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from ase.io import read
from numpy.typing import NDArray

from dpa1_fast.drivers.copies import Copies

try:
    from ipi.pes.dummy import Dummy_driver
    from ipi.utils.units import unit_to_internal, unit_to_user
except ImportError as error:
    raise ImportError(f"i-PI is needed ({error}): pip install 'dpa1-fast[ipi]'") from error

__DRIVER_NAME__ = "dpa1_fast"
__DRIVER_CLASS__ = "DPA1Driver"

Array = NDArray[np.float64]
Answer = tuple[float, Array, Array, str]


class DPA1Driver(Dummy_driver):  # type: ignore[misc]
    """DPA-1 for i-PI.

    Args:
        template: a file that ASE reads, with the elements in i-PI's order and pbc.
        model: a file or a bundled model's name.
        options: precision, threads, device, backend, head of ``dpa1_fast.load``.

    Raises:
        ModelFileError, BackendError, StructureError: what cannot be served, when i-PI starts or at a step.
    """

    def __init__(self, template: str, model: str, verbose: bool = False, verbosity: Any = None, **options: Any) -> None:
        atoms: Any = read(str(template))
        self._copies = Copies(str(model), atoms, **options)
        super().__init__(verbose)

    def compute_structure(self, cell: Array, pos: Array) -> Answer:
        """One structure: energy, forces (n, 3) and virial (3, 3) in atomic units.

        Args:
            cell: (3, 3) bohr, columns are lattice vectors. pos: (n, 3) bohr.
        """
        answer: Answer = self.compute([cell], [pos])[0]
        return answer

    def compute(self, cell: Any, pos: Any) -> Any:
        """One structure, or lists of them in one batch."""
        if not isinstance(cell, list):
            return self.compute_structure(cell, pos)
        places = unit_to_user("length", "angstrom", np.stack([np.asarray(p).reshape(-1, 3) for p in pos]))
        cells = unit_to_user("length", "angstrom", np.stack(cell).transpose(0, 2, 1))
        step = self._copies(places, cells)
        energy = unit_to_internal("energy", "electronvolt", step.energy)
        forces = unit_to_internal("force", "ev/ang", step.forces.reshape(places.shape))
        virial = unit_to_internal("energy", "electronvolt", 0.5 * (step.virial + step.virial.transpose(0, 2, 1)))
        return [(float(e), f, v, "") for e, f, v in zip(energy, forces, virial, strict=True)]
