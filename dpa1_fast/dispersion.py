"""DFT-D3 dispersion on top of a model, by simple-dftd3: for models of a functional that lacks it.

The model is left as it is; energies, forces and virials of D3 are added to its own wherever an engine gives those of
structures. Atomic energies and virials, and uncertainties, stay the model's. There is no term of three atoms.
"""

from __future__ import annotations

from collections.abc import Container, Iterable, Sequence
from typing import Any

import numpy as np
from ase.data import atomic_numbers
from ase.geometry import complete_cell
from ase.units import Bohr, Hartree
from numpy.typing import NDArray

from .errors import BackendError, StructureError
from .structures.structure import Structure

Array = NDArray[np.float64]

DAMPINGS = {
    "d3bj": "RationalDampingParam", "d3zero": "ZeroDampingParam", "d3mbj": "ModifiedRationalDampingParam",
    "d3mzero": "ModifiedZeroDampingParam", "d3op": "OptimizedPowerDampingParam",
}  # fmt: skip
"""What simple-dftd3 calls them."""


class Dispersion:
    """D3 of one functional.

    Args:
        name: damping and functional, such as "d3bj:pbe". type_map: the model's names of its types.

    Raises:
        BackendError: simple-dftd3 is not there, or does not know the damping or the functional.
    """

    def __init__(self, name: str, type_map: Sequence[str]) -> None:
        damping, _, functional = name.partition(":")
        if damping not in DAMPINGS or not functional:
            known = ", ".join(DAMPINGS)
            raise BackendError(f"dispersion {name!r} is not DAMPING:FUNCTIONAL, such as d3bj:pbe; dampings: {known}")
        try:
            from dftd3 import interface
        except ImportError as error:
            told = f"dispersion needs simple-dftd3 ({error}): pip install 'dpa1-fast[dispersion]'"
            raise BackendError(told) from None
        try:
            self._damping = getattr(interface, DAMPINGS[damping])(method=functional)
        except (RuntimeError, TypeError, ValueError) as error:
            raise BackendError(f"dispersion {name!r}: simple-dftd3 does not know it ({error})") from None
        self.name, self._interface, self._names = name, interface, tuple(type_map)
        self._numbers = np.array([atomic_numbers.get(t, 0) for t in type_map])

    def of(self, structure: Structure, positions: Array, cell: Array) -> tuple[float, Array, Array]:
        """Energy (eV), forces (n, 3) (eV/Å) and virial (3, 3) (eV, −dE/dε) of atoms at positions (n, 3) in a cell, Å.

        Raises:
            StructureError: D3 does not know an element, or cannot be computed.
        """
        real = structure.types >= 0
        numbers = self._numbers[structure.types[real]]
        forces = np.zeros((len(structure), 3))
        if not len(numbers):
            return 0.0, forces, np.zeros((3, 3))
        if not numbers.all():
            named = self._names[int(structure.types[real][numbers == 0][0])]
            raise StructureError(structure.name, f"dispersion is of elements, and the type {named} is none")
        try:
            model = self._model(numbers, positions[real], structure.pbc, cell)
            found: dict[str, Any] = model.get_dispersion(self._damping, grad=True)
        except (RuntimeError, ValueError) as error:
            raise StructureError(structure.name, f"dispersion cannot be computed ({error})") from None
        forces[real] = -found["gradient"] * (Hartree / Bohr)
        return float(found["energy"]) * Hartree, forces, -np.asarray(found["virial"]) * Hartree

    def force_constants(self, structure: Structure, first: NDArray[np.int64]) -> Array:
        """(p, N, 3, 3) eV/Å² of some atoms with all, as ``properties.force_constants``; no atom may be virtual.

        Raises:
            StructureError: see ``of``.
        """
        self.of(structure, structure.positions, structure.cell)  # says what is wrong
        model = self._model(self._numbers[structure.types], structure.positions, structure.pbc, structure.cell)
        n = len(structure)
        hessian = model.get_hessian(self._damping)["hessian"].reshape(n, 3, n, 3) * (Hartree / Bohr**2)
        return np.asarray(hessian[first].transpose(0, 2, 1, 3))

    def _model(self, numbers: NDArray[np.int64], positions: Array, pbc: NDArray[np.bool_], cell: Array) -> Any:
        lattice = complete_cell(cell) / Bohr if pbc.any() else None
        return self._interface.DispersionModel(numbers, positions / Bohr, lattice, pbc)

    def add(
        self, where: Iterable[tuple[Structure, Array, Array]], energy: Array, forces: Array, virial: Array,
        without: Container[int] = (),
    ) -> dict[int, StructureError]:  # fmt: skip
        """Adds D3 to what a set of structures evaluated to, in place; and what of it cannot be computed.

        Args:
            where: each structure with its positions (n, 3) and cell (3, 3).
            energy (S,), forces (n, 3), virial (S, 3, 3): as ``of``. without: which are left as they are.
        """
        errors: dict[int, StructureError] = {}
        start = 0
        for k, (structure, positions, cell) in enumerate(where):
            here = slice(start, start := start + len(structure))
            if k in without:
                continue
            try:
                e, f, w = self.of(structure, positions, cell)
            except StructureError as error:
                errors[k] = error
                continue
            energy[k] += e
            forces[here] += f
            virial[k] += w
        return errors
