"""Energies of types that bring a model's energies to the labels, by least squares."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch

from ..model import DPA1
from .data import Dataset
from .options import TrainingError
from .predict import predict
from .statistics import energy_bias, shrunk_shift

AT_ONCE = 1024
"""Atoms that are evaluated at a time."""


def shift_bias(
    model: DPA1, data: Dataset, chosen: Sequence[int], backend: str = "auto", shrink: bool = False
) -> tuple[float, float]:
    """Adds to each type's bias what brings the model closest to the labelled energies, as DeePMD-kit does.

    Types that the data does not have keep their bias.

    Args:
        chosen: which samples; those without an energy do not count. backend: see ``predict``.
        shrink: by ``shrunk_shift`` instead, for few structures of a model that is nearly right.

    Returns:
        RMSE per atom (eV) before and after.

    Raises:
        TrainingError: no structure has an energy.
    """
    labelled = _labelled(data, chosen)
    found = np.zeros(len(labelled))
    done = 0
    while done < len(labelled):
        stop, atoms = done, 0
        while stop < len(labelled) and (stop == done or atoms + data.atoms[labelled[stop]] <= AT_ONCE):
            atoms += int(data.atoms[labelled[stop]])
            stop += 1
        batch, _ = data.batch(labelled[done:stop])
        found[done:stop] = predict(model, batch.to(model.davg.device), backend).energy.detach().cpu().numpy()
        done = stop
    missing = np.array([data.samples[k].energy for k in labelled]) - found
    return _apply(model, data, labelled, missing, add=True, shrink=shrink)


def set_bias(model: DPA1, data: Dataset, chosen: Sequence[int]) -> tuple[float, float]:
    """Each type's bias becomes what fits the labelled energies by itself, as before a training.

    Returns, Raises:
        see ``shift_bias``; the RMSE is that of the biases alone.
    """
    labelled = _labelled(data, chosen)
    return _apply(model, data, labelled, np.array([data.samples[k].energy for k in labelled]), add=False)


def _labelled(data: Dataset, chosen: Sequence[int]) -> list[int]:
    labelled = [k for k in chosen if data.samples[k].energy is not None]
    if not labelled:
        raise TrainingError("no structure of the data has an energy, so there is nothing to fit biases to")
    return labelled


def _apply(
    model: DPA1, data: Dataset, labelled: list[int], wanted: np.ndarray, add: bool, shrink: bool = False
) -> tuple[float, float]:
    c = model.config
    counts = data.compositions()[labelled].astype(np.float64)
    counts[:, [t for t in c.atom_exclude_types if 0 <= t < c.ntypes]] = 0.0
    shift = shrunk_shift(counts, wanted) if shrink else energy_bias(counts, wanted)
    n = data.atoms[labelled]
    before, after = (float(np.sqrt(np.mean((x / n) ** 2))) for x in (wanted, wanted - counts @ shift))
    there = torch.from_numpy(counts.sum(0) > 0).to(model.out_bias.device)
    found = torch.from_numpy(shift).to(model.out_bias)
    if add:
        model.out_bias += torch.where(there, found, 0.0)
    else:
        model.fitting.bias_atom_e[there] = 0.0
        model.out_bias.copy_(torch.where(there, found, model.out_bias))
    return before, after
