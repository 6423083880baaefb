"""Makes the example structures that ``make demo`` screens: Al-Mg-Cu crystals, surfaces, clusters, random alloys.

python examples/make_structures.py examples/structures
"""

from __future__ import annotations

import sys
from itertools import product
from pathlib import Path

import numpy as np
from ase import Atoms
from ase.build import bulk, fcc111, hcp0001
from ase.cluster import Octahedron
from ase.io import write

ELEMENTS = ("Al", "Mg", "Cu")
VOLUME = {"Al": 16.5, "Mg": 23.0, "Cu": 11.8}  # Å³ per atom, near the measured ones


def sized(atoms: Atoms, name: str) -> Atoms:
    """Scales a crystal to the sum of its atoms' volumes and names it."""
    volume = sum(VOLUME[s] for s in atoms.get_chemical_symbols())
    atoms.set_cell(atoms.cell[:] * (volume / atoms.get_volume()) ** (1 / 3), scale_atoms=True)
    atoms.info["name"] = name
    return atoms


def prototype(name: str, symbols: str, cell: list[float], scaled: list[tuple[float, float, float]]) -> Atoms:
    """A crystal from its fractional coordinates."""
    return sized(Atoms(symbols, scaled_positions=scaled, cell=cell, pbc=True), f"{name} {symbols}")


def elements() -> list[Atoms]:
    """Each element in fcc, bcc and hcp."""
    return [sized(bulk(e, kind, a=4.0, **({"c": 6.5} if kind == "hcp" else {})), f"{kind} {e}")
            for e, kind in product(ELEMENTS, ("fcc", "bcc", "hcp"))]  # fmt: skip


def compounds() -> list[Atoms]:
    """B2, L1_2, L1_0, C15-like and Heusler orderings of every pair and of all three."""
    out = []
    half = (0.5, 0.5, 0.5)
    faces = [(0.0, 0.5, 0.5), (0.5, 0.0, 0.5), (0.5, 0.5, 0.0)]
    for a, b in product(ELEMENTS, ELEMENTS):
        if a == b:
            continue
        out.append(prototype("L1_2", f"{a}{b}3", [4, 4, 4], [(0, 0, 0), *faces]))
        if a < b:
            out.append(prototype("B2", f"{a}{b}", [3, 3, 3], [(0, 0, 0), half]))
            out.append(prototype("L1_0", f"{a}2{b}2", [4, 4, 4], [(0, 0, 0), faces[2], faces[0], faces[1]]))
    quarter = [(0.25, 0.25, 0.25), (0.75, 0.75, 0.75)]
    for x, y, z in (("Al", "Mg", "Cu"), ("Mg", "Al", "Cu"), ("Cu", "Al", "Mg")):
        fcc = np.array([[0, 0.5, 0.5], [0.5, 0, 0.5], [0.5, 0.5, 0]]) * 6.0
        scaled = [(0.0, 0.0, 0.0), half, *quarter]
        heusler = Atoms(f"{y}{z}{x}2", scaled_positions=scaled, cell=fcc, pbc=True)
        out.append(sized(heusler, f"Heusler {x}2{y}{z}"))
    return out


def random_alloys(rng: np.random.Generator) -> list[Atoms]:
    """Rattled solid solutions of 8 to 32 atoms."""
    out = []
    for k in range(16):
        crystal = bulk("Al", "fcc", a=4.05, cubic=True) * ((2, 1, 1), (2, 2, 1), (2, 2, 2), (3, 1, 1))[k % 4]
        crystal.symbols[:] = rng.choice(ELEMENTS, len(crystal), p=rng.dirichlet([2, 2, 2]))
        crystal = sized(crystal, f"random alloy {k}")
        crystal.positions += rng.normal(scale=0.08, size=crystal.positions.shape)
        out.append(crystal)
    return out


def open_boundaries() -> list[Atoms]:
    """Slabs, periodic in two directions, and clusters, periodic in none."""
    out = [
        fcc111("Al", (2, 2, 4), vacuum=8.0),
        fcc111("Cu", (2, 2, 4), vacuum=8.0),
        hcp0001("Mg", (2, 2, 4), vacuum=8.0),
    ]
    out += [Octahedron("Cu", 3), Octahedron("Al", 3)]
    for atoms, name in zip(out, ("Al(111)", "Cu(111)", "Mg(0001)", "Cu octahedron", "Al octahedron"), strict=True):
        atoms.info["name"] = name
    return out


def main(folder: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(1)
    files = {"elements": elements(), "compounds": compounds(), "alloys": random_alloys(rng)}
    files["surfaces_and_clusters"] = open_boundaries()
    for name, structures in files.items():
        write(folder / f"{name}.extxyz", structures, format="extxyz", columns=["symbols", "positions"])
        print(f"{folder / name}.extxyz: {len(structures)} structures")


if __name__ == "__main__":
    main(Path(sys.argv[1] if len(sys.argv) > 1 else "examples/structures"))
