"""200 mixed structures relaxed by ``relax`` and one by one by ASE: same minima? how fast?

    python -m bench.speed.relax [--cell] [--precision float32] [--structures 200] [--rounds 3]

Both sides have the same engine, so what differs is who moves the atoms. They take turns, and ratios are medians of
turns. Writes build/bench_relax.json.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
from ase import Atoms
from ase.build import bulk, fcc111
from ase.cluster import Octahedron
from ase.filters import UnitCellFilter
from ase.io import write
from ase.optimize import FIRE

import dpa1_fast
from dpa1_fast.checkpoint import read_model, write_model
from dpa1_fast.drivers.ase import DPA1Calculator
from dpa1_fast.dynamics.relax import Relaxed, relax

ELEMENTS, VOLUME = ("Al", "Mg", "Cu"), {"Al": 16.5, "Mg": 23.0, "Cu": 11.8}
SAME = 1e-3
"""eV per structure: closer than this counts as the same minimum."""


def mixed(count: int, seed: int = 0) -> list[Atoms]:
    """Rattled random alloys of 2 to 40 atoms: crystals, slabs, wires, clusters, in turn."""
    rng = np.random.default_rng(seed)
    out = []
    while len(out) < count:
        kind = ("crystal", "slab", "crystal", "cluster", "crystal", "wire")[len(out) % 6]
        if kind == "slab":
            atoms = fcc111("Al", (int(rng.integers(1, 3)), 2, int(rng.integers(2, 6))), a=4.05, vacuum=7.0)
            atoms.pbc = (True, True, False)
        elif kind == "cluster":
            atoms = Octahedron("Al", int(rng.integers(2, 4)), latticeconstant=4.05)
            del atoms[rng.permutation(len(atoms))[: int(rng.integers(0, 4))]]
        else:
            cell = bulk("Al", str(rng.choice(["fcc", "bcc"])), a=4.05, cubic=True)
            cell = cell if len(cell) == 4 else bulk("Al", "bcc", a=3.2, cubic=True)
            most = 40 // len(cell)
            repeats = [
                r for r in ((1, 1, 1), (2, 1, 1), (2, 2, 1), (3, 1, 1), (2, 2, 2), (3, 3, 1)) if np.prod(r) <= most
            ]
            atoms = cell * repeats[int(rng.integers(len(repeats)))]
            if kind == "wire":
                atoms.center(vacuum=7.0, axis=(0, 1))
                atoms.pbc = (False, False, True)
        atoms.symbols[:] = rng.choice(ELEMENTS, len(atoms), p=rng.dirichlet([2, 2, 2]))
        size = np.mean([VOLUME[s] for s in atoms.symbols]) / VOLUME["Al"]
        atoms.set_cell(atoms.cell[:] * size ** (1 / 3), scale_atoms=True)
        if not atoms.pbc.any():
            atoms.positions *= size ** (1 / 3)
        atoms.positions += rng.normal(scale=0.1, size=atoms.positions.shape)
        out.append(atoms)
    return out


def one_by_one(engine: Any, structures: list[Atoms], cell: bool, fmax: float, steps: int) -> list[tuple[Atoms, int]]:
    """ASE's own way. → relaxed atoms and how many steps they took."""
    out = []
    for before in structures:
        atoms = before.copy()
        atoms.calc = DPA1Calculator(engine)
        optimizer = FIRE(UnitCellFilter(atoms) if cell and atoms.pbc.all() else atoms, logfile=None)
        optimizer.run(fmax=fmax, steps=steps)
        out.append((atoms, optimizer.nsteps))
    return out


def deepmd(model: str, structures: list[Atoms], fmax: float, steps: int, threads: int) -> dict[str, Any]:
    """The same with DeePMD-kit's own calculator, in its own environment (``make peer``)."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        write_model(read_model(model).model, folder / "model.dp")
        write(folder / "in.extxyz", structures, columns=["symbols", "positions"])
        files = [str(folder / f) for f in ("model.dp", "in.extxyz", "out.json")]
        command = ["build/peer/bin/python", "bench/speed/relax_peer.py", *files, str(fmax), str(steps), str(threads)]
        subprocess.run(command, check=True, capture_output=True)
        found: dict[str, Any] = json.loads((folder / "out.json").read_text(encoding="utf-8"))
    return found


def timed(work: Any) -> tuple[Any, float, float]:
    """What work gives, seconds on the clock, and seconds of processors: those count where others share the machine."""
    began, spent = time.perf_counter(), time.process_time()
    return work(), time.perf_counter() - began, time.process_time() - spent


def show(report: dict[str, Any]) -> None:
    print("\n".join(f"{key:28} {value}" for key, value in report.items()), flush=True)
    path = Path("build") / "bench_relax.json"
    path.parent.mkdir(exist_ok=True)
    path.write_text(json.dumps(report, indent=2) + "\n", encoding="utf-8")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", default="almgcu-demo")
    parser.add_argument("--cell", action="store_true")
    parser.add_argument("--precision", default="float64")
    parser.add_argument("--structures", type=int, default=200)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--fmax", type=float, default=0.05)
    parser.add_argument("--steps", type=int, default=500)
    parser.add_argument("--threads", type=int)
    parser.add_argument(
        "--deepmd", type=int, default=0, metavar="N", help="also N structures with DeePMD-kit (make peer)"
    )
    args = parser.parse_args()
    engine = dpa1_fast.load(args.model, precision=args.precision, threads=args.threads)
    structures = mixed(args.structures)
    how = {"cell": args.cell, "fmax": args.fmax, "steps": args.steps}
    relax(engine, structures[:6], **how)
    one_by_one(engine, structures[:2], **how)
    turns = []
    for _ in range(args.rounds):
        found, *ours = timed(lambda: relax(engine, structures, **how))
        expected, *theirs = timed(lambda: one_by_one(engine, structures, **how))
        turns.append([*ours, *theirs])
    done = [(f, e) for f, e in zip(found, expected, strict=True) if isinstance(f, Relaxed)]
    gap = [abs(f.result.energy - float(e.get_potential_energy())) for f, (e, _) in done]
    taken = sum(n for _, n in expected)
    clock, spent, clock_ase, spent_ase = (statistics.median(x) for x in zip(*turns, strict=True))
    report = {
        **vars(args),
        "threads": engine.threads,
        "atoms": sum(map(len, structures)),
        "failed": len(structures) - len(done),
        "converged": sum(f.converged for f, _ in done),
        "steps": taken,
        "other_steps": sum(f.steps != n for f, (_, n) in done),
        "other_minima": sum(g > SAME for g in gap),
        "largest_gap_eV": max(gap),
        "turns_s": turns,
        "ours_us_per_step": 1e6 * clock / taken,
        "one_by_one_us_per_step": 1e6 * clock_ase / taken,
        "ours_cpu_us_per_step": 1e6 * spent / taken,
        "one_by_one_cpu_us_per_step": 1e6 * spent_ase / taken,
        "times_faster": statistics.median(t[2] / t[0] for t in turns),
        "times_less_cpu": statistics.median(t[3] / t[1] for t in turns),
    }
    show(report)
    if args.deepmd:
        few = [s for s in structures if s.pbc.all() or not s.pbc.any()][: args.deepmd]
        peer = deepmd(args.model, few, args.fmax, args.steps, engine.threads)
        some, seconds, spent = timed(lambda: relax(engine, few, fmax=args.fmax, steps=args.steps))
        gaps = [abs(f.result.energy - e) for f, e in zip(some, peer["energies"], strict=True)]
        report["deepmd_structures"], report["deepmd_other_minima"] = len(few), sum(g > SAME for g in gaps)
        report["deepmd_us_per_step"] = 1e6 * peer["seconds"] / sum(peer["steps"])
        report["times_faster_than_deepmd"] = peer["seconds"] / seconds
        report["times_less_cpu_than_deepmd"] = peer["cpu_seconds"] / spent
        show(report)


if __name__ == "__main__":
    main()
