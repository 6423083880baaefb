"""More chemistry to pretrain on: elements of the training crystals exchanged for their like, labelled by the teacher.

    python more.py teacher68/pretrain --count 20000 --output more68 [--first 0]

Takes the package ``chgnet`` (0.4.2; the data set's own labels were made with its weights, and a few of them are made
again to see that they agree). Writes files of 500 structures as extended XYZ; those that are there are not made again.

A structure of the training data gives the lattice, its strain and its rattle. Each of its elements is kept, or becomes
one that stands near in the periodic table, and its volume is scaled by what atoms of either kind take (a least-squares
fit to the data). No structure may have the elements that the downstream sets ask for together, nor a formula of the
held-out data.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
from ase import Atoms
from ase.calculators.singlepoint import SinglePointCalculator
from ase.data import covalent_radii
from ase.io import write
from ase.units import GPa
from numpy.typing import NDArray
from scipy.optimize import nnls
from scipy.spatial import cKDTree

from dpa1_fast.train.data import frames

A_FILE = 500
KEPT = 0.3
"""The chance of an element to stay."""
NEAR = 1.3
"""Weights of others fall by exp(−distance / NEAR) over groups and periods."""
CLOSEST, MOST_FORCE, MOST_ENERGY = 0.75, 15.0, 5.0
"""As the data set rejects: of the sum of covalent radii; eV/Å; eV/atom from its atoms' least-squares energies."""
AGREE = 1e-3
"""eV/atom, eV/Å and eV/atom of the virial: the teacher here against the labels of the data set."""
HEA = {24, 25, 26, 27, 28}
Array = NDArray[np.float64]


def places() -> Array:
    """Period and group of each element (119, 2): hydrogen over the halogens, lanthanides in group 3 and a little on."""
    noble = (0, 2, 10, 18, 36, 54, 86, 118)
    out = np.full((119, 2), np.inf)
    for z in range(1, 119):
        period = next(k for k, end in enumerate(noble) if z <= end)
        column = z - noble[period - 1]
        left = noble[period] - z
        if 57 <= z <= 71:
            group = 3 + 0.1 * (z - 57)
        elif column <= 2 and z != 1:
            group = column
        else:
            group = 18 - left
        out[z] = period, group
    return out


def forbidden(numbers: Sequence[int]) -> bool:
    """What the downstream sets hold together is not shown before."""
    held = set(numbers)
    return {13, 12, 29} <= held or len(HEA & held) >= 4 or {3, 14, 15, 16} <= held


def composition(atoms: Atoms) -> str:
    return str(atoms.symbols.formula.reduce()[0].format("hill"))


def closest(atoms: Atoms) -> float:
    """The smallest distance over the sum of covalent radii."""
    shifts = np.array([[i, j, k] for i in (-1, 0, 1) for j in (-1, 0, 1) for k in (-1, 0, 1)])
    images = (atoms.positions[None] + (shifts @ atoms.cell.array)[:, None]).reshape(-1, 3)
    radii = covalent_radii[atoms.numbers]
    far = 2 * radii.max()
    best = np.inf
    tree = cKDTree(images)
    for i, near in enumerate(tree.query_ball_point(atoms.positions, far)):
        found = np.linalg.norm(images[near] - atoms.positions[i], axis=1)
        others = found > 1e-8
        ratio = found[others] / (radii[i] + radii[np.array(near)[others] % len(atoms)])
        best = min(best, ratio.min(initial=np.inf))
    return float(best)


class Maker:
    """Draws structures; the same seed draws the same."""

    def __init__(self, parents: list[Atoms], held: list[Atoms]) -> None:
        self.parents = parents
        self.held = {composition(a) for a in held if len(set(a.numbers)) > 1}
        self.elements = np.unique(np.concatenate([a.numbers for a in parents]))
        counts = np.array([[np.sum(a.numbers == z) for z in self.elements] for a in parents], float)
        self.volumes = dict(
            zip(self.elements, nnls(counts, np.array([a.get_volume() for a in parents]))[0], strict=True)
        )
        dense = [k for k, a in enumerate(parents) if a.get_volume() < 40 * len(a)]
        self.dense = np.array(dense)
        energies = np.array([a.calc.results["energy"] for a in parents])
        self.energies = dict(zip(self.elements, np.linalg.lstsq(counts, energies, rcond=None)[0], strict=True))
        at = places()[self.elements]
        self.weights = np.exp(-np.linalg.norm(at[:, None] - at[None], axis=2) / NEAR)
        np.fill_diagonal(self.weights, 0)

    def one(self, random: np.random.Generator) -> Atoms | None:
        """A structure, or None where what was drawn is not wanted."""
        parent = self.parents[random.choice(self.dense)]
        if len(set(parent.numbers)) == 1 and random.random() < 0.7:
            return None
        old = np.unique(parent.numbers)
        new: dict[int, int] = {}
        for z in random.permutation(old):
            if random.random() < KEPT and z not in new.values():
                new[z] = z
                continue
            weights = self.weights[np.searchsorted(self.elements, z)].copy()
            weights[np.isin(self.elements, list(new.values()))] = 0
            new[z] = int(random.choice(self.elements, p=weights / weights.sum()))
        numbers = np.array([new[z] for z in parent.numbers])
        if np.array_equal(numbers, parent.numbers) or forbidden(numbers):
            return None
        wider = sum(self.volumes[z] for z in numbers) / sum(self.volumes[z] for z in parent.numbers)
        out = Atoms(numbers, positions=parent.positions, cell=parent.cell, pbc=True)
        strain = random.normal(0, 0.01, (3, 3))
        factor = np.cbrt(wider * random.uniform(0.94, 1.08))
        out.set_cell(out.cell.array @ (np.eye(3) + (strain + strain.T) / 2) * factor, scale_atoms=True)
        out.positions += random.normal(0, np.exp(random.uniform(np.log(0.005), np.log(0.08))), out.positions.shape)
        out.wrap()
        if composition(out) in self.held or closest(out) < CLOSEST or out.get_volume() < 4.3 * len(out):
            return None
        return out

    def sensible(self, atoms: Atoms) -> bool:
        """What the data set would not reject by its labels."""
        results = atoms.calc.results
        expected = sum(self.energies[z] for z in atoms.numbers)
        finite = np.isfinite(results["energy"]) and np.isfinite(results["forces"]).all()
        small = np.linalg.norm(results["forces"], axis=1).max() <= MOST_FORCE
        return bool(finite and small and abs(results["energy"] - expected) <= MOST_ENERGY * len(atoms))


class Teacher:
    """CHGNet 0.3.0."""

    def __init__(self) -> None:
        from chgnet.model import CHGNet
        from pymatgen.io.ase import AseAtomsAdaptor

        self.model = CHGNet.load(use_device="cpu", verbose=False)
        self.structure = AseAtomsAdaptor.get_structure

    def label(self, many: list[Atoms]) -> list[Atoms]:
        """Energy (eV), forces (eV/Å), stress (eV/Å³, positive in tension)."""
        plain = [Atoms(a.numbers, positions=a.positions, cell=a.cell, pbc=True) for a in many]
        found = self.model.predict_structure([self.structure(a) for a in plain], task="efs", batch_size=16)
        for atoms, labels in zip(plain, found if isinstance(found, list) else [found], strict=True):
            stress = labels["s"].astype(float) * GPa
            atoms.calc = SinglePointCalculator(
                atoms,
                energy=float(labels["e"]) * len(atoms),
                forces=labels["f"].astype(float),
                stress=stress[[0, 1, 2, 1, 0, 0], [0, 1, 2, 2, 2, 1]],
            )
        return plain

    def agrees(self, known: list[Atoms]) -> None:
        """Raises where labels are not those of the data set."""
        for mine, theirs in zip(self.label(known), known, strict=True):
            energy = abs(mine.calc.results["energy"] - theirs.calc.results["energy"]) / len(mine)
            force = np.abs(mine.calc.results["forces"] - theirs.calc.results["forces"]).max()
            virial = -mine.get_stress(voigt=False) * mine.get_volume()
            strain = np.abs(virial - np.reshape(theirs.info["virial"], (3, 3))).max() / len(mine)
            if max(energy, force, strain) > AGREE:
                raise SystemExit(f"the teacher is another one: {energy=} {force=} {strain=} of {composition(mine)}")


def drawn(maker: Maker, random: np.random.Generator) -> Iterator[Atoms]:
    while True:
        if (atoms := maker.one(random)) is not None:
            yield atoms


def main() -> None:
    """See the top of this file."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("pretrain", type=Path, help="folder with train and valid")
    parser.add_argument("--count", type=int, default=20_000)
    parser.add_argument("--first", type=int, default=0, help="the first file's number, which is its seed too")
    parser.add_argument("--output", type=Path, default=Path("more68"))
    given = parser.parse_args()
    train, held = ([f.atoms for f in frames([str(given.pretrain / part)], ())] for part in ("train", "valid"))
    maker, teacher = Maker(train, held), Teacher()
    teacher.agrees(train[::1500])
    given.output.mkdir(parents=True, exist_ok=True)
    for number in range(given.first, given.first + -(-given.count // A_FILE)):
        path = given.output / f"{number:03d}.extxyz"
        if path.exists():
            continue
        source = drawn(maker, np.random.default_rng([68, number]))
        kept: list[Atoms] = []
        tried = 0
        while len(kept) < A_FILE:
            few = [next(source) for _ in range(min(64, A_FILE - len(kept)))]
            tried += len(few)
            kept += [a for a in teacher.label(few) if maker.sensible(a)]
        partial = path.with_suffix(".partial.extxyz")
        write(partial, kept)
        partial.replace(path)
        print(f"{path.name}: {len(kept)} of {tried} labelled", flush=True)


if __name__ == "__main__":
    main()
