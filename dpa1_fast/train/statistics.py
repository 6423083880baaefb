"""davg, dstd and energy biases of data, as DeePMD-kit computes them, in float64."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np
import torch
from numpy.typing import NDArray

from ..config import DPA1Config
from ..kernels import reference as ref
from ..model import DPA1
from ..structures.batch import Neighborhood
from .data import Dataset
from .options import Options, TrainingError

Array = NDArray[np.float64]
SMALLEST, UNSEEN = 1e-2, 1e-1
"""The smallest standard deviation, and that of a type which the data does not have."""


def environment_statistics(config: DPA1Config, parts: Iterable[Neighborhood]) -> tuple[Array, Array]:
    """Mean and standard deviation of the environment matrix by type of the centre, over all slots of ``sel``.

    Empty slots count as zeros, and so do those of excluded pairs. The mean is that of the radial entry alone; x, y and
    z share one deviation.

    Returns:
        davg, dstd: (ntypes, 4).
    """
    n = config.ntypes
    slots, sums, squares = np.zeros(n), np.zeros((n, 4)), np.zeros((n, 4))
    zero, one = torch.zeros(1, 1, 4, dtype=torch.float64), torch.ones(1, 1, 4, dtype=torch.float64)
    for part in parts:
        types = part.structure.types
        d = torch.from_numpy(part.edges.vector).unsqueeze(0)
        rows, _ = ref.environment_matrix(d, zero, one, config.rcut_smth, config.rcut, config.env_protection)
        row, center = rows[0].numpy(), types[part.edges.center]
        for k in range(4):
            sums[:, k] += np.bincount(center, row[:, k], minlength=n)
            squares[:, k] += np.bincount(center, row[:, k] ** 2, minlength=n)
        slots += np.bincount(types, np.full(len(types), config.nsel), minlength=n)
    davg, dstd = np.zeros((n, 4)), np.full((n, 4), UNSEEN)
    seen = slots > 0
    count = slots[seen]
    davg[seen, 0] = sums[seen, 0] / count
    radial = squares[seen, 0] / count - davg[seen, 0] ** 2
    angular = squares[seen, 1:].sum(1) / (3 * count) - (sums[seen, 1:].sum(1) / (3 * count)) ** 2
    dstd[seen, 0] = np.maximum(np.sqrt(np.maximum(radial, 0.0)), SMALLEST)
    dstd[seen, 1:] = np.maximum(np.sqrt(np.maximum(angular, 0.0)), SMALLEST)[:, None]
    return davg, dstd


def energy_bias(
    counts: Array, energies: Array, preset: Sequence[float | None] = (), rcond: float | None = None
) -> Array:
    """Energies of the types, eV, that come closest to the structures' energies by least squares. (ntypes,).

    Args:
        counts: (structures, ntypes) atoms of each type. energies: (structures,) eV.
        preset: by type, what is known already; None where it is to be found.
    """
    counts, energies = counts.astype(np.float64), np.array(energies, np.float64)
    known = np.array([x is not None for x in preset] or [False] * counts.shape[1])
    given = np.array([x or 0.0 for x in preset] or [0.0] * counts.shape[1])
    energies -= counts[:, known] @ given[known]
    counts[:, known] = 0.0
    bias = np.linalg.lstsq(counts, energies, rcond=rcond)[0]
    bias[known] = given[known]
    return np.asarray(bias, np.float64)


RIDGES = (0.0, *np.logspace(-6, 2, 25).tolist(), np.inf)
"""How strongly a shift is held at zero, in units of the mean square of what compositions span: not at all to wholly."""


def shrunk_shift(counts: Array, missing: Array) -> Array:
    """What to add to the types' energies, eV, held at zero as strongly as foretells left-out structures best. (ntypes,)

    Few structures of several elements fix plain least squares badly: it then takes the model's errors for shifts. Where
    labels count from other zeros, as another method's do, the best ridge is none.

    Args:
        counts: (structures, ntypes) atoms of each type. missing: (structures,) eV, labels less the model's energies.
    """
    n = counts.sum(1)
    x, y = counts[n > 0] / n[n > 0, None], missing[n > 0] / n[n > 0]
    u, s, vt = np.linalg.svd(x, full_matrices=False)
    kept = s > s.max(initial=0.0) * max(x.shape) * np.finfo(np.float64).eps
    u, s, vt = u[:, kept], s[kept], vt[kept]
    scale = float((s**2).mean()) if len(s) else 1.0
    best, shift = np.inf, np.zeros(counts.shape[1])
    for ridge in RIDGES:
        part = s**2 / (s**2 + ridge * scale) if ridge < np.inf else np.zeros_like(s)
        fitted = u @ (part * (u.T @ y))
        told = 1.0 - (u**2 * part).sum(1)  # what a structure's own label leaves of its residual
        if (told < 1e-9).any():
            continue
        error = float(np.mean(((y - fitted) / told) ** 2))
        if error < best * (1 - 1e-9):
            best, shift = error, vt.T @ (part / s * (u.T @ y))
    return shift


def chosen_for_statistics(data: Dataset, per_system: Sequence[int] | None) -> list[int]:
    """The samples that statistics are made of: all, or so many of each system, evenly over it."""
    if per_system is None:
        return list(range(len(data)))
    system_of = np.array([s.system for s in data.samples])
    out: list[int] = []
    for k, most in enumerate(per_system):
        members = np.flatnonzero(system_of == k)
        few = min(most, len(members))
        out += members[np.arange(few) * len(members) // max(few, 1)].tolist()
    return out


def set_statistics(model: DPA1, data: Dataset, options: Options, chosen: Sequence[int]) -> None:
    """Sets davg, dstd, the energy bias, and the scales of frame and atomic parameters.

    Args:
        chosen: the samples that they are made of.

    Raises:
        TrainingError: no structure has an energy.
    """
    c, f = model.config, model.config.fitting
    davg, dstd = environment_statistics(c, (data.neighborhood(k) for k in chosen))
    if not c.set_davg_zero:
        model.davg.copy_(torch.from_numpy(davg))
    model.dstd.copy_(torch.from_numpy(dstd))
    labelled = [k for k in chosen if data.samples[k].energy is not None]
    if options.loss.uses("energy") and not labelled:
        raise TrainingError("no structure of the training data has an energy; give them, or set their prefactor to 0")
    if labelled:
        counts = data.compositions()[labelled].astype(np.float64)
        counts[:, [t for t in c.atom_exclude_types if 0 <= t < c.ntypes]] = 0.0
        energies = np.array([data.samples[k].energy for k in labelled])
        bias = energy_bias(counts, energies, options.preset_bias, options.rcond)
        model.out_bias.copy_(torch.from_numpy(bias))
    structures = [data.samples[k].structure for k in chosen]
    if f.numb_fparam:
        _scale(model, "fparam", np.stack([s.fparam for s in structures if s.fparam is not None]), options.protection)
    if f.numb_aparam and not f.use_aparam_as_mask:
        rows = np.concatenate([s.aparam for s in structures if s.aparam is not None])
        _scale(model, "aparam", rows, options.protection)


def _scale(model: DPA1, name: str, rows: Array, protection: float) -> None:
    mean = rows.mean(0)
    std = np.sqrt(np.maximum((rows**2).mean(0) - mean**2, 0.0))
    std = np.where(std < protection, protection, std)
    getattr(model.fitting, f"{name}_avg").copy_(torch.from_numpy(mean))
    getattr(model.fitting, f"{name}_inv_std").copy_(torch.from_numpy(1.0 / std))
