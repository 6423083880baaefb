"""What a user asks of a screening job, checked once."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from .. import __version__
from ..checkpoint import find
from ..describe import file_hash
from ..errors import DPA1Error
from ..printable import name_of, printable
from ..sources import Source
from .kept import IDS
from .rows import FIELDS
from .sinks import FORMATS

ORDERS = ("energy_per_atom", "energy", "max_force", "pressure", "volume", "max_devi_f", "e_above_hull")
"""What ``--by`` may name: the best come first by the smallest of it."""


class OptionError(DPA1Error, ValueError):
    """Options that contradict each other or are not known."""


@dataclass(frozen=True)
class Options:
    """A screening job.

    Attributes:
        inputs: files, folders, patterns, or "-". models: one, or several for model deviation. output: folder.
        type_map, format: how inputs are read, see ``find_sources``.
        head, device, backend, precision, threads, dispersion: see ``load``.
        min_distance: Å; structures with atoms closer to each other than that fail.
        fields: of ``rows.FIELDS``. write: of ``sinks.FORMATS``.
        relax: None, "positions" or "cell"; fmax: eV/Å; steps: at most; keep_symmetry: by FixSymmetry.
        top, by: which structures are shown. references: a file of entries for the energy above hull.
        ray: None, "" (start it here) or an address; workers: engines there.
        keep: keys of ``atoms.info`` that the summary has columns for, besides those of ids.
        report: whether the page is written. overwrite: throw away what is under ``output``.
    """

    inputs: tuple[str, ...]
    models: tuple[str, ...]
    output: Path
    type_map: tuple[str, ...] = ()
    format: str | None = None
    head: str | None = None
    device: str = "auto"
    backend: str = "auto"
    precision: str = "float32"
    threads: int | None = None
    min_distance: float = 0.0
    fields: tuple[str, ...] = ("energy", "stress")
    write: tuple[str, ...] = ()
    relax: str | None = None
    fmax: float = 0.05
    steps: int = 500
    keep_symmetry: bool = False
    dispersion: str | None = None
    top: int = 10
    by: str = "energy_per_atom"
    references: Path | None = None
    ray: str | None = None
    workers: int | None = None
    report: bool = True
    overwrite: bool = False
    keep: tuple[str, ...] = ()

    @property
    def keys(self) -> tuple[str, ...]:
        """What is kept of what structures bring along."""
        return tuple(dict.fromkeys([*self.keep, *IDS]))

    def __post_init__(self) -> None:
        _known("fields", self.fields, tuple(FIELDS))
        _known("write", self.write, FORMATS)
        _known("by", (self.by,), ORDERS)
        _known("relax", (self.relax,) if self.relax else (), ("positions", "cell"))
        if self.keep_symmetry and not self.relax:
            raise OptionError("--keep-symmetry is of relaxations: give --relax or --relax-cell with it")
        if self.keep_symmetry and find_spec("spglib") is None:
            raise OptionError("--keep-symmetry needs spglib: pip install 'dpa1-fast[symmetry]'")
        if not self.inputs:
            raise OptionError("give at least one input: a file, a folder, a pattern, or - for standard input")
        if not self.models:
            raise OptionError("give a model: a file, or the name of a bundled model")
        if self.relax and len(self.models) > 1:
            raise OptionError("--relax takes one model; screen the relaxed structures with --models afterwards")
        if self.by == "max_devi_f" and len(self.models) < 2:
            raise OptionError("--by max_devi_f needs several models: --models A B …")
        if self.by == "e_above_hull" and self.references is None:
            raise OptionError("--by e_above_hull needs reference entries: --references FILE")
        if not (self.fmax > 0 and self.steps > 0):
            raise OptionError("fmax and steps must be positive")
        if not 0 <= self.min_distance < math.inf:
            raise OptionError(f"--min-distance is {self.min_distance}; give a distance in Å, such as 0.5")
        if self.workers is not None and self.ray is None:
            raise OptionError("--workers says how many engines Ray runs; give --ray with it")

    def identity(self, inputs: Mapping[str, str], backend: str, device: str) -> dict[str, Any]:
        """What makes this job this one: whatever could change a result. How it is run and shown is not in it.

        Args:
            inputs: see ``fingerprints``. backend, device: what the engine runs on.
        """
        out: dict[str, Any] = {
            "version": __version__,
            "models": {name_of(m): file_hash(find(m)) for m in self.models},
            "head": None if self.head is None else printable(self.head),
            "backend": backend,
            "device": device.split(":")[0],
            "precision": self.precision,
            "fields": list(self.fields),
            "write": list(self.write),
            "inputs": dict(inputs),
        }
        if self.min_distance:
            out["min_distance"] = self.min_distance
        if self.keep:
            out["keep"] = [printable(key) for key in self.keep]
        if self.type_map:
            out["type_map"] = list(self.type_map)
        if self.format:
            out["format"] = self.format
        if self.relax:
            out |= {"relax": self.relax, "fmax": self.fmax, "steps": self.steps}
        if self.keep_symmetry:
            out["keep_symmetry"] = True
        if self.dispersion:
            out["dispersion"] = self.dispersion
        if self.references is not None:
            out["references"] = {name_of(self.references): file_hash(self.references)}
        return out


def fingerprints(sources: Sequence[Source]) -> dict[str, str]:
    """Name and fingerprint of each source, in order."""
    out: dict[str, str] = {}
    for source in sources:
        given, k = name_of(source.name), 2
        name = given
        while name in out:
            name, k = f"{given} (given again, {k})", k + 1
        out[name] = source.fingerprint()
    return out


def _known(option: str, given: Sequence[str], known: Sequence[str]) -> None:
    for name in given:
        if name not in known:
            raise OptionError(f"--{option} {name!r} is not known; known: {', '.join(known)}")
    if len(set(given)) < len(given):
        raise OptionError(f"--{option} names something twice: {', '.join(given)}")
