"""Errors of a model over batches of labelled structures."""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import NamedTuple

import torch

from ..model import DPA1
from .data import Dataset
from .loss import SHORT, TERMS, Errors, errors, prefactors, total
from .options import METRIC_TERMS, LossOptions
from .predict import predict


class Measured(NamedTuple):
    """Errors by term: RMSE and MAE of energy (eV/atom), force (eV/Å), virial (eV/atom) and atomic energy (eV).

    NaN where nothing is labelled. loss: with the prefactors that were asked for.
    """

    rmse: dict[str, float]
    mae: dict[str, float]
    loss: float

    def columns(self, used: Iterable[str]) -> dict[str, float]:
        """Named as lcurve.out names them, in the alphabet's order: rmse, rmse_e, rmse_f …"""
        found = {f"rmse_{SHORT[name]}": self.rmse[name] for name in used}
        root = math.sqrt(self.loss) if self.loss >= 0 else math.nan
        return dict(sorted({"rmse": root, **found}.items()))

    def metric(self, name: str) -> float:
        """What the best model has the least of: ``loss``, or ``E:MAE`` and the like."""
        if name == "loss":
            return self.loss
        what, how = name.split(":")
        return (self.mae if how == "MAE" else self.rmse)[METRIC_TERMS[what]]


def measured(sums: Errors, weights: torch.Tensor) -> Measured:
    """What sums over batches come to.

    Args:
        weights: (4,) prefactors of the loss.
    """
    counts = sums.counts.tolist()
    rmse, mae = {}, {}
    for k, name in enumerate(TERMS):
        there = counts[k] > 0
        rmse[name] = math.sqrt(float(sums.squares[k]) / counts[k]) if there else math.nan
        mae[name] = float(sums.magnitudes[k]) / counts[k] if there else math.nan
    return Measured(rmse, mae, float(total(sums, sums.counts, weights)))


def detached(sums: Errors) -> Errors:
    """The same without the graph behind it."""
    return Errors(*(x.detach() for x in sums))


def validate(
    model: DPA1,
    data: Dataset,
    batches: Iterable[list[int]],
    loss: LossOptions,
    share: float,
    backend: str,
) -> Measured:
    """Errors over some batches of a data set.

    Args:
        share: lr/lr0, on which prefactors depend. backend: see ``predict``.
    """
    sums: Errors | None = None
    for chosen in batches:
        batch, labels = data.batch(chosen)
        device = model.dstd.device
        batch, labels = batch.to(device), labels.to(device)
        found = detached(errors(loss, predict(model, batch, backend), labels, batch))
        sums = found if sums is None else sums + found
    assert sums is not None
    return measured(sums, prefactors(loss, share))


def whole(data: Dataset, atoms: int) -> list[list[int]]:
    """All samples once, in batches of so many atoms."""
    out: list[list[int]] = []
    room = 0
    for k, n in enumerate(data.atoms.tolist()):
        if not out or n > room:
            out.append([])
            room = max(atoms, n)
        out[-1].append(k)
        room -= n
    return out
