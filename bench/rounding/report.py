"""What each precision of matrix products does to energies and forces, emulated on a CPU by ``rounded_model.py``.

    make rounding        tables, and build/rounding.json (a minute)

The judge is the reference in float64.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from ase import Atoms
from ase.io import read
from torch import Tensor

from bench.cases import model, water
from bench.rounding.model import RoundedModel
from bench.rounding.products import MODES, Products
from dpa1_fast import DPA1, Engine
from dpa1_fast.checkpoint import read_model
from dpa1_fast.structures.batch import Batch, collate, neighborhood
from dpa1_fast.structures.structure import from_ase
from dpa1_fast.tiled import TiledEvaluator

ROOT = Path(__file__).parents[2]

IN_COORDINATES = ("tf32", "tf32, truncated", "float16", "bfloat16")
"""Modes in which the engine takes the first layer of attention in coordinates on some cards, and in all channels on
others: both are shown."""


@dataclass(frozen=True)
class Row:
    """One system in one mode. Forces relative to the RMS force, energies in eV per atom (the worst structure)."""

    system: str
    mode: str
    force_rms: float
    force_max: float
    energy: float
    rms_force: float
    largest_operand: float
    short_in_float16: float
    lost_in_float16: float


def batch_of(dpa1: DPA1, structures: Sequence[Atoms]) -> Batch:
    """Structures on the CPU, ready to evaluate."""
    return collate(dpa1.config, [neighborhood(dpa1.config, from_ase(dpa1.config, a, "x")) for a in structures])


def evaluate(dpa1: DPA1, batch: Batch, rounded: RoundedModel) -> tuple[Tensor, Tensor]:
    """Energies of atoms (n,) and forces (n, 3)."""
    energies, _, forces, _ = TiledEvaluator(rounded, dpa1.cost_per_neighbor, 2 * dpa1.config.rcut)(batch)
    return energies, forces


def compare(system: str, dpa1: DPA1, structures: Sequence[Atoms], modes: Sequence[str]) -> list[Row]:
    """Every mode against the reference in float64."""
    batch = batch_of(dpa1, structures)
    energies, _, forces, _ = Engine(dpa1, backend="reference", device="cpu").run(batch)
    rms, sizes = float(forces.square().mean().sqrt()), batch.offsets.diff()
    rows = []
    for mode, reduced in [(m, r) for m in modes for r in ((False, True) if m in IN_COORDINATES else (False,))]:
        dot = Products(mode, watch=True)
        rounded = RoundedModel(dpa1.weights(), dot, reduced=reduced)
        if reduced and not rounded.reduced:
            continue
        found, f = evaluate(dpa1, batch, rounded)
        per_atom = (batch.sum_structures(found - energies) / sizes).abs().max()
        name = f"{mode}; in coordinates" if reduced else mode
        row = Row(
            system, name, float((f - forces).square().mean().sqrt()) / rms, float((f - forces).abs().max()) / rms,
            float(per_atom), rms, dot.largest, dot.short / max(1, dot.seen), dot.lost / max(1, dot.seen),
        )  # fmt: skip
        rows.append(row)
    return rows


def markdown(rows: Sequence[Row]) -> str:
    """The table."""
    lines = ["| system | products | force error, RMS | force error, largest | energy error, eV/atom |"]
    lines.append("| --- | --- | ---: | ---: | ---: |")
    lines += [f"| {r.system} | {r.mode} | {r.force_rms:.1e} | {r.force_max:.1e} | {r.energy:.1e} |" for r in rows]
    return "\n".join(lines)


def sizes(rows: Sequence[Row]) -> str:
    """What float16 would meet: its largest number is 65,504, below 6.1e-5 it loses digits, below 3e-8 everything."""
    lines = ["| system | largest operand | below 6.1e-5 | below 3e-8 |", "| --- | ---: | ---: | ---: |"]
    for r in rows:
        if r.mode == "ieee":
            shares = f"{r.short_in_float16:.1%} | {r.lost_in_float16:.1%}"
            lines.append(f"| {r.system} | {r.largest_operand:.3g} | {shares} |")
    return "\n".join(lines)


def systems() -> dict[str, tuple[DPA1, list[Atoms]]]:
    """The systems of the table."""
    examples = ROOT / "examples" / "structures"
    alloys = [a for name in ("alloys", "compounds") for a in read(examples / f"{name}.extxyz", ":")[:8]]
    return {
        "water192": (model(), [water(4)]),
        "water192, smooth": (model(smooth_type_embedding=True), [water(4)]),
        "almgcu-demo, 16 alloys and compounds": (read_model("almgcu-demo").model, alloys),
    }


def main() -> int:
    """Prints the tables, writes build/rounding.json."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", default="", help="systems whose name contains this")
    options = parser.parse_args()
    rows: list[Row] = []
    for name, (dpa1, structures) in systems().items():
        if options.only in name:
            rows += compare(name, dpa1, structures, list(MODES))
    print(markdown(rows), sizes(rows), sep="\n\n")
    (ROOT / "build").mkdir(exist_ok=True)
    (ROOT / "build" / "rounding.json").write_text(json.dumps([asdict(r) for r in rows], indent=1), encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
