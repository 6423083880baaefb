"""Runs ``lmp``, by default of the environment that ``make test-drivers`` installs, and reads what it said."""

from __future__ import annotations

import os
import re
import subprocess
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from ase import Atoms

DRIVERS = Path(__file__).parents[2] / "build" / "drivers" / "bin"
PRESSURE = 1.602176634e6  # bar in eV/Å³
START = "units metal\natom_style atomic\nnewton on\nread_data data\n"


@dataclass
class Run:
    """What a run came to: exit code, output, and thermo rows by column."""

    code: int
    said: str
    thermo: list[dict[str, float]]

    @property
    def last(self) -> dict[str, float]:
        """The last thermo row."""
        return self.thermo[-1]

    @property
    def loop(self) -> tuple[float, float]:
        """Seconds a step of the last run, and the share of them that its processes had a core."""
        found = re.findall(r"Loop time of (\S+) on .* for (\d+) steps", self.said)[-1]
        share = re.findall(r"(\S+)% CPU use", self.said)[-1]
        return float(found[0]) / int(found[1]), float(share) / 100

    @property
    def error(self) -> str:
        """LAMMPS's error, or ""."""
        return next((x for x in self.said.splitlines() if x.startswith("ERROR")), "")


def write_data(path: Path, atoms: Atoms, elements: list[str], velocities: np.ndarray | None = None) -> None:
    """A data file. The cell is lower triangular, as LAMMPS wants it; velocities in Å/ps."""
    cell = atoms.cell.array
    assert np.allclose(cell, np.tril(cell))
    lines = ["atoms", "", f"{len(atoms)} atoms", f"{len(elements)} atom types", ""]
    lines += [f"0.0 {float(cell[k, k])!r} {axis}lo {axis}hi" for k, axis in enumerate("xyz")]
    lines += [f"{float(cell[1, 0])!r} {float(cell[2, 0])!r} {float(cell[2, 1])!r} xy xz yz", "", "Masses", ""]
    masses = {s: Atoms(s).get_masses()[0] for s in elements}
    lines += [f"{k} {float(masses[s])!r}" for k, s in enumerate(elements, 1)] + ["", "Atoms", ""]
    for k, (s, r) in enumerate(zip(atoms.symbols, atoms.positions, strict=True), 1):
        lines.append(f"{k} {elements.index(s) + 1} " + " ".join(repr(float(x)) for x in r))
    if velocities is not None:
        lines += ["", "Velocities", ""]
        lines += [f"{k} " + " ".join(repr(float(x)) for x in v) for k, v in enumerate(velocities, 1)]
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")


def lmp(
    folder: Path, script: str, ranks: int = 1, programs: Path = DRIVERS, environment: Mapping[str, str] | None = None
) -> Run:
    """Runs a script in a folder, with MPI where there are several ranks; ``programs`` holds lmp and mpiexec."""
    (folder / "in.lammps").write_text(script, encoding="utf-8")
    command = [str(programs / "lmp"), "-in", "in.lammps", "-log", "log.lammps"]
    if ranks > 1:
        command = [str(programs / "mpiexec"), "-n", str(ranks), *command]
    every = {**os.environ, "OMP_NUM_THREADS": "1", **(environment or {})}
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False, timeout=3600, env=every)
    return Run(done.returncode, done.stdout + done.stderr, thermo(done.stdout))


def thermo(text: str) -> list[dict[str, float]]:
    """All rows of all thermo tables."""
    rows: list[dict[str, float]] = []
    columns: list[str] = []
    for line in text.splitlines():
        words = line.split()
        if words[:1] == ["Step"]:
            columns = words
        elif columns and len(words) == len(columns) and words[0].isdigit():
            rows.append(dict(zip(columns, map(float, words), strict=True)))
        elif columns:
            columns = []
    return rows


def dump(path: Path) -> np.ndarray:
    """The last frame of a dump of ``id`` and other columns: rows sorted by id, without it."""
    text = path.read_text(encoding="utf-8").split("ITEM: ATOMS")[-1].splitlines()[1:]
    rows = np.array([[float(x) for x in line.split()] for line in text])
    return rows[np.argsort(rows[:, 0])][:, 1:]
