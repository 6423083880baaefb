"""A property of every structure of an input: many structures at a time, each done once, killed or not.

A structure that is done has one file, ``results/0000012.json``, written whole; a job that was killed does those that
have none. The table is made of these files at the end, so it is the same whenever the job was interrupted.
"""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, is_dataclass
from math import inf
from pathlib import Path
from typing import Any

from ase import Atoms

from .. import __version__
from ..checkpoint import find
from ..describe import file_hash
from ..dynamics.relax import relax
from ..engine import Engine
from ..errors import StructureError
from ..printable import name_of, printable
from ..screening.journal import differences
from ..screening.locks import FolderLock
from ..screening.options import fingerprints
from ..screening.sinks.base import write_file
from ..sources import Item, Source
from ..structures.structure import from_ase
from . import base
from .base import Found, Property, PropertyError, relaxed

ATOMS = 20_000
"""Atoms of copies that are evaluated together."""
FIRST = ("index", "source", "frame", "formula", "natoms")


@dataclass
class Job:
    """A job in its folder.

    Args:
        engine: evaluates. model: its file or name. prop: what is computed. folder: where.
        fmax: eV/Å, of the relaxation of each structure with its cell before all else; None: as it comes in.
        reading: how structures are read and by which head, what of it was asked for: it makes the job this one, too.
    """

    engine: Engine
    model: str
    prop: Property
    folder: Path
    fmax: float | None
    reading: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.fmax is not None and not 0.0 < self.fmax < inf:
            raise PropertyError(f"--fmax {self.fmax} must be positive")

    def run(self, sources: Sequence[Source], watch: Callable[[int, int], None] = lambda *_: None) -> tuple[int, int]:
        """Does what is left.

        Args:
            watch: told how many are done and how many of these failed.

        Returns:
            How many structures there are, and how many failed.

        Raises:
            PropertyError: the folder holds another job. JobError: another process writes there.
        """
        with FolderLock(self.folder):
            return self._run(sources, watch)

    def _run(self, sources: Sequence[Source], watch: Callable[[int, int], None]) -> tuple[int, int]:
        results = self.folder / "results"
        results.mkdir(parents=True, exist_ok=True)
        self._claim(sources)
        done = failed = 0
        for group in self._groups(sources):
            left = [(k, item) for k, item in group if not _file(results, k).exists()]
            for (k, item), outcome in zip(left, self._outcomes([i for _, i in left]), strict=True):
                self._write(results, k, item, outcome)
            for k, _ in group:
                done += 1
                failed += self._row(results, k)["status"] == "failed"
            watch(done, failed)
        write_file(self.folder / f"{self.prop.name}.csv", self._table(results, done).encode())
        return done, failed

    def _claim(self, sources: Sequence[Source]) -> None:
        options: dict[str, Any] = asdict(self.prop) if is_dataclass(self.prop) else {}
        added = self.engine.dispersion
        identity = {
            "version": __version__, "property": self.prop.name, **options, "fmax": self.fmax,
            "model_sha256": file_hash(find(self.model)), "precision": self.engine.precision,
            "backend": self.engine.backend, "dispersion": None if added is None else added.name,
            "inputs": fingerprints(sources), **self.reading,
        }  # fmt: skip
        identity = json.loads(json.dumps(identity))
        path = self.folder / "job.json"
        if path.exists():
            try:
                before = json.loads(path.read_text(encoding="utf-8"))
            except ValueError:
                before = {}
            other = differences(before if isinstance(before, dict) else {}, identity)
            if other:
                raise PropertyError(f"{self.folder} holds another job ({other[0]}); choose another --output")
        elif any((self.folder / "results").iterdir()):
            raise PropertyError(f"{self.folder}/results holds files that are of no job; choose another --output")
        else:
            write_file(path, json.dumps(identity, indent=2).encode())

    def _groups(self, sources: Sequence[Source]) -> Iterator[list[tuple[int, Item]]]:
        """Structures in their order, so many together that their copies fill a batch or two."""
        group: list[tuple[int, Item]] = []
        k = atoms = 0
        for source in sources:
            for item in source.read():
                group.append((k, item))
                k += 1
                atoms += 0 if item.atoms is None else 200 * len(item.atoms)
                if atoms >= ATOMS:
                    yield group
                    group, atoms = [], 0
        if group:
            yield group

    def _outcomes(self, items: Sequence[Item]) -> list[tuple[Atoms, Found] | StructureError]:
        outcomes: list[Any] = [
            StructureError(i.source, i.error or "failed") if i.atoms is None else None for i in items
        ]
        places = [k for k, x in enumerate(outcomes) if x is None]
        atoms: dict[int, Any] = {k: items[k].atoms for k in places}
        if self.fmax is not None and places:
            ends = relax(self.engine, [atoms[k] for k in places], cell=True, fmax=self.fmax, steps=base.STEPS)
            for k, done in zip(list(places), ends, strict=True):
                try:
                    atoms[k] = relaxed(done, items[k].source, self.fmax).atoms
                except StructureError as error:
                    outcomes[k] = error
                    places.remove(k)
        asked: dict[int, Any] = {}
        for k in places:
            try:
                from_ase(self.engine.config, atoms[k], items[k].source)  # spglib crashes where positions are no numbers
                asked[k] = self.prop.ask(atoms[k], items[k].source)
            except StructureError as error:
                outcomes[k] = error
        for k, one in zip(asked, self.prop.found(self.engine, list(asked.values()), self.fmax or 1e-3), strict=True):
            outcomes[k] = one if isinstance(one, StructureError) else (atoms[k], one)
        return outcomes

    # --- what is written --------------------------------------------------------------------------------------------

    def _write(self, results: Path, k: int, item: Item, outcome: tuple[Atoms, Found] | StructureError) -> None:
        row: dict[str, Any] = {"index": k, "source": name_of(item.source), "frame": item.frame}
        if item.atoms is not None:
            row |= {"formula": item.atoms.get_chemical_formula(), "natoms": len(item.atoms)}
        if isinstance(outcome, StructureError):
            row |= {"status": "failed", "error": printable(outcome.reason)}
        else:
            _, found = outcome
            for name, text in found.files.items():
                write_file(results / f"{k:07d}.{name}", text.encode())
            row |= {**found.row, "status": "ok"}
        write_file(_file(results, k), json.dumps(row).encode())

    @property
    def _columns(self) -> list[str]:
        return [*FIRST, *self.prop.columns, "status", "error"]

    def _row(self, results: Path, k: int) -> dict[str, Any]:
        """What was written of a structure.

        Raises:
            PropertyError: something else stands there.
        """
        path = _file(results, k)
        try:
            row = dict(json.loads(path.read_text(encoding="utf-8")))
        except (TypeError, ValueError):
            row = {}
        if row.get("status") not in ("ok", "failed") or not set(row) <= set(self._columns):
            raise PropertyError(f"{path} is damaged; delete it, and its structure is done again")
        return row

    def _table(self, results: Path, count: int) -> str:
        text = io.StringIO()
        out = csv.DictWriter(text, self._columns, lineterminator="\n")
        out.writeheader()
        for k in range(count):
            out.writerow(self._row(results, k))
        return text.getvalue()


def _file(results: Path, k: int) -> Path:
    return results / f"{k:07d}.json"
