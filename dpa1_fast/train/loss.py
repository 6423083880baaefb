"""DeePMD-kit's energy loss on ragged batches, as sums over what is labelled, divided by counts over all processes."""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import NamedTuple

import torch
from torch import Tensor

from ..model import Prediction
from ..structures.batch import Batch
from .options import LossOptions

TERMS = ("energy", "force", "virial", "atomic")
SHORT = {"energy": "e", "force": "f", "virial": "v", "atomic": "ae"}
"""What the columns of lcurve.out call them."""


@dataclass(frozen=True)
class Labels:
    """Labels of a batch, float64; NaN where there is none.

    Attributes:
        energy (S,) eV, force (n, 3) eV/Å, virial (S, 3, 3) eV, atomic (n,) eV.
        atoms (S,): atoms of each structure that have an energy of their own.
    """

    energy: Tensor
    force: Tensor
    virial: Tensor
    atomic: Tensor
    atoms: Tensor

    def to(self, device: torch.device) -> Labels:
        """The same on another device."""
        return Labels(*(getattr(self, f.name).to(device) for f in fields(self)))

    def counts(self) -> Tensor:
        """(4,) how many labelled structures, atoms, structures, atoms there are for each of ``TERMS``."""
        there = (self.energy, self.force[:, 0], self.virial[:, 0, 0], self.atomic)
        return torch.stack([torch.isfinite(x).sum() for x in there]).double()


class Errors(NamedTuple):
    """Sums of a batch: what the loss is made of, and squares and magnitudes of errors, each (4,) in ``TERMS``' order.

    ``squares`` and ``magnitudes`` are means over a label's components: of energy and virial per atom, of forces per
    component; divided by ``counts`` they give MSE and MAE.
    """

    terms: Tensor
    squares: Tensor
    magnitudes: Tensor
    counts: Tensor

    def __add__(self, other: object) -> Errors:
        """The sums of both."""
        assert isinstance(other, Errors)
        return Errors(*(a + b for a, b in zip(self, other, strict=True)))


def prefactors(options: LossOptions, share: float) -> Tensor:
    """(4,) pref = limit + (start − limit)·lr/lr0 of each term; zero for what does not count.

    Args:
        share: lr/lr0, the learning rate over that at the start.
    """
    both = [getattr(options, name) if options.uses(name) else (0.0, 0.0) for name in TERMS]
    return torch.tensor([limit + (start - limit) * share for start, limit in both], dtype=torch.float64)


def errors(options: LossOptions, prediction: Prediction, labels: Labels, batch: Batch) -> Errors:
    """Sums of losses and errors of a batch, differentiable in ``terms``. Terms that do not count are measured only."""
    per_atom = 1.0 / labels.atoms
    differences = {
        "energy": (_difference(prediction.energy, labels.energy) * per_atom).unsqueeze(1),
        "force": _force_difference(options, prediction.forces, labels.force),
        "virial": (_difference(prediction.virial, labels.virial) * per_atom.view(-1, 1, 1)).flatten(1),
        "atomic": _difference(prediction.energies, labels.atomic).unsqueeze(1),
    }
    # DeePMD-kit's older norm is ΔE²/N: one power of N more than the square of the error per atom.
    extensive = labels.atoms if not options.intensive else torch.ones_like(labels.atoms)
    weight = {"energy": extensive, "virial": extensive}
    terms, squares, magnitudes = [], [], []
    for name in TERMS:
        x = differences[name]
        with torch.no_grad():
            squares.append((x * x).mean(1).sum())
            magnitudes.append(x.abs().mean(1).sum())
        if not options.uses(name):
            terms.append(torch.zeros_like(squares[-1]))
            continue
        if name == "force" and options.norm:
            x = _lengths(x)
        terms.append(_loss(options, name, x, weight.get(name)))
    return Errors(torch.stack(terms), torch.stack(squares), torch.stack(magnitudes), labels.counts())


def _loss(options: LossOptions, name: str, x: Tensor, weight: Tensor | None) -> Tensor:
    if options.kind == "mae":
        return x.abs().mean(1).sum()
    if options.kind == "huber":
        delta = dict(zip(TERMS, (*options.huber_delta, options.huber_delta[0]), strict=True))[name]
        size = x.abs()
        return torch.where(size <= delta, 0.5 * x * x, delta * (size - 0.5 * delta)).mean(1).sum()
    square = (x * x).mean(1)
    return (square if weight is None else square * weight).sum()


def _difference(found: Tensor, label: Tensor) -> Tensor:
    """found − label, zero where there is no label, with no gradient of NaN."""
    there = torch.isfinite(label)
    return torch.where(there, found - torch.where(there, label, 0.0), 0.0)


def _force_difference(options: LossOptions, forces: Tensor, label: Tensor) -> Tensor:
    x = _difference(forces, label)
    if options.relative_force is None:
        return x
    length = torch.linalg.vector_norm(torch.nan_to_num(label), dim=1, keepdim=True)
    relative: Tensor = x / (length + options.relative_force)
    return relative


def _lengths(x: Tensor) -> Tensor:
    """(n, 1) lengths; the gradient at zero is zero."""
    square = (x * x).sum(1, keepdim=True)
    some = square > 0
    return torch.where(some, torch.where(some, square, 1.0).sqrt(), 0.0)


def total(sums: Errors, counts: Tensor, weights: Tensor) -> Tensor:
    """The loss: Σ prefactor · sum / count over the terms. counts: over all processes."""
    return (weights.to(sums.terms) * sums.terms / counts.clamp_min(1.0)).sum()
