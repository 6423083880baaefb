"""Ground-state electron configurations as a vector, for models with ``use_econf_tebd``.

DeePMD-kit does not store this table in a model file, so it is rebuilt here from what chemistry says: the Madelung
order of filling, the known exceptions, and Hund's rule within a shell. Each orbital is written as two numbers,
empty (−1, −1), one electron (−1, 1), a pair (1, 1); the whole vector is divided by the root of its length, 118.
"""

from __future__ import annotations

from functools import cache

import numpy as np
from numpy.typing import NDArray

LETTERS = "spdf"
SHELLS = [
    "1s",
    "2s",
    "2p",
    "3s",
    "3p",
    "3d",
    "4s",
    "4p",
    "4d",
    "4f",
    "5s",
    "5p",
    "5d",
    "5f",
    "6s",
    "6p",
    "6d",
    "7s",
    "7p",
]
FILLING = [
    "1s",
    "2s",
    "2p",
    "3s",
    "3p",
    "4s",
    "3d",
    "4p",
    "5s",
    "4d",
    "5p",
    "6s",
    "4f",
    "5d",
    "6p",
    "7s",
    "5f",
    "6d",
    "7p",
]
SYMBOLS = [
    "H",
    "He",
    "Li",
    "Be",
    "B",
    "C",
    "N",
    "O",
    "F",
    "Ne",
    "Na",
    "Mg",
    "Al",
    "Si",
    "P",
    "S",
    "Cl",
    "Ar",
    "K",
    "Ca",
    "Sc",
    "Ti",
    "V",
    "Cr",
    "Mn",
    "Fe",
    "Co",
    "Ni",
    "Cu",
    "Zn",
    "Ga",
    "Ge",
    "As",
    "Se",
    "Br",
    "Kr",
    "Rb",
    "Sr",
    "Y",
    "Zr",
    "Nb",
    "Mo",
    "Tc",
    "Ru",
    "Rh",
    "Pd",
    "Ag",
    "Cd",
    "In",
    "Sn",
    "Sb",
    "Te",
    "I",
    "Xe",
    "Cs",
    "Ba",
    "La",
    "Ce",
    "Pr",
    "Nd",
    "Pm",
    "Sm",
    "Eu",
    "Gd",
    "Tb",
    "Dy",
    "Ho",
    "Er",
    "Tm",
    "Yb",
    "Lu",
    "Hf",
    "Ta",
    "W",
    "Re",
    "Os",
    "Ir",
    "Pt",
    "Au",
    "Hg",
    "Tl",
    "Pb",
    "Bi",
    "Po",
    "At",
    "Rn",
    "Fr",
    "Ra",
    "Ac",
    "Th",
    "Pa",
    "U",
    "Np",
    "Pu",
    "Am",
    "Cm",
    "Bk",
    "Cf",
    "Es",
    "Fm",
    "Md",
    "No",
    "Lr",
    "Rf",
    "Db",
    "Sg",
    "Bh",
    "Hs",
    "Mt",
    "Ds",
    "Rg",
    "Cn",
    "Nh",
    "Fl",
    "Mc",
    "Lv",
    "Ts",
    "Og",
]

# Ground states that break the Madelung order: the shells that differ, as observed.
EXCEPTIONS = {
    "Cr": "3d5 4s1", "Cu": "3d10 4s1", "Nb": "4d4 5s1", "Mo": "4d5 5s1", "Ru": "4d7 5s1", "Rh": "4d8 5s1",
    "Pd": "4d10 5s0", "Ag": "4d10 5s1", "La": "4f0 5d1", "Ce": "4f1 5d1", "Gd": "4f7 5d1", "Pt": "5d9 6s1",
    "Au": "5d10 6s1", "Ac": "5f0 6d1", "Th": "5f0 6d2", "Pa": "5f2 6d1", "U": "5f3 6d1", "Np": "5f4 6d1",
    "Cm": "5f7 6d1", "Ds": "6d9 7s1", "Rg": "6d10 7s1",
}  # fmt: skip


def _orbitals(shell: str) -> int:
    return 2 * LETTERS.index(shell[1]) + 1


def occupations(symbol: str) -> dict[str, int]:
    """Electrons in each shell of the neutral atom's ground state, e.g. ``{"1s": 2, "2s": 1}`` for Li."""
    left, filled = SYMBOLS.index(symbol) + 1, dict.fromkeys(SHELLS, 0)
    for shell in FILLING:
        filled[shell] = min(left, 2 * _orbitals(shell))
        left -= filled[shell]
    for item in EXCEPTIONS.get(symbol, "").split():
        filled[item[:2]] = int(item[2:])
    return filled


@cache
def econf_vector(symbol: str) -> NDArray[np.float64]:
    """The 118 numbers that describe an element to the type embedding.

    Raises:
        KeyError: if ``symbol`` is not an element.
    """
    if symbol not in SYMBOLS:
        raise KeyError(symbol)
    spins: list[int] = []
    for shell, electrons in occupations(symbol).items():
        n = _orbitals(shell)
        unpaired = min(electrons, 2 * n - electrons)
        pairs = (electrons - unpaired) // 2
        spins += [1, 1] * pairs + [-1, 1] * unpaired + [-1, -1] * (n - pairs - unpaired)
    vector: NDArray[np.float64] = np.array(spins, dtype=np.float64) / np.sqrt(len(spins))
    return vector


def econf_table(type_map: tuple[str, ...]) -> NDArray[np.float64]:
    """One row per type, (ntypes, 118).

    Raises:
        KeyError: naming the first type that is not an element.
    """
    return np.stack([econf_vector(symbol) for symbol in type_map])
