"""``pair_style dpa1_fast`` in LAMMPS: against DeePMD-kit's pair style, and what LAMMPS adds to our engine.

    python -m bench.speed.lammps [--only water192] [--rounds 3]

Both sides have the same LAMMPS, model, atoms and input, take turns, and run as is best for them: two ranks of one
thread, or one rank of two. Ratios are medians over rounds. DeePMD-kit runs with the allocator settings that suit it
better. Steps are so short that atoms stay: in float32 its forces of this model (hard softmax) reach thousands of eV/Å
where a neighbour is near the cut-off, which the column of forces shows. Lists are made every ten steps. Writes
build/bench_lammps.json.

Another table has, of one rank with one thread, the seconds of processor time that a step takes in LAMMPS and that
``Engine.evaluate`` takes of the same atoms.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from rich.console import Console
from rich.table import Table

from bench.cases import CASES
from bench.speed import peer
from bench.speed.lammps_runs import DRIVERS, START, Run, dump, lmp, write_data
from dpa1_fast import load
from dpa1_fast.checkpoint import read_model
from dpa1_fast.drivers.lammps import build
from dpa1_fast.prepared import write_prepared

FOLDER = peer.ROOT / "build" / "bench_lammps"
SETTINGS = {"2 ranks of 1 thread": (2, 1), "1 rank of 2 threads": (1, 2)}
BAR, OVERHEAD = 8.0, 0.05
STEPS = {("ours", "water192"): 40, ("ours", "water1536"): 5, ("peer", "water192"): 10, ("peer", "water1536"): 2}
REST = """timestep 1e-7
neigh_modify every 10 delay 0 check no
fix 1 all nve
thermo {0}
thermo_style custom step pe
run {0}
"""
DUMP = "dump 1 all custom 100000 dump id fx fy fz\ndump_modify 1 format float %.12g\n"


def ours(case: str, precision: str, ranks: int, threads: int, steps: int = 0) -> Run:
    """Our pair style, after one step that warms it up."""
    pair = f"pair_style dpa1_fast {precision}.prepared precision {precision} threads {threads}\npair_coeff * * O H\n"
    script = START.replace("data\n", f"{case}.data\n") + pair + DUMP + REST.format(1)
    programs, found = same_lammps()
    return checked(lmp(FOLDER, script + f"run {steps or STEPS['ours', case]}\n", ranks, programs, found))


def theirs(case: str, precision: str, ranks: int, threads: int) -> Run:
    """DeePMD-kit's pair style, the same way."""
    model = peer.path_of("L2" if precision == "float64" else "L2_f32")
    pair = f"pair_style deepmd {model}\npair_coeff * * O H\n"
    script = START.replace("data\n", f"{case}.data\n") + pair + DUMP + REST.format(1)
    counts = {
        "OMP_NUM_THREADS": threads,
        "DP_INTRA_OP_PARALLELISM_THREADS": threads,
        "DP_INTER_OP_PARALLELISM_THREADS": 1,
    }
    environment = {**{k: str(v) for k, v in counts.items()}, **peer.ALLOCATOR, **cuda_runtime()}
    return checked(lmp(FOLDER, script + f"run {STEPS['peer', case]}\n", ranks, peer.PEER.parent, environment))


@cache
def same_lammps() -> tuple[Path, dict[str, str]]:
    """The LAMMPS that DeePMD-kit came with, and a plugin for it; without it, that of ``make test-drivers``."""
    headers = next(iter(peer.PEER.parents[1].glob("lib/python*/site-packages/lammps/include/lammps")), None)
    if headers is None:
        return DRIVERS, {}
    plugin = build(FOLDER / "plugin", headers, mpi=peer.PEER.parents[1] / "include")
    return peer.PEER.parent, {"LAMMPS_PLUGIN_PATH": str(plugin.parent)}


def cuda_runtime(python: Path = peer.PEER) -> dict[str, str]:
    """Where DeePMD-kit's plugin finds the CUDA 12 runtime that its wheel was linked with; its torch brings another."""
    found = next(iter(python.parents[1].rglob("libcudart.so.12")), None)
    return {} if found is None else {"LD_LIBRARY_PATH": str(found.parent)}


def checked(run: Run) -> Run:
    """A run that came to its end.

    Raises:
        RuntimeError: with the end of what LAMMPS said.
    """
    if run.code:
        raise RuntimeError(run.error or run.said[-2000:])
    return run


def against_deepmd(case: str, precision: str, rounds: int) -> dict[str, Any]:
    """The best of each side's settings, taking turns."""
    seconds: dict[str, dict[str, list[float]]] = {"ours": {}, "peer": {}}
    forces: dict[str, np.ndarray] = {}
    for _ in range(rounds):
        for name, setting in SETTINGS.items():
            for side, run in (("ours", ours), ("peer", theirs)):
                seconds[side].setdefault(name, []).append(run(case, precision, *setting).loop[0])
                forces[side] = dump(FOLDER / "dump")
    best = {side: min(found, key=lambda name: float(np.median(found[name]))) for side, found in seconds.items()}
    medians = {side: float(np.median(seconds[side][best[side]])) for side in best}
    ratios = np.array(seconds["peer"][best["peer"]]) / np.array(seconds["ours"][best["ours"]])
    off = peer.difference(forces["ours"], forces["peer"])
    return {
        "case": f"{case} {precision}", "steps_per_second": 1 / medians["ours"], "setting": best["ours"],
        "peer_steps_per_second": 1 / medians["peer"], "peer_setting": best["peer"], "ratio": float(np.median(ratios)),
        "ratios": ratios.tolist(), "force_difference": off, "bar": BAR,
    }  # fmt: skip


def over_the_engine(case: str, precision: str, rounds: int) -> dict[str, Any]:
    """Processor seconds of a step in LAMMPS over those of ``Engine.evaluate``, in turns."""
    torch.set_num_threads(1)
    engine = load(peer.path_of("L2"), precision=precision, threads=1)
    atoms = CASES[case].build()
    engine.evaluate(atoms)
    pairs = []
    for _ in range(rounds):
        wall, share = ours(case, precision, 1, 1).loop
        before, count = time.process_time(), STEPS["ours", case]
        for _ in range(count):
            engine.evaluate(atoms)
        pairs.append((wall * share, (time.process_time() - before) / count))
    lammps, alone = np.median(pairs, axis=0)
    overhead = float(np.median([a / b for a, b in pairs]) - 1)
    return {
        "case": f"{case} {precision}", "lammps_s": float(lammps), "engine_s": float(alone), "overhead": overhead,
        "bar": OVERHEAD,
    }  # fmt: skip


def main() -> int:
    """Runs what was asked for; exit code 0 if every bar is met."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", default="", help="cases whose name contains this")
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args()
    FOLDER.mkdir(parents=True, exist_ok=True)
    peer.FOLDER.mkdir(parents=True, exist_ok=True)
    precisions = ("float64", "float32")
    for precision in precisions:
        name = "L2" if precision == "float64" else "L2_f32"
        write_prepared(read_model(peer.path_of(name)).model, FOLDER / f"{precision}.prepared")
    cases = [c for c in ("water192", "water1536") if options.only in c]
    for case in cases:
        write_data(FOLDER / f"{case}.data", CASES[case].build()[0], ["O", "H"])
    about = {"processor": peer.processor(), "rounds": options.rounds, "programs": str(DRIVERS.relative_to(peer.ROOT))}
    console = Console(width=150)
    speed = Table("case", "ours, steps/s", "as", "DeePMD-kit, steps/s", "as", "times faster", "forces differ", "bar")
    over = Table("case", "a step in LAMMPS, CPU s", "Engine.evaluate, CPU s", "overhead", "bar")
    rows: list[dict[str, Any]] = []

    def keep(row: dict[str, Any]) -> None:
        """Each row is in the file, and told, as soon as it is known."""
        rows.append(row)
        (peer.ROOT / "build" / "bench_lammps.json").write_text(
            json.dumps({**about, "rows": rows}, indent=1), encoding="utf-8"
        )
        told = f"{row['ratio']:.1f} times DeePMD-kit" if "ratio" in row else f"{100 * row['overhead']:.1f} % overhead"
        print(f"{row['case']}: {told}", file=sys.stderr, flush=True)

    for case in cases:
        for precision in precisions:
            o = over_the_engine(case, precision, options.rounds)
            over.add_row(
                o["case"], f"{o['lammps_s']:.4f}", f"{o['engine_s']:.4f}", f"{100 * o['overhead']:.1f} %", "5 %"
            )
            keep(o)
    console.print(over)
    if (peer.PEER.parent / "lmp").exists():
        for case in cases:
            for precision in precisions:
                r = against_deepmd(case, precision, options.rounds)
                speed.add_row(
                    r["case"], f"{r['steps_per_second']:.3g}", r["setting"], f"{r['peer_steps_per_second']:.3g}",
                    r["peer_setting"], f"{r['ratio']:.1f}", f"{r['force_difference']:.1e}", f"{BAR:.0f}",
                )  # fmt: skip
                keep(r)
        console.print(speed)
    met = [r["ratio"] >= r["bar"] if "ratio" in r else r["overhead"] <= r["bar"] for r in rows]
    return int(not all(met))


if __name__ == "__main__":
    sys.exit(main())
