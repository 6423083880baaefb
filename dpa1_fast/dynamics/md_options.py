"""What a user asks of molecular dynamics, checked once."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from hashlib import sha256
from math import isfinite
from pathlib import Path
from typing import Any

import numpy as np
from ase import Atoms, units

from .. import __version__
from ..checkpoint import find
from ..describe import file_hash
from ..errors import DPA1Error
from ..printable import name_of
from .ensembles import Bussi, Ensemble, Langevin
from .nose_hoover import NoseHoover
from .npt import SHAPES, Npt, is_shape
from .trajectory import FORMATS

ENSEMBLES: dict[str, tuple[str, ...]] = {
    "nve": (), "langevin": ("friction",), "bussi": ("tau",), "nose-hoover": ("tau",),
    "npt": ("tau", "pressure", "tau_pressure", "npt"),
}  # fmt: skip
"""What ``--ensemble`` may name, and the options that are its own."""
DEFAULTS: dict[str, Any] = {"friction": 1.0, "tau": 100.0, "pressure": 0.0, "tau_pressure": 1000.0, "npt": "iso"}
"""Of these options."""


class MdError(DPA1Error, ValueError):
    """What is asked of molecular dynamics contradicts itself, or cannot be done."""


@dataclass(frozen=True)
class MdOptions:
    """A run of molecular dynamics.

    Attributes:
        inputs: files, folders, patterns. output: folder.
        model, head, device, backend, precision, threads, dispersion: see ``load``.
        type_map, format: how inputs are read, see ``find_sources``.
        ensemble: of ``ENSEMBLES``. temperature: K, or None. timestep: fs. steps: in all.
        friction: 1/ps. tau, tau_pressure: fs. pressure: GPa. npt: what cells may do, see ``npt.SHAPES``. These are None
        where they are not given; ``of`` says which then holds. seed: of velocities and noise.
        save, log: steps between frames, and between rows of the log. write: of ``trajectory.FORMATS``.
        checkpoint: seconds between restart files.
    """

    inputs: tuple[str, ...]
    output: Path
    model: str
    steps: int
    head: str | None = None
    device: str = "auto"
    backend: str = "auto"
    precision: str = "float64"
    threads: int | None = None
    type_map: tuple[str, ...] = ()
    format: str | None = None
    ensemble: str = "nve"
    temperature: float | None = None
    timestep: float = 1.0
    friction: float | None = None
    tau: float | None = None
    pressure: float | None = None
    tau_pressure: float | None = None
    npt: str | None = None
    seed: int = 0
    save: int = 100
    log: int = 100
    write: str = "extxyz"
    checkpoint: float = 30.0
    dispersion: str | None = None
    overwrite: bool = False

    def __post_init__(self) -> None:
        if self.ensemble not in ENSEMBLES:
            raise MdError(f"--ensemble {self.ensemble!r} is not known; known: {', '.join(ENSEMBLES)}")
        if self.write not in FORMATS:
            raise MdError(f"--write {self.write!r} is not known; known: {', '.join(FORMATS)}")
        if self.ensemble != "nve" and not (self.temperature and self.temperature > 0.0):
            raise MdError(f"--ensemble {self.ensemble} needs a --temperature above 0 K")
        if self.temperature is not None and not (isfinite(self.temperature) and self.temperature >= 0.0):
            raise MdError(f"--temperature {self.temperature} is no temperature in K")
        for name in DEFAULTS:
            if getattr(self, name) is not None and name not in ENSEMBLES[self.ensemble]:
                having = ", ".join(e for e, own in ENSEMBLES.items() if name in own)
                raise MdError(f"{_word(name)} is of --ensemble {having}, and this one is {self.ensemble}")
        if not isfinite(self.of("pressure")):
            raise MdError(f"--pressure {self.pressure} is no pressure in GPa")
        if not is_shape(self.of("npt")):
            told = f"known: {', '.join(SHAPES)}, or letters of lattice vectors such as c or ab"
            raise MdError(f"--npt {self.npt!r} is not known; {told}")
        if not 0 <= self.seed < 1 << 63:
            raise MdError(f"--seed {self.seed} must be a number from 0")
        for name in ("timestep", "friction", "tau", "tau_pressure", "save", "log"):
            value = self.of(name)
            if not (isfinite(value) and value > 0):
                raise MdError(f"{_word(name)} {value} must be positive")
        if self.steps < 0:
            raise MdError(f"--steps {self.steps} must not be negative")

    def of(self, name: str) -> Any:
        """An option as it was given, or as it is where it was not."""
        value = getattr(self, name)
        return DEFAULTS[name] if value is None else value

    def make(self, systems: int) -> Ensemble:
        """The integrator for so many systems."""
        dt, kT = self.timestep * units.fs, units.kB * (self.temperature or 0.0)
        tau, seeds = self.of("tau") * units.fs, [[self.seed, k] for k in range(systems)]
        if self.ensemble == "langevin":
            return Langevin(dt, kT, self.of("friction") / (1000.0 * units.fs), seeds)
        if self.ensemble == "bussi":
            return Bussi(dt, kT, tau, seeds)
        if self.ensemble == "nose-hoover":
            return NoseHoover(dt, kT, tau)
        if self.ensemble == "npt":
            pressure, slow = self.of("pressure") * units.GPa, self.of("tau_pressure") * units.fs
            return Npt(dt, kT, tau, pressure, slow, self.of("npt"))
        return Ensemble(dt)

    def identity(self, structures: Sequence[Atoms], backend: str, device: str) -> dict[str, Any]:
        """What makes this run this one: whatever could change its trajectory. How many steps it takes is not in it."""
        names = ("ensemble", "temperature", "timestep", "seed", "precision", "save", "log", "write")
        return {
            "version": __version__,
            "model": name_of(self.model),
            "model_sha256": file_hash(find(self.model)),
            "head": self.head,
            **({"dispersion": self.dispersion} if self.dispersion else {}),
            "backend": backend,
            "device": device.split(":")[0],
            "structures_sha256": _hash(structures),
            **{name: getattr(self, name) for name in names},
            **{name: self.of(name) for name in ENSEMBLES[self.ensemble]},
        }


def _word(name: str) -> str:
    return f"--{name.replace('_', '-')}"


def _hash(structures: Sequence[Atoms]) -> str:
    """Of everything that a trajectory depends on."""
    digest = sha256()
    for atoms in structures:
        held = [repr(c.todict()) for c in atoms.constraints]
        digest.update(repr((len(atoms), held, sorted(atoms.arrays), sorted(map(str, atoms.info.items())))).encode())
        arrays = [atoms.cell[:], atoms.pbc, *(atoms.arrays[k] for k in sorted(atoms.arrays))]
        for array in arrays:
            digest.update(np.ascontiguousarray(array).tobytes() if array.dtype != object else repr(array).encode())
    return digest.hexdigest()
