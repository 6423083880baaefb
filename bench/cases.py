"""The named systems and models that every benchmark speaks of, built by code from fixed seeds."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np
import torch
from ase import Atoms
from ase.build import bulk

from dpa1_fast import DPA1, DPA1Config
from dpa1_fast.config import FittingConfig
from dpa1_fast.kernels import reference as ref
from dpa1_fast.structures.neighbors import neighbor_edges
from dpa1_fast.structures.structure import from_ase

WATER_SPACING = 3.1112  # Å between molecules on a cubic grid: 0.997 g/cm³
SE_ATTEN = DPA1Config(
    type_map=("O", "H"),
    rcut=6.0,
    rcut_smth=0.5,
    sel=(120,),
    neuron=(25, 50, 100),
    axis_neuron=16,
    attn=128,
    attn_layer=2,
    smooth_type_embedding=False,
    fitting=FittingConfig(neuron=(240, 240, 240)),
)
"""The size of DeePMD-kit's se_atten example."""


@dataclass(frozen=True)
class Case:
    """A named system: what it is, and how to build it."""

    name: str
    what: str
    build: Callable[[], list[Atoms]]
    large: bool = False

    @property
    def atoms(self) -> int:
        """Atoms in all its structures."""
        return sum(len(a) for a in self.build())


def water_molecule(rng: np.random.Generator) -> np.ndarray:
    """O, H, H (3, 3) Å around the oxygen, turned at random."""
    angle = np.deg2rad(104.5 / 2)
    flat = 0.96 * np.array([[0, 0, 0], [np.cos(angle), np.sin(angle), 0], [np.cos(angle), -np.sin(angle), 0]])
    turn = np.linalg.qr(rng.normal(size=(3, 3)))[0]
    return flat @ turn.T


def water(molecules_per_side: int, repeat: int = 1, seed: int = 0) -> Atoms:
    """A periodic box of water at room density, molecules on a shaken grid with random orientations."""
    rng = np.random.default_rng(seed)
    grid = np.stack(np.meshgrid(*[np.arange(molecules_per_side)] * 3, indexing="ij"), -1).reshape(-1, 3)
    centers = (grid + 0.5) * WATER_SPACING + rng.uniform(-0.15, 0.15, (len(grid), 3))
    positions = np.concatenate([c + water_molecule(rng) for c in centers])
    box = Atoms("OHH" * len(grid), positions=positions, cell=np.eye(3) * molecules_per_side * WATER_SPACING, pbc=True)
    if repeat > 1:
        box = box.repeat(repeat)
        box.positions += rng.normal(scale=0.02, size=box.positions.shape)
    return box


def molecules(count: int = 64, seed: int = 3) -> list[Atoms]:
    """Water clusters of 9 to 39 atoms in open space."""
    rng = np.random.default_rng(seed)
    out = []
    for k in range(count):
        n = 3 + k % 11
        grid = np.stack(np.meshgrid(*[np.arange(3)] * 3, indexing="ij"), -1).reshape(-1, 3)
        centers = grid[np.argsort(np.linalg.norm(grid - 0.9, axis=1))[:n]] * 2.9 + rng.uniform(-0.1, 0.1, (n, 3))
        out.append(Atoms("OHH" * n, positions=np.concatenate([c + water_molecule(rng) for c in centers])))
    return out


def dense_metal(seed: int = 5) -> Atoms:
    """256 atoms of fcc at copper's density, the two types at random: about 76 neighbours in 6 Å."""
    rng = np.random.default_rng(seed)
    metal = bulk("Cu", "fcc", a=3.61, cubic=True) * (4, 4, 4)
    metal.symbols[:] = rng.choice(["O", "H"], len(metal))
    metal.positions += rng.normal(scale=0.05, size=metal.positions.shape)
    return metal


CASES = {
    c.name: c
    for c in (
        Case("water192", "liquid water, 192 atoms, periodic", lambda: [water(4)]),
        Case("water1536", "liquid water, 1,536 atoms, periodic", lambda: [water(4, 2)]),
        Case("molecules64", "64 water clusters of 9 to 39 atoms, open", molecules),
        Case("metal256", "dense fcc metal, 256 atoms, periodic", lambda: [dense_metal()]),
        Case("water12288", "liquid water, 12,288 atoms, periodic", lambda: [water(4, 4)], large=True),
        Case("water98304", "liquid water, 98,304 atoms, periodic", lambda: [water(4, 8)], large=True),
    )
}


@cache
def model(**options: Any) -> DPA1:
    """A model of the se_atten example's size with random weights and the statistics of ``water192``."""
    from dataclasses import replace

    torch.manual_seed(0)
    out = DPA1(replace(SE_ATTEN, **options)).set_dtype(torch.float64)
    c = out.config
    structure = from_ase(c, water(4), "water192")
    edges = neighbor_edges(structure, c.rcut)
    plain = torch.zeros(1, 1, 4).double(), torch.ones(1, 1, 4).double()
    row, _ = ref.environment_matrix(torch.from_numpy(edges.vector)[None], *plain, c.rcut_smth, c.rcut, 0.0)
    squares = np.zeros((c.ntypes, 4))
    np.add.at(squares, structure.types[edges.center], row[0].numpy() ** 2)
    slots = np.bincount(structure.types)[:, None] * c.nsel
    std = np.sqrt(squares / slots)
    std[:, 1:] = np.sqrt((std[:, 1:] ** 2).mean(1, keepdims=True))
    out.dstd.copy_(torch.from_numpy(std))
    return out
