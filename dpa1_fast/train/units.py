"""Whether forces and virials are derivatives of the energies, as far as frames that are near each other tell.

Between two such frames the energy rises by minus the work of the mean force on atoms in the mean cell, and minus the
mean virial's on the strain ε that takes one cell to the other, to second order in the step:

    ΔE ≈ −½ Σ (F₁ + F₂)·Δr − ½ (W₁ + W₂) : ε.

The slope of one against the other over many pairs is 1.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from itertools import pairwise
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from .data import Sample

Array = NDArray[np.float64]
NEAR, STRAINED = 0.6, 0.06
"""Å, and the largest entry of a strain: frames are near where no atom is farther from where it was, and no cell is."""
FEWEST, SURE, RATIO = 8, 0.9, (0.5, 2.0)
"""So many pairs of frames, such a correlation, and a slope outside of this range say that units are wrong."""
UNRELATED, CLOSE, ENOUGH = 0.5, 0.15, 0.02
"""With a correlation below this, of steps shorter than this (Å) with energies that move by more than this (eV), forces
are wrong."""
LOOKED = 200
"""Frames of one composition among which near ones are looked for where successive ones are not near."""

HARTREE, BOHR, KBAR = 27.211386, 0.529177, 1602.1766
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
VIRIALS = {
    "the other sign (a stress's)": -1.0,
    "virials in kbar·Å³": 1 / KBAR,
    "virials in GPa·Å³": 10 / KBAR,
    "virials in Hartree": HARTREE,
    "virials in kcal/mol": 1 / 23.0605,
}
"""ΔE / (−W:ε) likewise."""


class Step(NamedTuple):
    """From one frame to another: minus the work of forces and of virials, the energy's rise (eV); the longest way of an
    atom (Å)."""

    work: float
    strain_work: float
    rise: float
    longest: float
    strained: bool


def work_against_energy(samples: Sequence[Sample]) -> str | None:
    """What is wrong with a system's units, in words; None where nothing is, or where its frames do not tell."""
    found = list(_steps(samples))
    plain = [s for s in found if not s.strained]
    return _forces(plain, len(samples[0].structure)) or _virials([s for s in found if s.strained], samples[0])


def _forces(steps: Sequence[Step], atoms: int) -> str | None:
    if len(steps) < FEWEST:
        return None
    work, _, rise, longest, _ = np.array(steps, np.float64).T
    slope, correlation = _line(work, rise)
    if correlation > SURE and not RATIO[0] < slope < RATIO[1]:
        told = f"forces are not the gradient of the energies: along {len(steps)} steps ΔE is {slope:.4g} times −ΣF·Δr"
        named = _guess(slope, FACTORS | {"energies per atom": 1.0 / atoms})
        return f"{told}, as with {named}; convert to eV, Å and eV/Å"
    close = longest < CLOSE
    w, e = work[close], rise[close]
    moved = len(w) >= FEWEST and np.sqrt(max((w * w).mean(), (e * e).mean())) > ENOUGH
    if moved and abs(w @ e) < UNRELATED * np.sqrt((w @ w) * (e @ e)):
        told = f"forces are not the gradient of the energies along {len(w)} small steps"
        return f"{told}: they belong to other atoms or frames, or have other units; look at force.npy or its like"
    return None


def _virials(steps: Sequence[Step], first: Sample) -> str | None:
    if len(steps) < FEWEST:
        return None
    work, strain_work, rise, *_ = np.array(steps, np.float64).T
    slope, correlation = _line(strain_work, rise - work)
    if correlation > SURE and not RATIO[0] < slope < RATIO[1]:
        told = (
            f"virials are not the derivative of the energies: along {len(steps)} strains ΔE is {slope:.4g} times −W:ε"
        )
        volume = first.structure.volume or 1.0
        here = {"virials per atom": float(len(first.structure)), "stresses in place of virials": volume,
                "stresses, with their sign, in place of virials": -volume}  # fmt: skip
        named = _guess(slope, VIRIALS | here)
        return f"{told}, as with {named}; give −dE/dstrain in eV"
    return None


def _line(x: Array, y: Array) -> tuple[float, float]:
    """Slope through the origin, and correlation."""
    xx, xy, yy = float(x @ x), float(x @ y), float(y @ y)
    return xy / max(xx, 1e-300), abs(xy) / max(math.sqrt(xx * yy), 1e-300)


def _steps(samples: Sequence[Sample]) -> Iterator[Step]:
    """Between successive frames; where too few of these are near, between each frame and the one nearest to it."""
    found = [s for a, b in pairwise(samples) if (s := _step(a, b)) is not None]
    if len(found) >= FEWEST:
        yield from found
        return
    alike: dict[tuple[bytes, ...], list[Sample]] = defaultdict(list)
    for sample in samples:
        alike[sample.structure.types.tobytes(), *_parameters(sample)].append(sample)
    for group in alike.values():
        if len(group) > FEWEST:
            for a, b in _nearest(group[:: -(-len(group) // LOOKED)]):
                if (s := _step(a, b)) is not None:
                    yield s


def _nearest(group: Sequence[Sample]) -> Iterator[tuple[Sample, Sample]]:
    """Each frame with the one nearest to it, each pair once."""
    inverse = [_inverse(s) for s in group]
    places = np.stack([s.structure.positions @ h for s, h in zip(group, inverse, strict=True)])
    taken = set[tuple[int, int]]()
    for k, sample in enumerate(group):
        d = places - places[k]
        pbc = sample.structure.pbc
        d[..., pbc] -= np.round(d[..., pbc])
        far = np.square(d @ _cell(sample)).sum((1, 2))
        far[k] = np.inf
        other = int(far.argmin())
        pair = (min(k, other), max(k, other))
        if pair not in taken:
            taken.add(pair)
            yield group[pair[0]], group[pair[1]]


def _parameters(sample: Sample) -> tuple[bytes, ...]:
    """Frame and atomic parameters, which move energies as positions do."""
    return tuple(x.tobytes() for x in (sample.structure.fparam, sample.structure.aparam) if x is not None)


def _cell(sample: Sample) -> Array:
    """The cell, with unit vectors for axes that are not periodic."""
    s = sample.structure
    return np.where(s.pbc[:, None], s.cell, np.eye(3))


def _inverse(sample: Sample) -> Array:
    return np.linalg.pinv(_cell(sample)).astype(np.float64)


def _step(a: Sample, b: Sample) -> Step | None:
    """From one frame to another; None where they are not near, or have no labels."""
    if a.energy is None or b.energy is None or a.force is None or b.force is None:
        return None
    s, t = a.structure, b.structure
    if len(s) != len(t) or (s.types != t.types).any() or (s.pbc != t.pbc).any() or _parameters(a) != _parameters(b):
        return None
    strained = not np.allclose(s.cell, t.cell, rtol=0, atol=1e-6)
    cells = _cell(a), _cell(b)
    mean = (cells[0] + cells[1]) / 2
    d = t.positions @ np.linalg.pinv(cells[1]) - s.positions @ np.linalg.pinv(cells[0])
    d[:, s.pbc] -= np.round(d[:, s.pbc])
    moved = d @ mean
    longest = float(np.linalg.norm(moved, axis=1).max())
    if not longest < NEAR or (longest == 0 and not strained):
        return None
    work = -0.5 * float(((a.force + b.force) * moved).sum())
    if not strained:
        return Step(work, 0.0, b.energy - a.energy, longest, False)
    strain = np.linalg.pinv(mean) @ (cells[1] - cells[0])
    if a.virial is None or b.virial is None or np.abs(strain).max() > STRAINED:
        return None
    return Step(work, -0.5 * float(((a.virial + b.virial) * strain).sum()), b.energy - a.energy, longest, True)


def _guess(slope: float, known: Mapping[str, float]) -> str:
    name, factor = min(known.items(), key=lambda x: abs(np.log(abs(x[1] / slope))) + 9.0 * (x[1] * slope < 0))
    return name if abs(np.log(abs(factor / slope))) < 0.2 else "units that do not fit each other"
