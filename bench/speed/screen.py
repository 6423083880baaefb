"""The screening job at its size: memory, what it costs beside the engine, and how many structures DeePMD-kit does.

    make bench-screen                     everything (about fifteen minutes); table, and build/bench_screen.json
    python -m bench.speed.screen memory         100,000 structures against 10,000: peak memory
    python -m bench.speed.screen overhead       against the engine on structures that are in memory already
    python -m bench.speed.screen peer           a loop over DeePMD-kit's ASE calculator, same model, 500 structures

Structures are of 2 to 40 atoms: clusters, slabs and crystals in turn. What is compared takes turns, ratios are medians
of turns. The command runs in a process of its own, as a user starts it; its time is that of the job, without the second
that Python takes to start and torch to load, which is told beside it.
"""

from __future__ import annotations

import argparse
import gc
import json
import os
import re
import shutil
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from ase import Atoms
from ase.io import read
from ase.io.extxyz import write_extxyz

from bench.cases import model as se_atten
from dpa1_fast import Engine, load
from dpa1_fast.checkpoint import read_model, write_model
from dpa1_fast.structures.batch import collate, neighborhood
from dpa1_fast.structures.structure import from_ase

ROOT = Path(__file__).parents[2]
FOLDER = ROOT / "build" / "bench_screen"
PEER = ROOT / "build" / "peer" / "bin" / "python"
DEMO = "almgcu-demo"

PEER_LOOP = """
import json, sys, time
from ase.io import read
from deepmd.calculator import DP
structures = read(sys.argv[2], ":")
calculator = DP(sys.argv[1])
def one(atoms):
    atoms = atoms.copy()
    atoms.calc = calculator
    forces = atoms.get_forces()
    return atoms.get_potential_energy(), forces
for atoms in structures[:5]:
    one(atoms)
print("ready", flush=True)
for line in sys.stdin:
    began = time.perf_counter()
    results = [one(a) for a in structures]
    spent = time.perf_counter() - began
    print(json.dumps([spent, [float(e) for e, _ in results]]), flush=True)
"""
"""The loop that a user would write."""


def structures(count: int, elements: Sequence[str], spacing: float, seed: int = 0) -> Iterator[Atoms]:
    """Mixed structures of 2 to 40 atoms."""
    rng = np.random.default_rng(seed)
    for k in range(count):
        n = int(rng.integers(2, 41))
        side = int(np.ceil(n ** (1 / 3)))
        grid = np.stack(np.meshgrid(*[np.arange(side)] * 3, indexing="ij"), -1).reshape(-1, 3)[:n]
        positions = grid * spacing + rng.normal(scale=0.04 * spacing, size=(n, 3))
        box = side * spacing
        cell = [None, [box, box, box + 15.0], [box, box, box]][k % 3]
        pbc = [False, (True, True, False), True][k % 3]
        yield Atoms(rng.choice(elements, n), positions=positions, cell=cell, pbc=pbc)


def input_file(name: str, count: int, elements: Sequence[str] = ("Al", "Mg", "Cu"), spacing: float = 2.75) -> Path:
    """An extxyz file of such structures; made once."""
    path = FOLDER / f"{name}{count}.extxyz"
    if not path.exists():
        FOLDER.mkdir(parents=True, exist_ok=True)
        with path.with_suffix(".partial").open("w", encoding="utf-8") as file:
            for atoms in structures(count, elements, spacing):
                write_extxyz(file, [atoms])
        path.with_suffix(".partial").rename(path)
    return path


def model_file(name: str) -> Path:
    """A model as a file that our command and DeePMD-kit's converter read."""
    path = FOLDER / f"{name}.dp"
    if not path.exists():
        FOLDER.mkdir(parents=True, exist_ok=True)
        write_model(read_model(DEMO, None).model if name == "demo" else se_atten(), path, "")
    return path


def command(source: Path, model: Path, *more: str) -> dict[str, float]:
    """Runs ``dpa1-fast screen`` anew. → seconds of the job, of the process, and its peak memory in MB."""
    output = FOLDER / "out"
    shutil.rmtree(output, ignore_errors=True)
    words = [sys.executable, "-m", "dpa1_fast.cli", "screen", str(source), "--model", str(model)]
    began = time.perf_counter()
    process = subprocess.Popen(
        [*words, "--output", str(output), *more], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    said = process.stdout.read()
    _, status, usage = os.wait4(process.pid, 0)
    spent = time.perf_counter() - began
    found = re.search(r" atoms in ([\d.,]+) s", said)
    if status or found is None:
        raise RuntimeError(f"the command failed: {said[-1000:]}")
    return {"job": float(found[1].replace(",", "")), "process": spent, "rss_mb": usage.ru_maxrss / 1024}


# --- the three questions ------------------------------------------------------------------------------------------


def memory(rounds: int) -> dict[str, Any]:
    """Peak memory of 100,000 structures over that of 10,000, and how long they take."""
    model = model_file("demo")
    small = [command(input_file("alloys", 10_000), model) for _ in range(rounds)]
    large = command(input_file("alloys", 100_000), model)
    rss = statistics.median(r["rss_mb"] for r in small)
    return {
        "structures": 100_000, "seconds": large["job"], "per_second": 100_000 / large["job"],
        "rss_mb_10000": rss, "rss_mb_100000": large["rss_mb"], "ratio": large["rss_mb"] / rss, "bar": 1.1,
    }  # fmt: skip


def bare(model: Path, loaded: list[Atoms]) -> float:
    """Seconds of the engine without scheduler, reading or writing: packs of 512 structures one after another, each
    prepared (checks, neighbours), put together and evaluated."""
    engine = load(model, precision="float32")
    began = time.perf_counter()
    for first in range(0, len(loaded), 512):
        parts = [neighborhood(engine.config, from_ase(engine.config, a, "s")) for a in loaded[first : first + 512]]
        batch = collate(engine.config, parts)
        energies = engine.run(batch)[0]
        batch.sum_structures(energies)
    return time.perf_counter() - began


def streamed(model: Path, loaded: list[Atoms]) -> float:
    """Seconds of ``Engine.evaluate``, which prepares the next pack while one is evaluated."""
    engine = load(model, precision="float32")
    began = time.perf_counter()
    engine.evaluate(loaded, on_error="return")
    return time.perf_counter() - began


def overhead(name: str, count: int, rounds: int) -> dict[str, Any]:
    """The whole job, from file to files and report, over the engine alone on the same structures, read before."""
    elements, spacing = (("Al", "Mg", "Cu"), 2.75) if name == "demo" else (("O", "H"), 1.9)
    source, model = input_file("alloys" if name == "demo" else "oh", count, elements, spacing), model_file(name)
    loaded = read(source, ":")
    gc.freeze()  # structures that lie in memory are nothing that the engine should wait for
    seen = [(bare(model, loaded), streamed(model, loaded), command(source, model)["job"]) for _ in range(rounds)]
    engine, stream, job = (statistics.median(x) for x in zip(*seen, strict=True))
    return {
        "model": name, "structures": count, "engine_seconds": engine, "evaluate_seconds": stream, "job_seconds": job,
        "overhead": statistics.median(c / a for a, _, c in seen) - 1.0, "bar": 0.1,
        "overhead_over_evaluate": statistics.median(c / b for _, b, c in seen) - 1.0,
    }  # fmt: skip


def peer(name: str, rounds: int, count: int = 500) -> dict[str, Any]:
    """Structures per second of the command in float32 over those of a loop with DeePMD-kit's ASE calculator."""
    elements, spacing = (("Al", "Mg", "Cu"), 2.75) if name == "demo" else (("O", "H"), 1.9)
    source, model = input_file("alloys" if name == "demo" else "oh", count, elements, spacing), model_file(name)
    theirs = model.with_suffix(".pth")
    if not theirs.exists():
        dp = PEER.with_name("dp")
        subprocess.run([str(dp), "convert-backend", str(model), str(theirs)], check=True, capture_output=True)
    ours = Engine(read_model(str(model), None).model).evaluate(read(source, ":"))
    loop = subprocess.Popen(
        [str(PEER), "-c", PEER_LOOP, str(theirs), str(source)],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True,
    )  # fmt: skip
    assert loop.stdin is not None
    assert loop.stdout is not None
    while (line := loop.stdout.readline()) and line.strip() != "ready":
        pass
    ratios, theirs_seconds, ours_seconds, process_ratios = [], [], [], []
    energies: list[float] = []
    for _ in range(rounds):
        print("go", file=loop.stdin, flush=True)
        spent, energies = json.loads(loop.stdout.readline())
        mine = command(source, model, "--no-report")  # the loop has none either
        theirs_seconds.append(spent)
        ours_seconds.append(mine["job"])
        ratios.append(spent / mine["job"])
        process_ratios.append(spent / mine["process"])
    loop.kill()
    off = max(abs(a.energy - b) / len(a.forces) for a, b in zip(ours, energies, strict=True))
    return {
        "model": name, "structures": count, "deepmd_per_second": count / statistics.median(theirs_seconds),
        "ours_per_second": count / statistics.median(ours_seconds), "ratio": statistics.median(ratios), "bar": 20.0,
        "ratio_with_start": statistics.median(process_ratios), "energy_off_ev_per_atom": off,
    }  # fmt: skip


def main() -> int:
    parser = argparse.ArgumentParser(description="Measures the screening job.")
    parser.add_argument("what", nargs="*", choices=["memory", "overhead", "peer", []], default=[])
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args()
    FOLDER.mkdir(parents=True, exist_ok=True)
    target = ROOT / "build" / "bench_screen.json"
    found: dict[str, Any] = json.loads(target.read_text(encoding="utf-8")) if target.exists() else {}
    what = options.what or ["memory", "overhead", "peer"]
    if "memory" in what:
        found["memory"] = memory(options.rounds)
    if "overhead" in what:
        found["overhead, se_atten"] = overhead("se_atten", 10_000, options.rounds)
        found["overhead, demo"] = overhead("demo", 100_000, options.rounds)
    if "peer" in what:
        if not PEER.exists():
            print("DeePMD-kit is not installed: make peer", file=sys.stderr)
            return 2
        found["peer, demo"] = peer("demo", options.rounds)
        found["peer, se_atten"] = peer("se_atten", options.rounds)
    target.write_text(json.dumps(found, indent=1), encoding="utf-8")
    for name, figures in found.items():
        print(name, "  ".join(f"{k} {v:.4g}" if isinstance(v, float) else f"{k} {v}" for k, v in figures.items()))
    return 0


if __name__ == "__main__":
    sys.exit(main())
