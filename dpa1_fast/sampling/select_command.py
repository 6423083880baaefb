"""What ``dpa1-fast select`` does and prints."""

from __future__ import annotations

import csv
import os
import sys
from collections.abc import Sequence
from pathlib import Path

from ..engine import Engine
from ..errors import DPA1Error
from ..printable import name_of
from ..screening.inputs import sources_outside
from ..screening.own_keys import clean_arrays, clean_info, free
from ..sources import find_sources
from .pool import FAILURES
from .select import Chosen, Selection, select
from .trust import ACCURATE, CANDIDATE, FAILED, Bounds

STRUCTURES, TABLE = "chosen.extxyz", "chosen.csv"
COLUMNS = ("order", "index", "source", "frame", "formula", "natoms", "force_deviation", "energy_deviation", "flags",
           "rank", "distance", "nearest", "reason")  # fmt: skip


class CountError(DPA1Error, ValueError):
    """A number of structures that is none."""


def select_command(
    engines: Sequence[Engine],
    pool: Sequence[str],
    output: Path,
    count: int,
    bounds: Bounds | None = None,
    known: Sequence[str] = (),
    type_map: Sequence[str] = (),
    format: str | None = None,
) -> int:
    """Chooses structures, writes them and a table. Returns the exit code: 1 where some could not be evaluated, 2: all.

    Raises:
        CountError: fewer than one is wanted. Besides, what ``select`` and ``find_sources`` raise.
    """
    if count < 1:
        raise CountError(f"--n {count}: give how many structures to choose, at least 1")
    types = engines[0].config.type_map
    sources = sources_outside(pool, output, types, type_map, format)
    others = find_sources(known, types, type_map, format) if known else []
    output.mkdir(parents=True, exist_ok=True)
    found, failures = select(engines, sources, count, output, bounds, others)
    write_structures(output / STRUCTURES, found.chosen)
    write_table(output / TABLE, found.chosen)
    for line in failures.told():
        print(f"failed: {line}", file=sys.stderr)
    print(told(found, failures.count, bounds))
    names = (STRUCTURES, TABLE, *[FAILURES] * bool(failures.count))
    print("wrote " + ", ".join(str(output / name) for name in names))
    return 0 if not failures.count else 1 if found.structures else 2


def told(found: Selection, failed: int, bounds: Bounds | None) -> str:
    """What came of it, in a line or two."""
    lines = [f"{len(found.chosen):,} of {found.structures:,} structures chosen; {failed:,} could not be evaluated"]
    if bounds is not None:
        parts = ", ".join(f"{kind} {found.kinds[kind]:,}" for kind in (ACCURATE, CANDIDATE, FAILED))
        lines.append(f"by force deviation within {bounds.lower:g} to {bounds.upper:g} eV/Å: {parts}")
    if found.alike:
        others = found.kinds[CANDIDATE] - found.considered
        told_of = f"; {others:,} more certain ones were not compared" if others else ""
        lines.append(f"no more were taken: all other candidates are copies of these, or of known ones{told_of}")
    return "\n".join(lines)


def write_structures(path: Path, chosen: Sequence[Chosen]) -> None:
    """The structures in the order in which they were taken, without results: their labels are what is wanted."""
    from ase.io.extxyz import write_extxyz

    partial = path.with_name(f"{path.name}.partial")
    with partial.open("w", encoding="utf-8", errors="backslashreplace") as file:
        for one in chosen:
            item = one.member.item
            assert item.atoms is not None
            out = item.atoms.copy()
            info = clean_info({k: v for k, v in out.info.items() if k not in ("virial", "energy", "stress")})
            ours = {"source": name_of(item.source), "frame": item.frame, "index": one.member.index,
                    "force_deviation": one.verdict.force}  # fmt: skip
            for key, value in clean_info(ours).items():
                info[free(f"pool_{key}" if key in info else key, info)] = value
            out.info = info
            plain = {"numbers": out.arrays["numbers"], "positions": out.arrays["positions"]}
            kept = {k: v for k, v in out.arrays.items() if k not in ("atom_ener", "forces", "force")}
            out.arrays = plain | clean_arrays(kept, len(out))
            write_extxyz(file, [out])
    os.replace(partial, path)


def write_table(path: Path, chosen: Sequence[Chosen]) -> None:
    """A line a structure that was taken, and why."""
    partial = path.with_name(f"{path.name}.partial")
    with partial.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(COLUMNS)
        for order, one in enumerate(chosen):
            item, v, t = one.member.item, one.verdict, one.taken
            assert item.atoms is not None
            writer.writerow(
                [order, one.member.index, name_of(item.source), item.frame, item.atoms.get_chemical_formula(),
                 len(item.atoms), f"{v.force:.6g}", f"{v.energy:.6g}", " ".join(v.flags), one.rank,
                 f"{t.distance:.6g}", t.nearest, one.reason]
            )  # fmt: skip
    os.replace(partial, path)
