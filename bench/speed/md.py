"""Molecular dynamics of 64 small systems in one batch, and by a loop of ASE runs; what a step costs besides the model.

    python -m bench.speed.md [--precision float32] [--model almgcu-demo] [--rounds 3]

Both sides have the same engine and take the same steps (velocity Verlet). They take turns; times are medians of
processor time, ratios medians of turns, of processor time and of the clock (with --threads 2 a batch has work for both,
a system of four atoms does not). Writes build/bench_md.json.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from ase import Atoms, units
from ase.build import bulk
from ase.cluster import Octahedron
from ase.md.verlet import VelocityVerlet

import dpa1_fast
from dpa1_fast.drivers.ase import DPA1Calculator
from dpa1_fast.dynamics.ensembles import Ensemble
from dpa1_fast.dynamics.md import MolecularDynamics

SYSTEMS = 64


def clusters() -> list[Atoms]:
    """64 of 3 to 9 atoms."""
    out = []
    for k in range(SYSTEMS):
        places = Octahedron("Al", 3, latticeconstant=4.05).positions[: 3 + k % 7]
        atoms = Atoms("Al" * len(places), places)
        atoms.symbols[0] = "Cu"
        atoms.rattle(0.03, seed=k)
        out.append(atoms)
    return out


def crystals() -> list[Atoms]:
    """64 of 4 and 8 atoms."""
    out = []
    for k in range(SYSTEMS):
        atoms = bulk("Al", cubic=True) * (1 + k % 2, 1, 1)
        atoms.symbols[0] = "Mg"
        atoms.rattle(0.03, seed=k)
        out.append(atoms)
    return out


def spent(work: Callable[[], Any]) -> tuple[float, float]:
    """Seconds of processor time and of the clock."""
    processor, clock = time.process_time(), time.perf_counter()
    work()
    return time.process_time() - processor, time.perf_counter() - clock


def against_ase(engine: Any, systems: list[Atoms], steps: int, rounds: int) -> dict[str, float]:
    """Milliseconds a step of all systems, ours and ASE's."""
    ours = MolecularDynamics(engine, systems, Ensemble(units.fs), temperature=300)
    offsets = ours.motion.offsets
    theirs = []
    for k, atoms in enumerate(systems):
        atoms.set_velocities(ours.motion.velocities[offsets[k] : offsets[k + 1]])
        atoms.calc = DPA1Calculator(engine)
        theirs.append(VelocityVerlet(atoms, units.fs))
    ours.run(2)
    for one in theirs:
        one.run(2)
    turns = [(spent(lambda: ours.run(steps)), spent(lambda: [x.run(steps) for x in theirs])) for _ in range(rounds)]
    gap = max(
        float(np.abs(ours.motion.positions[offsets[k] : offsets[k + 1]] - a.positions).max())
        for k, a in enumerate(systems)
    )
    ours_ms, ase_ms = (1e3 * statistics.median(x[0] for x in side) / steps for side in zip(*turns, strict=True))
    times, clock = (statistics.median(b[k] / a[k] for a, b in turns) for k in (0, 1))
    return {"ours_ms": ours_ms, "ase_ms": ase_ms, "times": times, "times_by_the_clock": clock, "positions_gap": gap}


def overhead(engine: Any, atoms: Atoms, steps: int, rounds: int) -> dict[str, float]:
    """Milliseconds: a step, ``Engine.evaluate`` of the same atoms, and the backend on a batch that is ready."""
    md = MolecularDynamics(engine, [atoms], Ensemble(units.fs), temperature=300)
    md.run(3)
    ready = engine.batch([atoms])
    work = {
        "step_ms": lambda: md.run(steps),
        "evaluate_ms": lambda: [engine.evaluate([atoms]) for _ in range(steps)],
        "backend_ms": lambda: [engine.evaluate_batch(ready, gradient=False) for _ in range(steps)],
    }
    turns = [{k: 1e3 * spent(w)[0] / steps for k, w in work.items()} for _ in range(rounds)]
    return {k: statistics.median(t[k] for t in turns) for k in work}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", default="almgcu-demo")
    parser.add_argument("--precision", default="float64")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--threads", type=int, default=1)
    args = parser.parse_args()
    engine = dpa1_fast.load(args.model, precision=args.precision, threads=args.threads)
    nine = (bulk("Al", cubic=True) * (3, 1, 1))[:9]
    nine.pbc = False
    many = bulk("Al", cubic=True) * (4, 4, 3)
    many.symbols[::3] = "Mg"
    report = {
        **vars(args),
        "64 clusters": against_ase(engine, clusters(), 20, args.rounds),
        "64 crystals": against_ase(engine, crystals(), 10, args.rounds),
        "9 atoms": overhead(engine, nine, 200, args.rounds),
        "192 atoms": overhead(engine, many, 10, args.rounds),
    }
    print("\n".join(f"{key:12} {value}" for key, value in report.items()), flush=True)
    path = Path("build") / "bench_md.json"
    path.parent.mkdir(exist_ok=True)
    path.write_text(json.dumps(report, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
