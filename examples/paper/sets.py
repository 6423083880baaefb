"""The data sets of the experiments, as lists of ``ase.Atoms`` with labels, out of a folder that holds them all.

``almgcu``, ``hea``, ``sse``: labels of a machine-learned potential (CHGNet), not DFT. ``si``, ``mo``: mlearn, DFT
(PBE). ``acac``: acetylacetone at 300 K, DFT (PBE+D3).
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from ase import Atoms
from ase.calculators.singlepoint import SinglePointCalculator
from ase.io.extxyz import write_extxyz

from dpa1_fast.train.data import frames

TEACHER = ("almgcu", "hea", "sse")
DFT = ("si", "mo", "acac")
EVERY = 10
"""Of a set without test data every tenth structure is one."""


def load(name: str, root: Path) -> tuple[list[Atoms], list[Atoms]]:
    """Structures to train on, and to test on.

    Args:
        root: the folder with ``teacher68``, ``mlearn`` and ``acac``.
    """
    if name in TEACHER:
        folder = root / "teacher68" / name
        return _frames(folder / "train"), _frames(folder / "test")
    if name == "acac":
        return _frames(root / "acac" / "train_300K.xyz"), _frames(root / "acac" / "test_MD_300K.xyz")
    folder = root / "mlearn" / name.capitalize()
    train = mlearn(folder / "training.json")
    if (folder / "test.json").exists():
        return train, mlearn(folder / "test.json")
    order = np.random.default_rng(0).permutation(len(train))
    test = set(order[: len(train) // EVERY].tolist())
    return [a for k, a in enumerate(train) if k not in test], [train[k] for k in sorted(test)]


def mlearn(path: Path) -> list[Atoms]:
    """A file of the mlearn benchmark: structures of pymatgen as JSON, with VASP's energies and forces."""
    out = []
    for one in json.loads(path.read_text(encoding="utf-8")):
        sites = one["structure"]["sites"]
        atoms = Atoms(
            [site["species"][0]["element"] for site in sites],
            positions=[site["xyz"] for site in sites],
            cell=one["structure"]["lattice"]["matrix"],
            pbc=True,
        )
        given = one["outputs"]
        atoms.calc = SinglePointCalculator(atoms, energy=given["energy"], forces=np.array(given["forces"]))
        out.append(atoms)
    return out


def chosen(train: Sequence[Atoms], samples: int, seed: int) -> list[Atoms]:
    """So many of them (0: none; −1: all), at random; more of them hold those that fewer are."""
    order = np.random.default_rng([seed, 11]).permutation(len(train))
    return [train[k] for k in order[: len(train) if samples < 0 else samples]]


def write(path: Path, structures: Sequence[Atoms]) -> Path:
    """Structures with energies and forces as extended XYZ."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", encoding="utf-8") as file:
        for atoms in structures:
            plain = Atoms(atoms.numbers, positions=atoms.positions, cell=atoms.cell, pbc=atoms.pbc)
            results = atoms.calc.results
            plain.calc = SinglePointCalculator(plain, energy=results["energy"], forces=results["forces"])
            write_extxyz(file, [plain])
    return path


def _frames(path: Path) -> list[Any]:
    return [frame.atoms for frame in frames([str(path)], ())]
