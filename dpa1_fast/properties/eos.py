"""Equations of state: energies at scaled volumes, fitted by Birch and Murnaghan's equation of third order."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from ase import Atoms, units
from ase.eos import EquationOfState

from ..engine import Result
from ..errors import StructureError
from .base import Found, OfCopies, PropertyError

FLAT = 1e-9
"""eV an atom. Energies that differ by less have no minimum."""


@dataclass(frozen=True)
class Eos(OfCopies):
    """Volumes from (1 − ``strain``) to (1 + ``strain``) times that of the structure, ``points`` of them."""

    strain: float = 0.06
    points: int = 9

    name = "eos"
    columns = ("volume", "energy", "bulk_modulus", "bulk_modulus_derivative")

    def __post_init__(self) -> None:
        if not 0.0 < self.strain < 0.5 or self.points < 5:
            raise PropertyError("--strain must lie between 0 and 0.5, and --points be at least 5")

    def ask(self, atoms: Atoms, name: str) -> EosAsked:
        """See ``Property``."""
        periodic(atoms, name)
        copies = []
        for scale in np.linspace(1.0 - self.strain, 1.0 + self.strain, self.points):
            copy = atoms.copy()
            copy.set_cell(atoms.cell[:] * scale ** (1 / 3), scale_atoms=True)
            copies.append(copy)
        return EosAsked(copies, name)


@dataclass(frozen=True)
class EosAsked:
    """One structure's."""

    copies: Sequence[Atoms]
    name: str

    def found(self, results: Sequence[Result]) -> Found:
        """Volume (Å³) and energy (eV) at the minimum, bulk modulus (GPa) and its derivative by pressure."""
        volumes, energies = [float(a.get_volume()) for a in self.copies], [float(r.energy) for r in results]
        try:
            fit = EquationOfState(volumes, energies, eos="birchmurnaghan")
            volume, energy, bulk = fit.fit(warn=False)
            derivative = fit.eos_parameters[2]
        except (RuntimeError, ValueError, np.linalg.LinAlgError) as error:
            raise StructureError(self.name, f"its energies have no minimum among these volumes ({error})") from None
        flat = np.ptp(energies) < FLAT * len(self.copies[0])  # atoms that do not see each other
        if flat or not (min(volumes) < volume < max(volumes) and bulk > 0.0):
            raise StructureError(
                self.name, "its energies have no minimum among these volumes; relax it or widen --strain"
            )
        table = "volume,energy\n" + "".join(f"{v!r},{e!r}\n" for v, e in zip(volumes, energies, strict=True))
        row = dict(zip(Eos.columns, (volume, energy, bulk / units.GPa, derivative), strict=True))
        return Found({k: float(x) for k, x in row.items()}, {"eos.csv": table})


def periodic(atoms: Atoms, name: str) -> None:
    """Refuses what is no crystal.

    Raises:
        StructureError: it is not periodic along all three axes.
    """
    if not atoms.pbc.all():
        raise StructureError(name, "this property needs a crystal, periodic along all three axes")
