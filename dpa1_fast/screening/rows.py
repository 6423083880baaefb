"""The summary's columns: one row a structure."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pyarrow as pa

from ..engine import Result
from ..printable import name_of, printable
from ..structures.structure import count_real
from ..uncertainty import FLAGS
from .kept import column_of, kept_of


def _field(name: str, kind: pa.DataType, doc: str = "", unit: str = "", nullable: bool = True) -> pa.Field:
    metadata = {k: v for k, v in (("doc", doc), ("unit", unit)) if v}
    return pa.field(name, kind, nullable=nullable, metadata=metadata or None)


NUMBER, COUNT, TEXT = pa.float64(), pa.int64(), pa.string()
FIRST = (
    _field("index", COUNT, "position in the input, from 0", nullable=False),
    _field("source", TEXT, "file or folder", nullable=False),
    _field("frame", COUNT, "structure in the source; -1: the source itself", nullable=False),
    _field("formula", TEXT),
    _field("natoms", COUNT),
    _field("energy", NUMBER, unit="eV"),
    _field("energy_per_atom", NUMBER, "virtual atoms not counted", "eV"),
    _field("max_force", NUMBER, "largest length of a force", "eV/Å"),
    _field("closest", NUMBER, "distance of the two closest atoms within the cut-off", "Å"),
    _field("volume", NUMBER, unit="Å³"),
    _field("pressure", NUMBER, "-(xx + yy + zz) / 3 of the stress", "eV/Å³"),
    _field("stress", pa.list_(NUMBER), "xx yy zz yz xz xy, ASE's sign", "eV/Å³"),
)
LAST = (
    _field("status", TEXT, "ok or failed", nullable=False),
    _field("error", TEXT, "why it failed"),
)
TOO_CLOSE = 0.5
"""Å. No two nuclei come so close in matter (in H2 they are 0.74 Å apart): there a model was never trained, and is often
flat, so that energy and forces look harmless."""
FIELDS = {
    "energy": (),  # always there, and so is stress
    "forces": (_field("forces", pa.list_(NUMBER), "3 a atom, flat", "eV/Å"),),
    "stress": (),
    "descriptor": (_field("descriptor", pa.list_(NUMBER), "of every atom one after another, flat"),),
    "uncertainty": (
        _field("energy_std", NUMBER, "standard deviation of the energy's error", "eV"),
        _field("force_std", pa.list_(NUMBER), "of the components of each atom's force", "eV/Å"),
        _field("flags", TEXT, f"what not to trust it for, of {', '.join(FLAGS)}; empty: nothing is known against it"),
    ),
}
"""What ``--fields`` may name, and the columns that each adds."""
RELAXED = (
    _field("converged", pa.bool_(), "whether forces (and stress) came below the limit"),
    _field("steps", COUNT, "steps of the relaxation"),
    _field("energy_before", NUMBER, "of the structure as given", "eV"),
)
KINDS = ("max", "min", "avg")
DEVIATION = (
    *(_field(f"{k}_devi_f", NUMBER, f"{k} over atoms of the forces' standard deviation", "eV/Å") for k in KINDS),
    *(_field(f"{k}_devi_v", NUMBER, f"{k} over components of the virial's, an atom", "eV") for k in KINDS),
    _field("devi_e", NUMBER, "standard deviation of the energy, an atom", "eV"),
)
"""Model deviation, in DP-GEN's names and definitions."""
HULL = (_field("e_above_hull", NUMBER, "energy above the hull of the reference entries, an atom", "eV"),)


OURS = tuple(f.name for group in (FIRST, LAST, RELAXED, DEVIATION, HULL, *FIELDS.values()) for f in group)
"""Names that a column for something of the user's can't have."""


def schema(fields: tuple[str, ...], relaxed: bool, models: int, hull: bool, keys: Sequence[str] = ()) -> pa.Schema:
    """The columns of a job; what structures bring along under ``keys`` is JSON, see ``kept``."""
    kept = [_field(column_of(key, OURS), TEXT, f"{key} of the input") for key in keys]
    more = [x for name in fields for x in FIELDS[name]]
    more += [*(RELAXED if relaxed else ()), *(DEVIATION if models > 1 else ()), *(HULL if hull else ())]
    return pa.schema([*FIRST, *more, *kept, *LAST])


def about(index: int, source: str, frame: int, atoms: Any | None, keys: Sequence[str] = ()) -> dict[str, Any]:
    """What a row says of a structure itself; ``kept`` is what it brought along under ``keys``."""
    row: dict[str, Any] = {"index": index, "source": name_of(source), "frame": frame}
    if atoms is not None:
        row |= {"formula": atoms.get_chemical_formula(), "natoms": len(atoms)}
        row["kept"] = {column_of(k, OURS): v for k, v in kept_of(atoms.info, keys).items()}
    return row


def failed(reason: str) -> dict[str, Any]:
    """What a row says of a structure that could not be done."""
    return {"status": "failed", "error": printable(" ".join(reason.split()))}


def done(result: Result, atoms: Any) -> dict[str, Any]:
    """What a row says of a structure's results; forces and descriptor are added where ``--fields`` names them."""
    stress = result.stress
    real = max(1, count_real(atoms))
    return {
        "energy": result.energy,
        "energy_per_atom": result.energy / real,
        "max_force": float(np.sqrt(np.square(result.forces).sum(axis=1).max(initial=0.0))),
        "closest": result.closest if result.closest is not None and np.isfinite(result.closest) else None,
        "volume": result.volume,
        "pressure": None if stress is None else float(-stress[:3].mean()),
        "stress": stress,
        "status": "ok",
    }
