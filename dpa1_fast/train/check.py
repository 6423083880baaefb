"""What is wrong with data, said in one line each before the first step."""

from __future__ import annotations

import warnings
from collections import defaultdict
from collections.abc import Iterator, Sequence

import numpy as np
from numpy.typing import NDArray

from ..errors import DPA1Warning
from .data import Dataset, Sample
from .distances import LOOKED, TOO_FAR, TOO_NEAR, nearest_by_radii, spacing_by_radii
from .options import LossOptions, TrainingError
from .units import work_against_energy

LABELS = ("energy", "force", "virial", "atomic")
FILES = {"energy": "energies", "force": "forces", "virial": "virials", "atomic": "atomic energies"}


def check(train: Dataset, valid: Dataset | None, loss: LossOptions) -> None:
    """Refuses data that nothing good can be trained on, and notes what is only odd.

    Raises:
        TrainingError: labels that are not finite; labels that the loss asks for and no structure has; one structure
            with two energies; forces and virials that are no derivatives of the energies; distances in other units.
    """
    both = [("training", train)] + ([] if valid is None else [("validation", valid)])
    for what, data in both:
        for sample in data.samples:
            check_finite(sample)
        for name in LABELS:
            if loss.uses(name):
                _there(what, data, name)
    _copies(train, valid)
    _thin(train)
    for k, system in enumerate(train.systems):
        samples = [s for s in train.samples if s.system == k]
        told = work_against_energy(samples)
        if told:
            raise TrainingError(f"{system}: {told}")


def check_finite(sample: Sample) -> None:
    """Refuses labels that are no numbers.

    Raises:
        TrainingError: the first of them.
    """
    for name in LABELS:
        value = getattr(sample, name)
        if value is not None and not np.isfinite(value).all():
            where = np.argwhere(~np.isfinite(np.atleast_1d(value)))[0]
            whose = f" of atom {where[0]}" if name in ("force", "atomic") else ""
            what = {"atomic": "atomic energy"}.get(name, name)
            raise TrainingError(f"{sample.name}: the {what}{whose} is not finite; mend it or leave the frame out")


def _there(what: str, data: Dataset, name: str) -> None:
    lacking = sorted({s.system for s in data.samples if getattr(s, name) is None})
    if not lacking:
        return
    short = {"energy": "e", "force": "f", "virial": "v", "atomic": "ae"}[name]
    if all(getattr(s, name) is None for s in data.samples):
        remedy = f"give them, or set their prefactors (start_pref_{short}, limit_pref_{short}) to 0"
        raise TrainingError(f"the {what} data has no {FILES[name]}, which the loss asks for; {remedy}")
    names = ", ".join(data.systems[k] for k in lacking[:3]) + (" …" if len(lacking) > 3 else "")
    told = f"{len(lacking)} of {len(data.systems)} {what} systems lack {FILES[name]} ({names})"
    _note(f"{told}: they count for the rest of the loss only")


def _copies(train: Dataset, valid: Dataset | None) -> None:
    """Frames that are there twice: a note, or a refusal where their energies differ."""
    seen: dict[bytes, Sample] = {}
    twice: list[tuple[Sample, Sample]] = []
    for sample in train.samples:
        first = seen.setdefault(_key(sample), sample)
        if first is not sample:
            twice.append((first, sample))
    for first, again in twice:
        a, b = first.energy, again.energy
        if a is not None and b is not None and abs(a - b) > 1e-3 * len(first.structure):
            told = f"is the same structure as {first.name}, with another energy ({b:.6g} and {a:.6g} eV)"
            raise TrainingError(f"{again.name}: {told}; leave one out")
    if twice:
        first, again = twice[0]
        _note(f"{len(twice)} training frames are copies of others (the first: {again.name} of {first.name})")
    shared = [s for s in (valid.samples if valid else ()) if _key(s) in seen]
    if shared and valid is not None:
        told = f"{len(shared)} of {len(valid)} validation frames are training frames too (the first: {shared[0].name})"
        _note(f"{told}: validation errors say less than they seem")


def _key(sample: Sample) -> bytes:
    """The same for copies, of the same parameters, also where atoms were moved by lattice vectors."""
    s = sample.structure
    places = s.positions
    if s.pbc.all():
        places = (np.round(s.positions @ np.linalg.inv(s.cell), 7) % 1.0).astype(np.float64)
    parts: Iterator[NDArray[np.float64]] = iter((places, s.cell, s.types.astype(np.float64)))
    given = (x for x in (s.fparam, s.aparam) if x is not None)
    return b"".join((np.round(x, 6) + 0.0).tobytes() for x in (*parts, *given))  # no negative zero


def check_dense(data: Dataset) -> None:
    """Refuses coordinates in nm and the like, before anybody looks for neighbours among them.

    Raises:
        TrainingError: atoms are far closer than their covalent radii allow.
    """
    found = spacing_by_radii(data.config.type_map, [data.samples[k].structure for k in _few(data)])
    if found is not None and found < TOO_NEAR:
        told = f"atoms are {found:.2g} times as far apart as their covalent radii say"
        raise TrainingError(f"{told}: coordinates and cells are not in Å (in nm, or scaled); convert them")


def _thin(data: Dataset) -> None:
    """Notes coordinates as in bohr: nothing but noble gases is so thin, yet it may be."""
    found = nearest_by_radii(data.config.type_map, [data.neighborhood(k) for k in _few(data)])
    if found is not None and found > TOO_FAR:
        _note(f"atoms are {found:.2g} times as far apart as by their covalent radii: coordinates may be in bohr, not Å")


def _few(data: Dataset) -> range:
    return range(0, len(data), -(-len(data) // LOOKED))


def _note(text: str) -> None:
    warnings.warn(text, DPA1Warning, stacklevel=2)


def note_beyond_sel(data: Dataset, chosen: Sequence[int]) -> None:
    """Says once how many atoms have more than ``sel`` neighbours: only the nearest count."""
    found: dict[str, int] = defaultdict(int)
    for k in chosen:
        atoms, most = data.neighborhood(k).over_sel
        found["atoms"] += atoms
        found["most"] = max(found["most"], most)
    if found["atoms"]:
        told = f"{found['atoms']:,} atoms of the training data have more than sel = {data.config.nsel} neighbours"
        _note(f"{told} (up to {found['most']}); only the nearest count")
