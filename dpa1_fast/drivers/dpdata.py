"""dpdata: ``system.predict(driver="dpa1_fast", model=…)``, found by the entry point ``dpdata.plugins``."""

from __future__ import annotations

from typing import Any

import numpy as np
from ase import Atoms
from dpdata.driver import Driver


@Driver.register("dpa1_fast")
class DPA1Driver(Driver):  # type: ignore[misc]
    """Labels all frames of a system in few batches.

    Args:
        model: a file or a bundled model's name, or an ``Engine``. options: as for ``dpa1_fast.load``.
    """

    def __init__(self, model: Any, **options: Any) -> None:
        # dpdata imports all of its plugins whenever it is imported: torch is loaded when there is something to do.
        from ..engine import Engine
        from ..loading import load

        self._engine = model if isinstance(model, Engine) else load(model, **options)

    def label(self, data: dict[str, Any]) -> dict[str, Any]:
        """The data with ``energies`` (F,) eV, ``forces`` (F, n, 3) eV/Å and, where periodic, ``virials`` (F, 3, 3) eV.

        Raises:
            StructureError: naming the frame ("structure 3") and what is wrong with it.
        """
        names = np.array(data["atom_names"])[data["atom_types"]]
        periodic = not data.get("nopbc", False)
        frames = [
            Atoms(names, positions, cell=cell if periodic else None, pbc=periodic)
            for positions, cell in zip(data["coords"], data["cells"], strict=True)
        ]
        found = self._engine.evaluate(frames)
        labels = {
            "energies": np.array([r.energy for r in found]),
            "forces": np.array([r.forces for r in found]),
        }
        if periodic:
            labels["virials"] = np.array([r.virial for r in found])
        return {**data, **labels}
