"""Batches of 64 small structures of many elements: a training step here and of DeePMD-kit's ``mixed_type`` data.

    python bench/speed/train_mixed.py DATA [--peer build/peer/bin/dp] [--rounds 3] [--precision float32]

``DATA`` holds DeePMD-kit's ``mixed_type`` systems, one folder a number of atoms. Here a batch holds structures of all
sizes and pads none. DeePMD-kit takes a batch out of one folder and pads neighbour lists to ``sel``; it is given the
folder whose size is nearest to the mean, which is to its advantage: nothing is padded by atoms. A figure is the
difference of two runs of different length, one thread each, processor time, in turns.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np

BATCH = 64
STEPS = {"theirs": (2, 7), "ours": (5, 45)}
MODEL = {
    "rcut": 6.0, "rcut_smth": 0.5, "sel": 220, "neuron": [16, 32, 64], "axis_neuron": 12, "attn": 64, "attn_layer": 2,
}  # fmt: skip
"""Of ``dpa1-68``."""
NET = [128, 128, 128]


def dataset(root: Path) -> tuple[dict[int, Path], float, list[str]]:
    """Folders by their number of atoms, the mean number, and the types."""
    folders = {int(p.name): p for p in root.iterdir() if p.name.isdigit()}
    counts = {n: len(np.load(p / "set.000" / "energy.npy")) for n, p in folders.items()}
    mean = sum(n * k for n, k in counts.items()) / sum(counts.values())
    return folders, mean, (next(iter(folders.values())) / "type_map.raw").read_text(encoding="utf-8").split()


def deepmd_input(system: Path, types: list[str], steps: int, precision: str) -> str:
    """An ``input.json``: energies, forces and virials, Adam."""
    descriptor = {"type": "se_atten", "attn_dotr": True, "precision": precision, "seed": 1, **MODEL}
    fitting = {"neuron": NET, "precision": precision, "seed": 1}
    told = {
        "model": {"type_map": types, "descriptor": descriptor, "fitting_net": fitting},
        "learning_rate": {"type": "exp", "start_lr": 1e-3, "stop_lr": 1e-5, "decay_steps": 1000},
        "loss": {"type": "ener"} | {f"{end}_pref_{k}": 1.0 for k in "efv" for end in ("start", "limit")},
        "training": {
            "training_data": {"systems": [str(system)], "batch_size": BATCH},
            "numb_steps": steps, "seed": 1, "disp_freq": 1000, "save_freq": 1000,
        },
    }  # fmt: skip
    return json.dumps(told)


def our_input(root: Path, atoms: int, steps: int, precision: str) -> str:
    """The same as a TOML of ours, for batches of so many atoms."""
    model = "\n".join(f"{k} = {json.dumps(v)}" for k, v in (MODEL | {"sel": [MODEL["sel"]]}).items())
    loss = "\n".join(f"{k} = [1.0, 1.0]" for k in ("energy", "force", "virial"))
    return (
        f'[model]\nprecision = "{precision}"\n{model}\n[model.fitting]\nneuron = {NET}\nprecision = "{precision}"\n'
        f'[data]\ntrain = ["{root}"]\nbatch_atoms = {atoms}\n[loss]\n{loss}\n'
        f"[training]\nsteps = {steps}\ndisplay = 1000\n"
    )


def spent(command: list[str], folder: Path) -> float:
    """Processor seconds of a command."""
    threads = ("OMP_NUM_THREADS", "DP_INTRA_OP_PARALLELISM_THREADS", "DP_INTER_OP_PARALLELISM_THREADS")
    environment = os.environ | dict.fromkeys(threads, "1") | {"PYTHONPATH": str(Path.cwd())}
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True)
    if done.returncode:
        raise SystemExit(f"{' '.join(command)} failed:\n{done.stderr[-2000:]}")
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def main() -> None:
    """See the top of this file."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path)
    parser.add_argument("--peer", type=Path, default=Path("build/peer/bin/dp"), help="DeePMD-kit's dp")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--precision", default="float32")
    given = parser.parse_args()
    root, peer = given.data.resolve(), given.peer.absolute()
    folders, mean, types = dataset(root)
    size = min(folders, key=lambda n: abs(n - mean))

    def seconds(who: str, steps: int) -> float:
        with tempfile.TemporaryDirectory() as scratch:
            folder = Path(scratch)
            if who == "theirs":
                told = deepmd_input(folders[size], types, steps, given.precision)
                (folder / "input.json").write_text(told, encoding="utf-8")
                return spent([str(peer), "--pt", "train", "input.json", "--skip-neighbor-stat"], folder)
            told = our_input(root, round(BATCH * mean), steps, given.precision)
            (folder / "input.toml").write_text(told, encoding="utf-8")
            words = ["train", "input.toml", "-o", "out", "--threads", "1", "--no-check"]
            return spent([sys.executable, "-m", "dpa1_fast", *words], folder)

    rounds = []
    for _ in range(given.rounds):
        step = {}
        for who, (few, many) in STEPS.items():
            step[who] = (seconds(who, many) - seconds(who, few)) / (many - few)
        rounds.append(step["theirs"] / size / (step["ours"] / mean))
        print(
            f"{given.precision}: {BATCH} structures of {size} atoms take DeePMD-kit {step['theirs']:.3f} s, of "
            f"{mean:.2f} atoms here {step['ours']:.3f} s; by atoms {rounds[-1]:.1f} times", flush=True,
        )  # fmt: skip
    print(f"median of {len(rounds)}: {statistics.median(rounds):.1f} times the structures per second")


if __name__ == "__main__":
    main()
