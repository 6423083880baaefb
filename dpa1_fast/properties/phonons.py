"""Phonons: our force constants by finite displacements (``force_constants.py``), phonopy does the rest."""

from __future__ import annotations

import tempfile
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from ase import Atoms

from ..dynamics.velocities import masses_of
from ..engine import Engine
from ..errors import StructureError
from ..structures.structure import from_ase
from ..structures.type_names import TYPE_NAMES
from .base import Found, PropertyError
from .eos import periodic
from .force_constants import SAME, Array, Supercell, force_constants_of_each

try:
    from phonopy import Phonopy
    from phonopy.structure.atoms import PhonopyAtoms
    from phonopy.structure.symmetry import Symmetry
except ImportError as error:
    raise PropertyError(f"phonopy is needed ({error}): pip install 'dpa1-fast[phonons]'") from error

IMAGINARY = -0.05
"""THz. Frequencies below are imaginary; above they are a sum rule's noise."""

LARGEST = 10_000
"""Atoms of a supercell that nobody asked for by its repeats."""


@dataclass(frozen=True)
class Phonons:
    """Displacements and what frequencies are looked at.

    Attributes:
        displacement: Å. length: Å, supercells are at least so long along each vector. supercell: repeats along
            each vector, or phonopy's matrix by rows (nine integers), or None.
        mesh: phonopy's, a length in Å of the grid's inverse spacing. temperature: K, of free energy and heat capacity.
    """

    displacement: float = 0.01
    length: float = 12.0
    supercell: Sequence[int] | None = None
    mesh: float = 60.0
    temperature: float = 300.0

    name = "phonons"
    columns = ("supercell", "displacements", "min_frequency", "max_frequency", "imaginary", "zero_point_energy",
               "free_energy", "entropy", "heat_capacity")  # fmt: skip

    def __post_init__(self) -> None:
        if not all(0.0 < x < np.inf for x in (self.displacement, self.length, self.mesh, self.temperature)):
            raise PropertyError("--displacement, --length, --mesh and --temperature must be positive")
        if self.supercell is not None and (
            len(self.supercell) not in (3, 9) or np.linalg.det(matrix_of(self.supercell)) < 0.5
        ):
            given = ",".join(map(str, self.supercell))
            raise PropertyError(f"--supercell {given} must be three or nine integers, with a positive determinant")

    def ask(self, atoms: Atoms, name: str) -> PhononsAsked:
        """See ``Property``."""
        periodic(atoms, name)
        matrix = matrix_of(self.supercell or [int(np.ceil(self.length / x)) for x in atoms.cell.lengths()])
        count = round(np.linalg.det(matrix)) * len(atoms)
        if self.supercell is None and count > LARGEST:
            told = f"a supercell of {self.length:g} Å would have {count:,} atoms, more than {LARGEST:,}"
            raise StructureError(name, f"{told}; is its cell right? If so, give a smaller --length, or --supercell")
        masses = masses_of(atoms, name) if atoms.has("masses") else None
        # The same lattice with right-handed vectors, which phonopy wants.
        lattice = atoms.cell[:] * np.sign(np.linalg.det(atoms.cell[:]))
        primitive = "auto" if _of_elements(atoms) else np.eye(3)
        try:
            cell = PhonopyAtoms(symbols=list(atoms.symbols), cell=lattice, positions=atoms.positions, masses=masses)
            with warnings.catch_warnings():
                warnings.filterwarnings("ignore", "primitive_matrix defaulted")
                # Our force constants need none of the supercell's symmetry, which takes phonopy longer than all else.
                phonopy = Phonopy(cell, supercell_matrix=matrix, primitive_matrix=primitive, is_symmetry=False)
        except Exception as error:  # phonopy's and spglib's own, others from version to version
            raise StructureError(name, f"phonopy makes no supercell ({type(error).__name__}: {error})") from None
        return PhononsAsked(atoms, name, phonopy, self)

    def found(self, engine: Engine, asked: Sequence[PhononsAsked], fmax: float) -> list[Found | StructureError]:
        """See ``Property``; displaced copies of all crystals are evaluated together."""
        symmetries: dict[int, Symmetry] = {}
        supercells: dict[int, Supercell] = {}
        out: list[Any] = [None] * len(asked)
        for k, one in enumerate(asked):
            try:
                symmetries[k] = one.symmetry()
                supercells[k] = one.supercell(engine, symmetries[k])
            except StructureError as error:
                out[k] = error
        each = force_constants_of_each(engine, list(supercells.values()), self.displacement)
        for (k, supercell), constants in zip(supercells.items(), each, strict=True):
            if isinstance(constants, StructureError):
                out[k] = constants
            else:
                out[k] = asked[k].found(*constants, supercell, symmetries[k])
        return out


@dataclass(frozen=True)
class PhononsAsked:
    """One structure's."""

    atoms: Atoms
    name: str
    phonopy: Any
    options: Phonons

    def symmetry(self) -> Symmetry:
        """Of the primitive cell.

        Raises:
            StructureError: it is not found.
        """
        try:
            return Symmetry(self.phonopy.primitive, symprec=SAME)
        except Exception as error:  # phonopy's and spglib's own, others from version to version
            raise StructureError(self.name, f"its symmetry cannot be found ({error})") from None

    def supercell(self, engine: Engine, symmetry: Symmetry) -> Supercell:
        """The supercell as the engine sees it, types and parameters of its atoms included."""
        p = self.phonopy
        unit = np.array([p.supercell.u2u_map[k] for k in p.supercell.s2u_map])
        atoms = self.atoms[unit]
        atoms.info = dict(self.atoms.info)
        atoms.set_cell(p.supercell.cell)
        atoms.positions = p.supercell.positions
        structure = from_ase(engine.config, atoms, self.name)
        columns = np.asarray(p.primitive.cell).T
        alike = structure.aparam is None and _of_elements(self.atoms)
        rotations = columns @ symmetry.pointgroup_operations @ np.linalg.inv(columns) if alike else None
        return Supercell(structure, p.primitive.p2s_map, rotations)

    def found(self, constants: Array, displacements: int, supercell: Supercell, symmetry: Symmetry) -> Found:
        """THz; eV, and eV/K, for a primitive cell; and phonopy's own file with the force constants (p, N, 3, 3)."""
        p, o = self.phonopy, self.options
        p.force_constants = constants
        if len(supercell.rotations) == len(symmetry.pointgroup_operations):
            p._primitive_symmetry = symmetry  # equivalent wave vectors are looked at once
        p.run_mesh(o.mesh)
        frequencies = p.mesh.frequencies
        p.run_thermal_properties(temperatures=[0.0, o.temperature], cutoff_frequency=0.01)
        thermal = p.thermal_properties
        mole = 96.48533212  # kJ/mol in eV
        row = {
            "supercell": _words(p.supercell_matrix),
            "displacements": displacements,
            "min_frequency": float(frequencies.min()),
            "max_frequency": float(frequencies.max()),
            "imaginary": bool(frequencies.min() < IMAGINARY),
            "zero_point_energy": float(thermal.free_energy[0]) / mole,
            "free_energy": float(thermal.free_energy[1]) / mole,
            "entropy": float(thermal.entropy[1]) / (1000 * mole),
            "heat_capacity": float(thermal.heat_capacity[1]) / (1000 * mole),
        }
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "phonopy_params.yaml"
            p.save(path, settings={"force_constants": True})
            text = path.read_text(encoding="utf-8")
        return Found(row, {"phonopy_params.yaml": text})


def matrix_of(supercell: Sequence[int]) -> Array:
    """(3, 3), rows of phonopy's matrix, from three repeats or from nine integers."""
    return np.diag(supercell) if len(supercell) == 3 else np.reshape(supercell, (3, 3))


def _words(matrix: Array) -> str:
    """Three repeats where they say all, else nine integers."""
    repeats = np.diag(matrix)
    return " ".join(str(int(x)) for x in (repeats if np.array_equal(np.diag(repeats), matrix) else matrix.ravel()))


def _of_elements(atoms: Atoms) -> bool:
    """Whether elements say all that tells atoms apart, as phonopy's symmetry has it."""
    if TYPE_NAMES in atoms.arrays or "aparam" in atoms.arrays:
        return False
    masses = atoms.get_masses()
    return all(np.ptp(masses[atoms.numbers == z]) == 0.0 for z in set(atoms.numbers.tolist()))
