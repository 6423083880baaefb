"""Where results go: an extended XYZ with forces and a Parquet table, one row a structure. Both appear whole or not."""

from __future__ import annotations

import os
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from ...engine import Result

SCHEMA = pa.schema(
    [
        pa.field("index", pa.int64(), nullable=False, metadata={"doc": "position in the input, from 0"}),
        pa.field("source", pa.string(), nullable=False, metadata={"doc": "file or folder"}),
        pa.field(
            "frame", pa.int64(), nullable=False, metadata={"doc": "structure in the source; -1: the source itself"}
        ),
        pa.field("formula", pa.string()),
        pa.field("natoms", pa.int64()),
        pa.field("energy", pa.float64(), metadata={"unit": "eV"}),
        pa.field("energy_per_atom", pa.float64(), metadata={"unit": "eV"}),
        pa.field("max_force", pa.float64(), metadata={"unit": "eV/Å", "doc": "largest length of a force"}),
        pa.field("volume", pa.float64(), metadata={"unit": "Å³"}),
        pa.field("pressure", pa.float64(), metadata={"unit": "eV/Å³", "doc": "-(xx + yy + zz) / 3 of the stress"}),
        pa.field("status", pa.string(), nullable=False, metadata={"doc": "ok or failed"}),
        pa.field("error", pa.string()),
    ]
)

EXTXYZ, PARQUET = "results.extxyz", "summary.parquet"


class Sinks:
    """Writes ``results.extxyz`` and ``summary.parquet`` in a folder; use as a context manager.

    Files grow under a ``.partial`` name and take their own on a clean exit, so that no partial file is read as whole.
    """

    def __init__(self, folder: Path, provenance: dict[str, str]) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.folder = folder
        self._xyz = (folder / f"{EXTXYZ}.partial").open("w")
        schema = SCHEMA.with_metadata({f"dpa1_fast.{k}": v for k, v in provenance.items()})
        self._parquet = pq.ParquetWriter(folder / f"{PARQUET}.partial", schema)
        self._schema = schema

    def __enter__(self) -> Sinks:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._xyz.close()
        self._parquet.close()
        if kind is None:
            for name in (EXTXYZ, PARQUET):
                os.replace(self.folder / f"{name}.partial", self.folder / name)

    def write(self, rows: list[dict[str, Any]], frames: list[tuple[Any, Result, dict[str, Any]]]) -> None:
        """Appends table rows, and structures with their results.

        Args:
            rows: see ``SCHEMA``. frames: ``ase.Atoms``, its result, and its row.
        """
        self._parquet.write_table(pa.Table.from_pylist(rows, schema=self._schema))
        for atoms, result, row in frames:
            self._write_frame(atoms, result, row)

    def _write_frame(self, atoms: Any, result: Result, row: dict[str, Any]) -> None:
        from ase.calculators.singlepoint import SinglePointCalculator
        from ase.io.extxyz import write_extxyz

        out = atoms.copy()
        given = {k: v for k, v in out.info.items() if k not in ("energy", "stress", "virial", "free_energy")}
        out.info = {**given, "source": row["source"], "frame": row["frame"], "index": row["index"]}
        out.calc = SinglePointCalculator(
            out, energy=result.energy, forces=result.forces, energies=result.energies, stress=result.stress
        )
        out.info["virial"] = result.virial
        write_extxyz(self._xyz, [out])


def row_of(index: int, source: str, frame: int, atoms: Any | None, outcome: Result | str) -> dict[str, Any]:
    """The table row of one structure; ``outcome`` is its result, or why it has none."""
    row: dict[str, Any] = {"index": index, "source": source, "frame": frame}
    if atoms is not None:
        row |= {"formula": atoms.get_chemical_formula(), "natoms": len(atoms)}
    if isinstance(outcome, str):
        return row | {"status": "failed", "error": outcome}
    stress = outcome.stress
    return row | {
        "energy": outcome.energy,
        "energy_per_atom": outcome.energy / max(1, int(np.count_nonzero(atoms.numbers if atoms is not None else 1))),
        "max_force": float(np.linalg.norm(outcome.forces, axis=1).max(initial=0.0)),
        "volume": outcome.volume,
        "pressure": None if stress is None else float(-stress[:3].mean()),
        "status": "ok",
        "error": None,
    }
