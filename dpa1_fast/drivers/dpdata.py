"""dpdata: ``system.predict(driver="dpa1_fast", model=…)``, found by the entry point ``dpdata.plugins``."""

from __future__ import annotations

from typing import Any

import numpy as np
from ase import Atoms
from ase.data import chemical_symbols
from dpdata.driver import Driver

from ..structures.type_names import TYPE_NAMES


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

        ``fparam`` and ``aparam`` among the data count where the model has such parameters.

        Raises:
            StructureError: naming the frame ("structure 3") and what is wrong with it.
        """
        names = np.array(data["atom_names"])[data["atom_types"]]
        periodic = not data.get("nopbc", False)
        # Names of types need not be elements.
        elements = names if set(names.tolist()) <= set(chemical_symbols) else np.zeros(len(names), dtype=int)
        frames = [
            Atoms(elements, positions, cell=cell if periodic else None, pbc=periodic)
            for positions, cell in zip(data["coords"], data["cells"], strict=True)
        ]
        for k, frame in enumerate(frames):
            if elements is not names:
                frame.set_array(TYPE_NAMES, names)
            if "fparam" in data:
                frame.info["fparam"] = np.ravel(data["fparam"][k])
            if "aparam" in data:
                frame.set_array("aparam", np.reshape(data["aparam"][k], (len(frame), -1)))
        found = self._engine.evaluate(frames)
        labels = {
            "energies": np.array([r.energy for r in found]),
            "forces": np.array([r.forces for r in found]),
        }
        if periodic:
            labels["virials"] = np.array([r.virial for r in found])
        return {**data, **labels}
