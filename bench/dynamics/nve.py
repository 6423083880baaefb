"""How well energy is conserved: liquid water at constant energy, in each precision from the same start.

    python -m bench.dynamics.nve DATA [--model FILE] [--steps 4000]

DATA is a folder with systems of labelled water in DeePMD-kit's ``npy`` format, ``data_0``, ``data_1``, ``data_2``.
Without a model a small one is trained on it first (``TRAINING``, ``AGAIN``; ten minutes); then the first frame is
brought to 300 K by Langevin's equation, and from there ``dpa1-fast md`` goes on by velocity Verlet. The drift is the
slope of the total energy by least squares over all steps; its error is told from the scatter of twenty blocks.
Everything, with ``nve.json``, lies in build/nve; what was interrupted goes on.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from pathlib import Path

import numpy as np
from ase import Atoms
from ase.io import read, write

from dpa1_fast.sources import find_sources

FOLDER = Path(__file__).parents[2] / "build" / "nve"
PRECISIONS = ("float64", "float32", "bfloat16")
BLOCKS = 20
TIMES, PLUS = 2.0, 1.0
"""float32 may drift so many times as much as float64, plus so many µeV/atom/ps."""
TRAINING = """
[model]
rcut = 5.0
rcut_smth = 0.5
neuron = [8, 16, 32]
axis_neuron = 8
attn = 32
attn_layer = 1
smooth_type_embedding = true
[model.fitting]
neuron = [48, 48, 48]
[data]
train = {train}
valid = {valid}
batch_atoms = 192
[training]
steps = 1500
validate = 750
save = 750
seed = 1
clip = 10.0
"""
AGAIN = """
[data]
batch_atoms = 192
[training]
steps = 2400
validate = 1200
save = 600
seed = 2
clip = 10.0
"""
"""A second leg makes it good enough for water to stay water."""
LEARNING = """
[loss]
energy = [0.02, 1]
force = [1000, 10]
[learning_rate]
kind = "cosine"
stop_lr = 1e-5
"""


def dpa1_fast(*words: str | Path) -> None:
    """Runs a command of ours with one thread."""
    subprocess.run([sys.executable, "-m", "dpa1_fast", *map(str, words), "--threads", "1"], check=True)


def train(data: Path) -> Path:
    """A small model of the data."""
    first, second, held_out = (str((data / f"data_{k}").resolve()) for k in range(3))
    settings, more = FOLDER / "water.toml", FOLDER / "again.toml"
    systems = {"train": json.dumps([first, second]), "valid": json.dumps([held_out])}
    settings.write_text(TRAINING.format(**systems) + LEARNING + "start_lr = 0.003\n", encoding="utf-8")
    more.write_text(AGAIN + LEARNING + "start_lr = 0.001\nwarmup_steps = 100\n", encoding="utf-8")
    dpa1_fast("train", settings, "--output", FOLDER / "first")
    begin, out = FOLDER / "first" / "model.safetensors", FOLDER / "model"
    options = ("--valid", held_out, "--settings", more, "--no-shift-bias", "--output", out)
    dpa1_fast("finetune", begin, first, second, *options)
    return out / "model.safetensors"


def warmed(data: Path, model: Path, steps: int, timestep: float) -> Path:
    """A file with the first frame after so many steps at 300 K, with its momenta."""
    begin, end, run = FOLDER / "frame.extxyz", FOLDER / "start.extxyz", FOLDER / "warm"
    found = next(find_sources([str(data / "data_0")], ("O", "H"), (), None)[0].read())
    assert found.atoms is not None
    frame = found.atoms
    write(begin, Atoms(frame.symbols, frame.positions, cell=frame.cell, pbc=True))
    options = ("--ensemble", "langevin", "--temperature", "300", "--friction", "10", "--precision", "float32")
    dpa1_fast("md", begin, "-m", model, "-o", run, "-n", str(steps), "--timestep", str(timestep), *options)
    write(end, read(run / "trajectory.extxyz", -1))
    return end


def drift(folder: Path, atoms: int) -> dict[str, float]:
    """Of a run's log: slope, its error, scatter about the line (µeV/atom, per ps), mean temperature (K)."""
    log = np.genfromtxt(folder / "log.csv", delimiter=",", names=True)
    time, energy = log["time_ps"], 1e6 * (log["conserved"] - log["conserved"][0]) / atoms
    slope, offset = np.polyfit(time, energy, 1)
    scatter = energy - slope * time - offset
    kept = len(time) // BLOCKS * BLOCKS
    t, e = (x[:kept].reshape(BLOCKS, -1).mean(1) for x in (time, scatter))
    error = np.sqrt((e**2).sum() / (BLOCKS - 2) / ((t - t.mean()) ** 2).sum())
    return {
        "steps": len(time) - 1, "drift": float(slope), "error": float(error), "scatter": float(scatter.std()),
        "temperature": float(log["temperature"].mean()),
    }  # fmt: skip


def main() -> int:
    """Exit code 0 if float32 drifts as little as it must."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path)
    parser.add_argument("--model", type=Path, help="of water; without it a small one is trained")
    parser.add_argument("--steps", type=int, default=4000)
    parser.add_argument("--timestep", type=float, default=0.5, help="fs")
    parser.add_argument("--warm", type=int, default=600, help="steps at 300 K before")
    options = parser.parse_args()
    FOLDER.mkdir(parents=True, exist_ok=True)
    model = options.model or train(options.data)
    start = warmed(options.data, model, options.warm, options.timestep)
    atoms = len(read(start))
    rows = {}
    for precision in PRECISIONS:
        run = FOLDER / precision
        told = ("-n", str(options.steps), "--timestep", str(options.timestep), "--precision", precision, "--log", "1")
        dpa1_fast("md", start, "-m", model, "-o", run, *told)
        rows[precision] = drift(run, atoms)
        r = rows[precision]
        print(
            f"{precision:9} {r['drift']:8.2f} ± {r['error']:.2f} µeV/atom/ps, scatter {r['scatter']:.1f} µeV/atom, "
            f"{r['temperature']:.0f} K, {r['steps']:,} steps",
            flush=True,
        )
    (FOLDER / "nve.json").write_text(json.dumps({"model": str(model), **rows}, indent=1) + "\n", encoding="utf-8")
    return int(abs(rows["float32"]["drift"]) > TIMES * abs(rows["float64"]["drift"]) + PLUS)


if __name__ == "__main__":
    sys.exit(main())
