"""What tests of the screening job share: structures, the command in a process of its own, and what it wrote."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pyarrow.parquet as pq
from ase import Atoms
from ase.db import connect
from ase.io import write
from commands import run_command

MODEL = "almgcu-demo"

SMALL_BLOCKS = """
import sys
from dpa1_fast.screening import blocks
blocks.STRUCTURES = {structures}
from dpa1_fast.cli import app
sys.argv[0] = "dpa1-fast"
app()
"""
"""The command, with blocks so small that a short job has many."""


def alloys(count: int, seed: int = 0) -> list[Atoms]:
    """Clusters, slabs and crystals of 2 to 12 Al, Mg and Cu atoms, mixed."""
    rng = np.random.default_rng(seed)
    out = []
    for k in range(count):
        n = int(rng.integers(2, 13))
        grid = np.stack(np.meshgrid(*[np.arange(3)] * 3, indexing="ij"), -1).reshape(-1, 3)[:n]
        positions = grid * 2.75 + rng.normal(scale=0.1, size=(n, 3))
        cell = [None, [8.25, 8.25, 0.0], [8.25, 8.25, 8.25]][k % 3]
        pbc = [False, (True, True, False), True][k % 3]
        out.append(Atoms(rng.choice(["Al", "Mg", "Cu"], n), positions=positions, cell=cell, pbc=pbc))
    return out


def input_file(folder: Path, count: int, seed: int = 0) -> Path:
    """An extxyz file of alloys, two of which can't be done."""
    structures = alloys(count, seed)
    if count > 7:
        structures[3] = Atoms("AlPt", [[0, 0, 0], [0, 0, 2.5]])
        structures[7].positions[0] = np.nan
    write(folder / "in.extxyz", structures)
    return folder / "in.extxyz"


def command(*arguments: object, small_blocks: int = 0) -> list[str]:
    """The words of ``dpa1-fast screen …``."""
    how = ["-c", SMALL_BLOCKS.format(structures=small_blocks)] if small_blocks else ["-m", "dpa1_fast.cli"]
    return [sys.executable, *how, "screen", *map(str, arguments)]


def screen(*arguments: object, cwd: Path, **options: Any) -> subprocess.CompletedProcess[str]:
    """Runs ``dpa1-fast screen …`` to its end; options as of ``commands.start_command``."""
    return run_command("screen", *arguments, cwd=cwd, **options)


def rows(folder: Path) -> list[dict[str, Any]]:
    """The summary."""
    return pq.read_table(folder / "summary.parquet").to_pylist()


def everything(folder: Path) -> dict[str, Any]:
    """All that a finished job wrote, for comparison to the last bit."""
    assert not list(folder.glob("*partial*")), "a finished job leaves nothing half done"
    assert not list(folder.glob("*whole*"))
    out: dict[str, Any] = {
        path.name: path.read_bytes() for path in sorted((folder / "summary.parquet").glob("*.parquet"))
    }
    if (folder / "results.extxyz").exists():
        out["extxyz"] = (folder / "results.extxyz").read_bytes()
    if (folder / "results.h5").exists():
        with h5py.File(folder / "results.h5") as file:
            out |= {name: file[name][()].tobytes() for name in file}
    if (folder / "results.db").exists():
        with connect(folder / "results.db") as db:
            for row in db.select():
                out[f"row {row.id}"] = (row.key_value_pairs, row.energy, row.forces.tobytes(), row.positions.tobytes())
    if (folder / "failures.csv").exists():
        out["failures"] = (folder / "failures.csv").read_bytes()
    return out
