"""Structures, and perturbed copies of them, with a teacher's energies, forces and virials, as files to train on."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from ..checkpoint.writing import write_whole
from ..engine import Engine, Result
from ..errors import StructureError
from ..sampling.pool import Failures, Member, evaluated, members
from ..sources import Source
from ..structures.type_names import TYPE_NAMES
from ..train.options import TrainingError

TRAIN, VALID, TOLD = "train.extxyz", "valid.extxyz", "labels.json"
DIGITS = 8
"""Decimals (Å) that the files hold of positions; labels are those of what is in the file."""


@dataclass(frozen=True)
class LabelOptions:
    """Which structures are labelled.

    Attributes:
        held: share of the structures, with their copies, that the student is tested on and not trained on.
        copies: perturbed ones of each. rattle: Å, standard deviation of each coordinate. strain: largest entry of a
            random symmetric strain.
    """

    held: float = 0.1
    copies: int = 0
    rattle: float = 0.0
    strain: float = 0.0
    seed: int = 1

    def __post_init__(self) -> None:
        if not 0 < self.held <= 0.5:
            raise TrainingError(f"--held {self.held:g}: give the share of structures to test on, from above 0 to 0.5")
        if self.seed < 0:
            raise TrainingError(f"--seed {self.seed}: give a number that is not negative")
        if self.copies < 0 or not 0 <= self.rattle < 1 or not 0 <= self.strain < 0.5:
            raise TrainingError("--copies must not be negative, --rattle be below 1 Å and --strain below 0.5")
        if self.copies and not (self.rattle or self.strain):
            raise TrainingError("--copies without --rattle or --strain are all the same; give one of these")
        if (self.rattle or self.strain) and not self.copies:
            raise TrainingError("--rattle and --strain perturb copies; say how many of each structure: --copies 2")


@dataclass(frozen=True)
class Labelled:
    """What was written: structures to train on, those held out, and how many the teacher could not do; and whether
    there are virials among both."""

    train: int
    valid: int
    failed: int
    virials: bool


def label(teacher: Engine, digest: str, sources: Sequence[Source], folder: Path, options: LabelOptions) -> Labelled:
    """Writes ``train.extxyz`` and ``valid.extxyz``, unless they are there already, of the same teacher and structures.

    Args:
        digest: of the teacher, and of how its inputs are read.

    Raises:
        TrainingError: too few structures to hold some out.
    """
    prints = [source.fingerprint() for source in sources]
    # Names say which structures of a file are meant: its content is the same for data.xyz@:10 and data.xyz@10:.
    key = json.dumps([digest, [source.name for source in sources], prints, asdict(options)])
    told = folder / TOLD
    if all(prints) and told.exists() and json.loads(told.read_text(encoding="utf-8"))["key"] == key:
        return labelled(folder)
    folder.mkdir(parents=True, exist_ok=True)
    told.unlink(missing_ok=True)
    counts, virials = {TRAIN: 0, VALID: 0}, set[str]()
    with ExitStack() as stack:
        failures = stack.enter_context(Failures(folder))
        files = {n: stack.enter_context((folder / f"{n}.partial").open("w", encoding="utf-8")) for n in counts}
        pool = _with_copies(members(sources), options)
        for member, result in evaluated(pool, teacher.stream):
            if isinstance(result, StructureError):
                failures.add(member, result.reason)
                continue
            name = VALID if held_out(member.index, options) else TRAIN
            _write(files[name], member, result)
            counts[name] += 1
            if result.volume is not None:
                virials.add(name)
    for name in counts:
        os.replace(folder / f"{name}.partial", folder / name)
    if not counts[TRAIN] or not counts[VALID]:
        raise TrainingError(
            f"{counts[TRAIN]} structures to train on and {counts[VALID]} held out are too few; give more structures, "
            "or a larger --held"
        )
    done = Labelled(counts[TRAIN], counts[VALID], failures.count, len(virials) == 2)
    write_whole(told, json.dumps({"key": key, "counts": asdict(done)}).encode())
    return done


def labelled(folder: Path) -> Labelled:
    """What ``label`` has written there."""
    return Labelled(**json.loads((folder / TOLD).read_text(encoding="utf-8"))["counts"])


def held_out(index: int, options: LabelOptions) -> bool:
    """Whether a structure is held out: of each few successive ones, one at random."""
    every = round(1 / options.held)
    block, place = divmod(index, every)
    return place == int(np.random.default_rng([options.seed, 0, block]).integers(every))


def files_digest(folder: Path) -> str:
    """Of both files."""
    told = hashlib.sha256()
    for name in (TRAIN, VALID):
        with (folder / name).open("rb") as file:
            told.update(hashlib.file_digest(file, "sha256").digest())
    return told.hexdigest()


def _with_copies(pool: Iterable[Member], options: LabelOptions) -> Iterator[Member]:
    for member in pool:
        atoms = member.item.atoms
        if atoms is None:
            yield member
            continue
        yield replace(member, item=replace(member.item, atoms=_rounded(atoms)))
        for k in range(options.copies):
            rng = np.random.default_rng([options.seed, 1, member.index, k])
            copied = _rounded(perturbed(atoms, options, rng))
            yield replace(member, item=replace(member.item, atoms=copied))


def perturbed(atoms: Any, options: LabelOptions, rng: np.random.Generator) -> Any:
    """A copy, strained with its cell by a random symmetric strain, whose atoms are then moved by Gaussian numbers."""
    out = atoms.copy()
    out.calc = None
    entries = rng.uniform(-options.strain, options.strain, (3, 3))
    deformation = np.eye(3) + (np.triu(entries) + np.triu(entries, 1).T)
    out.set_cell(atoms.cell[:] @ deformation)
    out.positions = atoms.positions @ deformation + rng.normal(0.0, 1.0, atoms.positions.shape) * options.rattle
    return out


def _rounded(atoms: Any) -> Any:
    out = atoms.copy()
    out.positions = np.round(atoms.positions, DIGITS)
    return out


def _write(file: Any, member: Member, result: Result) -> None:
    from ase import Atoms
    from ase.calculators.singlepoint import SinglePointCalculator
    from ase.io.extxyz import write_extxyz

    given = member.item.atoms
    assert given is not None
    out = Atoms(given.numbers, positions=given.positions, cell=given.cell, pbc=given.pbc)
    if TYPE_NAMES in given.arrays:
        out.arrays[TYPE_NAMES] = given.arrays[TYPE_NAMES].copy()
    if result.volume is not None:
        out.info["virial"] = result.virial
    out.calc = SinglePointCalculator(out, energy=result.energy, forces=result.forces)
    write_extxyz(file, [out])
