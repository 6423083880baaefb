"""An ASE calculator, keyword for keyword ``deepmd.calculator.DP``."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

import numpy as np
from ase.calculators.calculator import Calculator, PropertyNotImplementedError, all_changes

from ..dynamics.stepper import Moving, stress
from ..engine import VOIGT, Engine
from ..loading import load
from ..structures.structure import Structure, from_ase
from ..structures.verlet import SKIN

LASTING = ("positions", "cell", "initial_charges", "initial_magmoms")
"""Changes that leave the atoms what they are: their neighbour list lives on."""


class DPA1Calculator(Calculator):  # type: ignore[misc]
    """Energies, forces and stresses for ASE. Neighbour lists last from step to step (``verlet.py``).

    What differs from ``DP``: the three axes may differ in periodicity, atomic energies are there too, and what DP
    leaves silent (overlapping atoms, NaN) is an error.

    Args:
        model: a file or the name of a bundled model, as for ``dpa1_fast.load``, or an ``Engine``.
        label: ASE's.
        type_dict: which of the model's types each chemical symbol is; by default as the model names them.
        neighbor_list, nlist_backend: taken for DP's sake; there is one way to find neighbours here.
        head: the branch of a multi-task checkpoint.
        device, backend, precision, threads: as for ``Engine``, where ``model`` is not one already.
        skin: Å, how much further neighbours are searched than the cut-off.

    Raises:
        ModelFileError: the file cannot be served.
        BackendError: device, backend or precision not available.
    """

    name = "DPA1"
    implemented_properties: ClassVar[list[str]] = [  # type: ignore[misc]
        "energy", "free_energy", "forces", "virial", "stress", "energies"
    ]  # fmt: skip

    def __init__(
        self,
        model: Any,
        label: str = "DPA1",
        type_dict: Mapping[str, int] | None = None,
        neighbor_list: Any = None,
        head: str | None = None,
        nlist_backend: str = "auto",
        *,
        device: str = "auto",
        backend: str = "auto",
        precision: str = "float64",
        threads: int | None = None,
        skin: float = SKIN,
        **kwargs: Any,
    ) -> None:
        Calculator.__init__(self, label=label, **kwargs)
        self.engine = model if isinstance(model, Engine) else load(
            model, device=device, backend=backend, precision=precision, head=head, threads=threads
        )  # fmt: skip
        self.type_dict = dict(type_dict) if type_dict else None
        self._moving = Moving(self.engine, skin)

    def calculate(
        self, atoms: Any = None, properties: Any = ("energy",), system_changes: list[str] = all_changes
    ) -> None:
        """Computes all properties at once.

        ``results["virial"]`` is (3, 3) eV as DeePMD-kit defines it, ``results["stress"]`` (6,) eV/Å³ in ASE's order
        and sign.

        Raises:
            StructureError: what is wrong with the atoms.
            PropertyNotImplementedError: the stress of atoms without a volume was asked for.
        """
        Calculator.calculate(self, atoms, properties, system_changes)
        now: Any = self.atoms
        known, fitting = self._moving.verlet.structures, self.engine.config.fitting
        if not known or not all(change in LASTING for change in system_changes):
            self._moving.select([self._structure(now)])
        elif fitting.numb_fparam or fitting.numb_aparam:
            # ASE does not watch atoms.info, where parameters are.
            new = self._structure(now)
            if not _equal(new.fparam, known[0].fparam) or not _equal(new.aparam, known[0].aparam):
                self._moving.select([new])
        cell = np.asarray(now.cell[:])[None]
        step = self._moving.step(now.positions, cell)
        if step.errors:
            raise step.errors[0]
        energy = float(step.energy[0])
        self.results = {
            "energy": energy,
            "free_energy": energy,
            "energies": step.energies,
            "forces": step.forces,
            "virial": step.virial[0],
        }
        if now.pbc.any() and abs(np.linalg.det(cell[0])) > 0.0:
            full = stress(step.virial, cell, now.pbc[None])[0]
            self.results["stress"] = np.array([full[a, b] for a, b in VOIGT])
        elif "stress" in properties:
            raise PropertyNotImplementedError("these atoms have no volume, so they have no stress")

    def _structure(self, atoms: Any) -> Structure:
        return from_ase(self.engine.config, atoms, atoms.get_chemical_formula(), types=self.type_dict)


def _equal(a: Any, b: Any) -> bool:
    return a is b or (a is not None and b is not None and np.array_equal(a, b))
