"""Elastic constants from the stresses of strained copies, atoms relaxed in each."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from ase import Atoms, units
from numpy.typing import NDArray

from ..engine import VOIGT, Engine, Result
from ..errors import StructureError
from ..structures.structure import from_ase
from .base import Found, OfCopies, PropertyError
from .connected import connected
from .eos import periodic

Array = NDArray[np.float64]

FLAT = 1e-9
"""Of the stiffest kind of strain. One that costs less has no compliance: atoms see each other, and do not interact."""


@dataclass(frozen=True)
class Elastic(OfCopies):
    """Six strains (Voigt's), each forth and back by ``strain`` and by half of it."""

    strain: float = 0.005

    name = "elastic"
    columns = ("bulk_modulus", "shear_modulus", "youngs_modulus", "poisson_ratio", "stable", *(
        f"c{i}{j}" for i in range(1, 7) for j in range(i, 7)))  # fmt: skip

    def __post_init__(self) -> None:
        if not 0.0 < self.strain < 0.1:
            raise PropertyError("--strain must lie between 0 and 0.1")

    def ask(self, atoms: Atoms, name: str) -> ElasticAsked:
        """See ``Property``."""
        periodic(atoms, name)
        strains, copies = [], []
        for k in range(6):
            for size in (-1.0, -0.5, 0.5, 1.0):
                strain = np.zeros(6)
                strain[k] = size * self.strain
                strains.append(strain)
                copy = atoms.copy()
                # The symmetric deformation whose Lagrangian strain this is, to first order.
                copy.set_cell(atoms.cell[:] @ (np.eye(3) + full(strain)), scale_atoms=True)
                copies.append(copy)
        return ElasticAsked(copies, name, np.array(strains))

    def found(self, engine: Engine, asked: Sequence[Any], fmax: float) -> list[Found | StructureError]:
        """See ``Property``; what falls into parts that do not see each other has no constants."""
        apart = [_apart(engine, one) for one in asked]
        ends = iter(super().found(engine, [one for one, why in zip(asked, apart, strict=True) if not why], fmax))
        return [why or next(ends) for why in apart]


def _apart(engine: Engine, asked: ElasticAsked) -> StructureError | None:
    """What to say of atoms that do not hold together: some strain of them costs nothing. Dispersion reaches far."""
    if engine.dispersion is not None:
        return None
    try:
        if connected(from_ase(engine.config, asked.copies[0], asked.name), engine.config.rcut):
            return None
    except StructureError as error:
        return error
    return StructureError(
        asked.name,
        f"some of its atoms, chains or layers do not see each other within the cut-off of {engine.config.rcut:g} Å, "
        "so a strain costs nothing and there are no elastic constants",
    )


@dataclass(frozen=True)
class ElasticAsked:
    """One structure's: copies, how errors refer to it, and the strain of each (24, 6)."""

    copies: Sequence[Atoms]
    name: str
    strains: Array

    def found(self, results: Sequence[Result]) -> Found:
        """GPa: constants (symmetrized), moduli by Voigt, Reuss and Hill's mean."""
        stresses = np.array([r.stress for r in results])
        # Stress is even and odd in the strain; the odd part is linear but for the third order.
        constants = np.linalg.lstsq(self.strains, stresses - stresses.mean(axis=0), rcond=None)[0].T / units.GPa
        c = 0.5 * (constants + constants.T)
        stiffness = np.linalg.eigvalsh(c)
        if not np.abs(stiffness).min() > FLAT * np.abs(stiffness).max():
            told = "a strain of it costs nothing, so there are no elastic constants"
            raise StructureError(self.name, told)
        row = {**moduli(c), "stable": bool((stiffness > 0.0).all())}
        row |= {f"c{i + 1}{j + 1}": float(c[i, j]) for i in range(6) for j in range(i, 6)}
        table = "\n".join(",".join(repr(float(x)) for x in line) for line in c) + "\n"
        return Found(row, {"elastic.csv": table})


def full(strain: Array) -> Array:
    """(3, 3) of Voigt's (6,), whose shears are doubled."""
    out = np.zeros((3, 3))
    for value, (a, b) in zip(strain, VOIGT, strict=True):
        out[a, b] = out[b, a] = value if a == b else 0.5 * value
    return out


def moduli(c: Array) -> dict[str, float]:
    """Bulk, shear and Young's modulus in the unit of c (6, 6), and Poisson's ratio: Hill's mean."""
    a, b, g = c[:3, :3].trace(), c[0, 1] + c[0, 2] + c[1, 2], c[3:, 3:].trace()
    bulk_v, shear_v = (a + 2 * b) / 9, (a - b + 3 * g) / 15
    s = np.linalg.inv(c)
    sa, sb, sg = s[:3, :3].trace(), s[0, 1] + s[0, 2] + s[1, 2], s[3:, 3:].trace()
    bulk = 0.5 * (bulk_v + 1 / (sa + 2 * sb))
    shear = 0.5 * (shear_v + 15 / (4 * sa - 4 * sb + 3 * sg))
    young = 9 * bulk * shear / (3 * bulk + shear)
    ratio = (3 * bulk - 2 * shear) / (2 * (3 * bulk + shear))
    out = {"bulk_modulus": bulk, "shear_modulus": shear, "youngs_modulus": young, "poisson_ratio": ratio}
    return {k: float(x) for k, x in out.items()}
