"""Whether forces are gradients of the energies, as far as successive frames of one system tell."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from .data import Sample

Array = NDArray[np.float64]
NEAR = 0.6
"""Å. Frames count as neighbours on a path where no atom is farther from where it was."""
FEWEST, SURE, RATIO = 8, 0.9, (0.5, 2.0)
"""So many pairs of frames, such a correlation, and a slope outside of this range say that units are wrong."""
UNRELATED, CLOSE, ENOUGH = 0.5, 0.15, 0.02
"""With a correlation below this, of steps shorter than this (Å) with energies that move by more than this (eV), forces
are wrong."""

HARTREE, BOHR = 27.211386, 0.529177
FACTORS = {
    "energies in Hartree and forces in eV/Å": 1 / HARTREE,
    "energies in eV and forces in Hartree/bohr": HARTREE / BOHR,
    "energies in eV and forces in Rydberg/bohr": HARTREE / BOHR / 2,
    "energies in Rydberg and forces in eV/Å": 2 / HARTREE,
    "energies in kcal/mol and forces in eV/Å": 23.0605,
    "energies in eV and forces in kcal/mol/Å": 1 / 23.0605,
    "energies in kJ/mol and forces in eV/Å": 96.4853,
    "energies in eV and forces in kJ/mol/Å": 1 / 96.4853,
    "energies in eV and forces in eV/bohr, or coordinates in bohr": 1 / BOHR,
    "coordinates in bohr and forces in eV/Å": BOHR,
    "coordinates in nm": 10.0,
    "gradients in place of forces (the other sign)": -1.0,
}
"""ΔE / (−ΣF·Δr), which is 1 where all units fit, for what is often mixed up."""


def work_against_energy(samples: Sequence[Sample]) -> str | None:
    """What is wrong with a system's units, in words; None where nothing is, or where its frames do not tell.

    Between two frames on a path the energy rises by minus the work of the mean force, ΔE ≈ −½ Σ (F₁ + F₂)·Δr, to second
    order in the step. The slope of one against the other over many pairs is 1.
    """
    found = [x for a, b in pairwise(samples) if (x := _pair(a, b)) is not None]
    if len(found) < FEWEST:
        return None
    work, rise, step = np.array(found).T
    slope = float(work @ rise / max(work @ work, 1e-300))
    correlation = float(abs(work @ rise) / max(np.sqrt((work @ work) * (rise @ rise)), 1e-300))
    if correlation > SURE and not RATIO[0] < slope < RATIO[1]:
        told = f"forces are not the gradient of the energies: along {len(found)} steps ΔE is {slope:.4g} times −ΣF·Δr"
        return f"{told}, as with {_guess(slope, len(samples[0].structure))}; convert to eV, Å and eV/Å"
    close = step < CLOSE
    w, e = work[close], rise[close]
    moved = len(w) >= FEWEST and np.sqrt(max((w * w).mean(), (e * e).mean())) > ENOUGH
    if moved and abs(w @ e) < UNRELATED * np.sqrt((w @ w) * (e @ e)):
        told = f"forces are not the gradient of the energies along {len(w)} small steps"
        return f"{told}: they belong to other atoms or frames, or have other units; look at force.npy or its like"
    return None


def _pair(a: Sample, b: Sample) -> tuple[float, float, float] | None:
    """Minus the work, the rise of energy, and the longest step between two frames; None where they are no pair."""
    if a.energy is None or b.energy is None or a.force is None or b.force is None:
        return None
    s, t = a.structure, b.structure
    if len(s) != len(t) or (s.types != t.types).any() or not np.allclose(s.cell, t.cell, rtol=0, atol=1e-6):
        return None
    d = t.positions - s.positions
    if s.pbc.any():
        inverse = np.linalg.pinv(np.where(s.pbc[:, None], s.cell, 0.0))
        d = d - np.round(d @ inverse) @ np.where(s.pbc[:, None], s.cell, 0.0)
    step = float(np.linalg.norm(d, axis=1).max())
    if not 0 < step < NEAR:
        return None
    return -0.5 * float(((a.force + b.force) * d).sum()), b.energy - a.energy, step


def _guess(slope: float, atoms: int) -> str:
    known = FACTORS | {"energies per atom": 1.0 / atoms}
    name, factor = min(known.items(), key=lambda x: abs(np.log(abs(x[1] / slope))) + 9.0 * (x[1] * slope < 0))
    return name if abs(np.log(abs(factor / slope))) < 0.2 else "units that do not fit each other"
