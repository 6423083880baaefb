"""What to trust: the uncertainty of a single model, from what its energy net's last hidden layer has seen in training.

The energy is linear in the last hidden layer h, so how well training data determine it is a quadratic form (last-layer
prediction rigidity: Bigi, Chong, Ceriotti and Grasselli, Mach. Learn.: Sci. Technol. 5, 045018 (2024)):

    q = hᵀ (G + λ)⁻¹ h / H,   G = mean of h hᵀ over the training set,

1 on average there, and large where h points where no training structure did. Of atoms q_i comes from h_i, and of
structures q from the mean of h. Errors on validation data say what q is worth:

    log energy_std² = a + b log q + c log n   (an atom; n atoms),
    log force_std²  = a + b log q_i + c log (|F_i|² + 0.01 eV²/Å²).

Flags name what no statistics is needed for: an element, or a pair of elements within the cut-off, that training never
had; two atoms closer than any two of their kinds there; an atom with a larger q_i than any there.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping
from dataclasses import dataclass, fields, replace

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from .kernels.outputs import Outputs, OutputsWithHidden
from .structures.batch import Batch

FLAGS = ("unseen_element", "unseen_pair", "closer_than_trained", "far_from_training")
PREFIX = "uncertainty."
"""Before the names of its tensors, where they lie among a model's."""
RIDGE = 1e-6
"""λ as a part of G's mean eigenvalue."""
FORCE_FLOOR = 0.01
"""eV²/Å², added to |F|² before its logarithm."""
ROUNDED = 1e-5
"""By so much, relatively, a distance or q differs where the same atoms were moved, turned, written to a file or packed
otherwise."""


@dataclass(frozen=True)
class Estimate:
    """Of one structure: energy_std (eV), force_std (n,) (eV/Å, of one component of each atom's force), and ``FLAGS``
    that hold."""

    energy_std: float
    force_std: NDArray[np.float64]
    flags: tuple[str, ...]


@dataclass(frozen=True)
class Uncertainty:
    """What a model's file keeps of its training set, all float64.

    Attributes:
        atom, structure: (H, H) inverse Cholesky factors of G + λ, of atoms' h and of structures' mean h.
        energy, force: (3,) a, b, c. far: () the largest q_i in training.
        closest: (ntypes, ntypes) Å, of each pair of types the shortest distance in training, infinite where there is
            none within the cut-off. seen: (ntypes,) atoms of each type in training.
    """

    atom: Tensor
    structure: Tensor
    energy: Tensor
    force: Tensor
    far: Tensor
    closest: Tensor
    seen: Tensor

    def tensors(self) -> dict[str, Tensor]:
        """By name, as a file keeps them."""
        return {PREFIX + f.name: getattr(self, f.name) for f in fields(self)}

    @classmethod
    def of(cls, held: Mapping[str, Tensor]) -> Uncertainty | None:
        """From ``tensors``, among others; None where there are none of them."""
        if not any(name.startswith(PREFIX) for name in held):
            return None
        return cls(**{f.name: held[PREFIX + f.name].double() for f in fields(cls)})

    @staticmethod
    def shapes(ntypes: int, hidden: int) -> dict[str, tuple[int, ...]]:
        """What ``tensors`` are like for a model of so many types and so wide a last hidden layer."""
        square, types = (hidden, hidden), (ntypes,)
        shapes = {"atom": square, "structure": square, "energy": (3,), "force": (3,), "far": (), "seen": types}
        return {PREFIX + name: shape for name, shape in (shapes | {"closest": types * 2}).items()}

    def estimates(self, batch: Batch, outputs: Outputs) -> list[Estimate]:
        """Of each structure of a batch.

        Args:
            batch, outputs: on the CPU, these ``OutputsWithHidden``.
        """
        s = scores(self, batch, outputs)
        n = sizes(batch)
        energy = n * deviation(self.energy, s.structure, n)
        force = deviation(self.force, s.atom, outputs.forces.square().sum(-1) + FORCE_FLOOR) * (batch.types >= 0)
        flags = self.flags(batch, s.atom)
        offsets = batch.offsets.tolist()
        return [
            Estimate(
                float(energy[k]), force[a:b].numpy(), tuple(f for f, on in zip(FLAGS, flags[k], strict=True) if on)
            )
            for k, (a, b) in enumerate(itertools.pairwise(offsets))
        ]

    def flags(self, batch: Batch, q: Tensor) -> list[list[bool]]:
        """Which of ``FLAGS`` hold, for each structure."""
        edge_home = batch.structure[batch.center]
        pair = self.closest[batch.types[batch.center], batch.types[batch.neighbor]]
        near = torch.linalg.vector_norm(batch.vector, dim=-1)
        new = (batch.types >= 0) & (self.seen[batch.types.clamp_min(0)] == 0)
        where = [
            batch.structure[new],
            edge_home[torch.isinf(pair)],
            edge_home[near < (1 - ROUNDED) * pair.where(~torch.isinf(pair), torch.zeros_like(pair))],
            batch.structure[q > (1 + ROUNDED) * self.far],
        ]
        counts = torch.stack([torch.bincount(w, minlength=batch.n_structures) for w in where], dim=1)
        return [[bool(x) for x in row] for row in (counts > 0).tolist()]


@dataclass(frozen=True)
class Scores:
    """q of each structure (S,) and of each atom (n,), zero for atoms without energies."""

    structure: Tensor
    atom: Tensor


def sizes(batch: Batch) -> Tensor:
    """(S,) atoms of each structure, at least 1; virtual ones, which training data are freed of, do not count."""
    return torch.bincount(batch.structure[batch.types >= 0], minlength=batch.n_structures).double().clamp_min(1)


def quadratic(root: Tensor, h: Tensor) -> Tensor:
    """q (n,) of h (n, H)."""
    q: Tensor = (h @ root.t()).square().sum(-1) / root.shape[0]
    return q


def scores(u: Uncertainty, batch: Batch, outputs: Outputs) -> Scores:
    """q of a batch's structures and atoms."""
    assert isinstance(outputs, OutputsWithHidden)
    mean = batch.sum_structures(outputs.hidden) / sizes(batch).unsqueeze(-1)
    return Scores(quadratic(u.structure, mean), quadratic(u.atom, outputs.hidden))


def deviation(coefficients: Tensor, q: Tensor, other: Tensor) -> Tensor:
    """exp of half of a + b log q + c log other."""
    a, b, c = coefficients
    variance: Tensor = torch.exp(a + b * torch.log(q.clamp_min(1e-12)) + c * torch.log(other))
    return variance.sqrt()


def inverse_root(gram: Tensor) -> Tensor:
    """L⁻¹ with L Lᵀ = G + λ."""
    n = len(gram)
    ridge = RIDGE * gram.diagonal().mean().clamp_min(1e-300) * torch.eye(n, dtype=gram.dtype)
    factor = torch.linalg.cholesky(gram + ridge)
    root: Tensor = torch.linalg.solve_triangular(factor, torch.eye(n, dtype=gram.dtype), upper=False)
    return root


def fitted(q: Tensor, other: Tensor, square: Tensor, weight: float = 1.0) -> Tensor:
    """a, b, c (3,) by which a normal distribution makes the observed squared errors most likely.

    Args:
        q, other: (n,) what the deviation depends on. square: (n,) mean of squared errors of ``weight`` numbers each.
    """
    x = torch.stack([torch.ones_like(q), torch.log(q.clamp_min(1e-12)), torch.log(other)], dim=1)
    free = x.std(0) > 1e-9  # what does not vary has no say
    free[0] = True
    theta = torch.zeros(3, dtype=torch.float64)
    theta[0] = torch.log(square.mean().clamp_min(1e-30))
    # Newton's method: the likelihood is concave in a, b, c, as it is in the logarithm of a variance.
    x = x[:, free]
    part = theta[free]

    def cost(t: Tensor) -> Tensor:
        v = x @ t
        return 0.5 * weight * (v + square * torch.exp(-v)).sum()

    for _ in range(100):
        v = x @ part
        ratio = square * torch.exp(-v)
        slope = 0.5 * weight * (x * (1 - ratio).unsqueeze(-1)).sum(0)
        curve = 0.5 * weight * (x.t() * ratio) @ x + 1e-9 * torch.eye(x.shape[1], dtype=torch.float64)
        step = torch.linalg.solve(curve, slope)
        size = 1.0
        while size > 1e-6 and not cost(part - size * step) <= cost(part):
            size /= 2
        part = part - size * step
        if float(step.abs().max()) * size < 1e-10:
            break
    theta[free] = part
    return theta


def with_calibration(u: Uncertainty, energy: Tensor, force: Tensor) -> Uncertainty:
    """The same with other coefficients."""
    return replace(u, energy=energy, force=force)
