"""Force constants by finite displacements, evaluating no more than locality and symmetry leave open.

An atom that moves changes the energies of those atoms alone that see it, its *centres*: all else drops out of

    Φ_jβ,aα = ∂²E / ∂u_aα ∂r_jβ,    F(u) − F(−u) = −2 Φ u + O(u³),

so that only centres are evaluated, however large the supercell is. The rotations g about an atom that leave the crystal
as it is give the forces of a displacement g·u from those of u (g permutes the other atoms): few directions are left, of
these one sign where some g turns u into −u, and one centre of those that the g which keep u bring onto each other.
Equivalent atoms follow by the operation that maps one onto the other. What forces are without a displacement drops out
as well: the displacements of an atom, with their images, sum to zero.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.spatial import cKDTree

from ..engine import Engine
from ..errors import StructureError
from ..structures.batch import Neighborhood, collate, visible
from ..structures.neighbors import Edges, neighbor_edges
from ..structures.structure import Structure

Array = NDArray[np.float64]
Index = NDArray[np.int64]

SAME = 1e-5
"""Å, as phonopy: how near an operation must bring an atom to another for a symmetry."""
ATOMS = 20_000
"""Atoms of displaced copies that are evaluated together."""


@dataclass(frozen=True)
class Operations:
    """Rotations and what atoms they bring where.

    Attributes:
        rotations: (g, 3, 3) Cartesian, r' = R r. images: (g, N) where each atom of the supercell goes.
    """

    rotations: Array
    images: Index


class Supercell:
    """A crystal's supercell and its symmetry.

    Args:
        structure: the supercell, periodic along all axes. first: (p,) its atoms that make a primitive cell.
        rotations: (g, 3, 3) Cartesian, r' = R r, of the crystal's space group; those that do not leave the supercell's
            lattice as it is are left out. None: atoms differ in more than their type, nothing is equivalent.
    """

    def __init__(self, structure: Structure, first: Sequence[int], rotations: Array | None = None) -> None:
        self.structure, self.first = structure, np.asarray(first, dtype=np.int64)
        self._inverse = np.linalg.inv(structure.cell)
        self._tree = cKDTree(self._wrapped(structure.positions), boxsize=1.0)
        every = np.eye(3)[None] if rotations is None else rotations
        turned = structure.cell @ every.transpose(0, 2, 1) @ self._inverse
        self.rotations = every[np.abs(turned - np.rint(turned)).max(axis=(1, 2)) < 1e-4]

    def _wrapped(self, points: Array) -> Array:
        inside = points @ self._inverse
        inside -= np.floor(inside)
        inside[inside >= 1.0] = 0.0
        return np.asarray(inside)

    def operations(self, a: int, b: int) -> Operations:
        """All that bring atom a onto atom b and every atom onto one of its type."""
        s = self.structure
        there = (s.positions - s.positions[a]) @ self.rotations.transpose(0, 2, 1) + s.positions[b]
        images = self._tree.query(self._wrapped(there))[1]
        gap = (s.positions[images] - there) @ self._inverse
        gap = (gap - np.rint(gap)) @ s.cell
        fits = (np.abs(gap).max(axis=(1, 2)) < 10 * SAME) & (s.types[images] == s.types).all(axis=1)
        return Operations(self.rotations[fits], images[fits])


@dataclass(frozen=True)
class Displaced:
    """An atom of the supercell, (k, 3) Å where it is moved from its place, and the operations that leave it there."""

    atom: int
    by: Array
    about: Operations

    def of_each(self, by: Array) -> Index:
        """(N,): for one of those atoms that the operations which keep ``by`` bring onto each other how many, else 0.

        Their forces are those of the one, turned; ``_solved`` takes every image, so the one counts as many times.
        """
        keeps = np.abs(self.about.rotations @ by - by).max(axis=1) < 1e-4 * np.linalg.norm(by)
        least = self.about.images[keeps].min(axis=0)
        return np.where(least == np.arange(len(least)), np.bincount(least, minlength=len(least)), 0)


def directions(lattice: Array, rotations: Array) -> Array:
    """As few as span space with their images, each with its opposite where no image is that. (k, 3).

    Args:
        lattice: (3, 3), tried are its vectors and their sums, then axes. rotations: (g, 3, 3).
    """
    steps = sorted(
        (x for x in itertools.product((1, 0, -1), repeat=3) if x > (0, 0, 0)), key=lambda x: sum(map(abs, x))
    )
    tried = [v / np.linalg.norm(v) for v in [*(np.array(steps, dtype=float) @ lattice), *np.eye(3)]]
    images = [rotations @ v for v in tried]
    moments = [v.T @ v / len(v) for v in images]
    few = (c for count in (1, 2, 3) for c in itertools.combinations(range(len(tried)), count))
    chosen = next(c for c in few if np.linalg.eigvalsh(sum(moments[k] for k in c) / len(c))[0] > 0.01)
    out = []
    for k in chosen:
        out.append(tried[k])
        if np.abs(images[k] + tried[k]).max(axis=1).min() > 1e-4:
            out.append(-tried[k])
    return np.array(out)


def force_constants(engine: Engine, supercell: Supercell, distance: float) -> tuple[Array, int]:
    """Those of one crystal, see ``force_constants_of_each``.

    Raises:
        StructureError: atoms overlap, or the model's forces are not finite.
    """
    found = force_constants_of_each(engine, [supercell], distance)[0]
    if isinstance(found, StructureError):
        raise found
    return found


def force_constants_of_each(
    engine: Engine, supercells: Sequence[Supercell], distance: float
) -> list[tuple[Array, int] | StructureError]:
    """Of each primitive cell's atoms with all atoms of its supercell, eV/Å²; and how many displacements it took.

    Displaced copies of several crystals are evaluated in one batch. What cannot be done is a StructureError in its
    place: atoms overlap, or the model's forces are not finite.

    Args:
        distance: Å, how far atoms are moved.

    Returns:
        Of each (p, N, 3, 3): [a, j, α, β] = −∂F_jβ/∂u_aα.
    """
    plans: list[_Plan | StructureError] = []
    for supercell in supercells:
        try:
            plans.append(_Plan(supercell, neighbor_edges(supercell.structure, engine.config.rcut + distance), distance))
        except StructureError as error:
            plans.append(error)
    moved: dict[int, list[Array]] = {k: [] for k in range(len(plans))}
    work = [(k, one) for k, plan in enumerate(plans) if isinstance(plan, _Plan) for one in plan.ask]
    for group in _groups(work, [len(s.structure) for s in supercells]):
        for (k, _), forces in zip(group, _forces(engine, plans, group), strict=True):
            moved[k].append(forces)
    out: list[tuple[Array, int] | StructureError] = []
    for k, plan in enumerate(plans):
        try:
            out.append(plan if isinstance(plan, StructureError) else (plan.solved(engine, moved[k]), plan.count))
        except StructureError as error:
            out.append(error)
    return out


class _Plan:
    """What of a supercell is to be displaced, and what follows from it by symmetry.

    Args:
        edges: within the cut-off and the distance that atoms are moved, Å.

    Attributes:
        ask: the displacements.
    """

    def __init__(self, supercell: Supercell, edges: Edges, distance: float) -> None:
        self.structure, self.first, self.edges = supercell.structure, supercell.first, edges
        self.ask: list[Displaced] = []
        self._whose, self._mapped = np.arange(len(self.first)), dict[int, Operations]()
        for p, a in enumerate(self.first.tolist()):
            for before in (d.atom for d in self.ask):
                if len((found := supercell.operations(before, a)).images):
                    self._whose[p], self._mapped[p] = np.flatnonzero(self.first == before)[0], found
                    break
            else:
                about = supercell.operations(a, a)
                self.ask.append(Displaced(a, distance * directions(self.structure.cell, about.rotations), about))

    @property
    def count(self) -> int:
        """How many displacements there are."""
        return sum(len(d.by) for d in self.ask)

    def solved(self, engine: Engine, moved: Sequence[Array]) -> Array:
        """(p, N, 3, 3) from the forces of each displaced atom, (k, N, 3).

        Raises:
            StructureError: they are not finite, or the engine's dispersion cannot be computed.
        """
        s = self.structure
        if not all(np.isfinite(forces).all() for forces in moved):
            told = f"the model's forces overflow in {engine.precision}: atoms are far too close together"
            raise StructureError(s.name, told)
        out = np.zeros((len(self.first), len(s), 3, 3))
        for one, forces in zip(self.ask, moved, strict=True):
            out[np.flatnonzero(self.first == one.atom)[0]] = _solved(one, forces)
        for p, operations in self._mapped.items():
            turn, image = operations.rotations[0], operations.images[0]
            out[p, image] = turn @ out[self._whose[p]] @ turn.T
        if engine.dispersion is not None:
            out += engine.dispersion.force_constants(s, self.first)
        return out


Group = list[tuple[int, Displaced]]


def _groups(work: Group, atoms: Sequence[int]) -> Iterator[Group]:
    """What is evaluated together of (crystal, displaced atom), by how many atoms each crystal's supercell has."""
    group, held = Group(), 0
    for k, one in work:
        more = atoms[k] * len(one.by)
        if group and held + more > ATOMS:
            yield group
            group, held = [], 0
        group.append((k, one))
        held += more
    if group:
        yield group


def _forces(engine: Engine, plans: Sequence[Any], group: Group) -> list[Array]:
    """For each atom (k, N, 3) eV/Å: what its centres pull with when it is displaced, one of each kind for all of it."""
    parts, weights = [], []
    for crystal, one in group:
        a, s, edges = one.atom, plans[crystal].structure, plans[crystal].edges
        sees = np.zeros(len(s), dtype=bool)
        sees[edges.neighbor[edges.center == a]] = sees[a] = True
        for by in one.by:
            times = sees * one.of_each(by)
            kept = times[edges.center] > 0
            center, neighbor = edges.center[kept], edges.neighbor[kept]
            d = edges.vector[kept] + ((neighbor == a).astype(float) - (center == a))[:, None] * by
            near = np.einsum("ea,ea->e", d, d) < engine.config.rcut**2
            seen, filled, over = visible(engine.config, s.types, Edges(center[near], neighbor[near], d[near]))
            parts.append(Neighborhood(s, seen, filled, over))
            weights.append(times)
    batch = collate(engine.config, parts)
    weight = torch.from_numpy(np.concatenate(weights))
    batch = replace(batch, active=batch.active & (weight > 0))
    gradient = engine.evaluate_batch(batch).gradient
    forces = batch.forces(gradient * weight[batch.center, None]).numpy()
    sizes = [len(plans[crystal].structure) * len(one.by) for crystal, one in group]
    each = np.split(forces, np.cumsum(sizes)[:-1])
    return [f.reshape(len(one.by), -1, 3) for f, (_, one) in zip(each, group, strict=True)]


def _solved(one: Displaced, forces: Array) -> Array:
    """(N, 3, 3) from the forces (k, N, 3) of an atom's displacements and of all their images, by least squares."""
    turns, images = one.about.rotations, one.about.images
    by = np.einsum("gab,kb->gka", turns, one.by)
    turned = np.empty((len(turns), *forces.shape))
    for g, image in enumerate(images):
        turned[g][:, image] = forces @ turns[g].T
    solve = np.linalg.pinv(by.reshape(-1, 3))
    return np.asarray(-np.einsum("as,sjb->jab", solve, turned.reshape(-1, *forces.shape[1:])))
