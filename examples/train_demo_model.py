"""Trains the bundled model ``almgcu-demo``: torch only, no file between training and engine.

The labels come from a machine-learned teacher (CHGNet 0.3.0), not from DFT: errors say how well the model copies its
teacher. The model is small on purpose; it is there so that a fresh clone can run, not to publish with.

    python examples/train_demo_model.py --data DATA/almgcu --out dpa1_fast/models/almgcu-demo.safetensors

``--data`` holds ``train`` and ``test``, folders of DeePMD-kit systems with energies and forces. The run can be
stopped and started again: it goes on from ``--checkpoint``.
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch

from dpa1_fast import DPA1, DPA1Config, Engine
from dpa1_fast.checkpoint import write_model
from dpa1_fast.config import FittingConfig
from dpa1_fast.kernels import reference as ref
from dpa1_fast.sources.deepmd_data import read_system, systems
from dpa1_fast.structures.batch import Batch, Neighborhood, collate, neighborhood
from dpa1_fast.structures.structure import from_ase

CONFIG = DPA1Config(
    type_map=("Mg", "Al", "Cu"),
    rcut=5.5,
    rcut_smth=1.0,
    sel=(120,),
    neuron=(10, 20, 40),
    axis_neuron=8,
    attn=40,
    attn_layer=2,
    smooth_type_embedding=True,
    precision="float32",
    fitting=FittingConfig(neuron=(64, 64, 64), precision="float32"),
)
DESCRIPTION = (
    "Small DPA-1 for Al-Mg-Cu alloys, trained on labels of the universal potential CHGNet 0.3.0 (not DFT). "
    "For demonstrations and tests."
)


def load_frames(folder: Path) -> list[Any]:
    """All frames of all systems below a folder."""
    return [atoms for system in systems(folder) for atoms in read_system(system, CONFIG.type_map)]


def set_statistics(model: DPA1, parts: list[Neighborhood], energies: np.ndarray) -> None:
    """dstd per type over all ``sel`` slots, padding counted as zero (davg stays zero); energy bias by least squares."""
    c = model.config
    squares, slots = np.zeros((c.ntypes, 4)), np.zeros(c.ntypes)
    for part in parts:
        types, edges = part.structure.types, part.edges
        davg, dstd = torch.zeros(1, 1, 4).double(), torch.ones(1, 1, 4).double()
        d = torch.from_numpy(edges.vector).unsqueeze(0)
        row, _ = ref.environment_matrix(d, davg, dstd, c.rcut_smth, c.rcut, c.env_protection)
        np.add.at(squares, types[edges.center], row[0].numpy() ** 2)
        np.add.at(slots, types, c.nsel)
    std = np.sqrt(squares / slots[:, None])
    std[:, 1:] = np.sqrt((squares[:, 1:].sum(1) / (3 * slots))[:, None])
    counts = np.stack([np.bincount(p.structure.types, minlength=c.ntypes) for p in parts])
    bias, *_ = np.linalg.lstsq(counts.astype(float), energies, rcond=None)
    model.dstd.copy_(torch.from_numpy(np.maximum(std, 0.01)))
    model.out_bias.copy_(torch.from_numpy(bias))


def loss_of(model: DPA1, batch: Batch, energy: torch.Tensor, force: torch.Tensor, progress: float) -> torch.Tensor:
    """DeePMD-kit's loss: prefactors of energy 0.02 → 1 and force 1000 → 1 as the learning rate falls to zero."""
    prediction = model(batch)
    n = torch.bincount(batch.structure).double()
    p_e, p_f = 1.0 + (0.02 - 1.0) * progress, 1.0 + (1000.0 - 1.0) * progress
    e = ((prediction.energy - energy) ** 2 / n).mean()
    f = ((prediction.forces - force) ** 2).mean()
    return p_e * e + p_f * f


def errors(model: DPA1, frames: list[Any]) -> tuple[float, float]:
    """RMS errors against the labels: energy (meV/atom) and force components (meV/Å), through the engine."""
    results = Engine(model, precision="float32").evaluate(frames)
    de = [(r.energy - a.get_potential_energy()) / len(a) for r, a in zip(results, frames, strict=True)]
    df = [(r.forces - a.get_forces()).ravel() for r, a in zip(results, frames, strict=True)]
    return 1e3 * float(np.sqrt(np.mean(np.square(de)))), 1e3 * float(np.sqrt(np.mean(np.concatenate(df) ** 2)))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--checkpoint", type=Path, default=Path("build/almgcu-demo.ckpt"))
    parser.add_argument("--steps", type=int, default=20_000)
    parser.add_argument("--frames-per-step", type=int, default=4)
    parser.add_argument("--threads", type=int, default=1)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    torch.manual_seed(1)

    frames, test = load_frames(args.data / "train"), load_frames(args.data / "test")
    parts = [neighborhood(CONFIG, from_ase(CONFIG, a, f"frame {k}")) for k, a in enumerate(frames)]
    print(f"{len(frames)} frames, up to {max(p.n_filled.max() for p in parts)} neighbours (sel {CONFIG.nsel})")
    energy = np.array([a.get_potential_energy() for a in frames])
    model = DPA1(CONFIG)
    set_statistics(model, parts, energy)
    optimizer = torch.optim.Adam(model.parameters())
    start, order = 0, np.random.default_rng(1)
    args.checkpoint.parent.mkdir(parents=True, exist_ok=True)
    if args.checkpoint.exists():
        saved = torch.load(args.checkpoint, weights_only=True)
        model.load_state_dict(saved["model"])
        optimizer.load_state_dict(saved["optimizer"])
        start = saved["step"]
        order = np.random.default_rng(start)
    began = time.time()
    for step in range(start, args.steps):
        progress = 0.0005 ** (step / args.steps)
        for group in optimizer.param_groups:
            group["lr"] = 2e-3 * progress
        pick = order.choice(len(frames), args.frames_per_step, replace=False)
        batch = collate(CONFIG, [parts[k] for k in pick])
        force = torch.from_numpy(np.concatenate([frames[k].get_forces() for k in pick]))
        loss = loss_of(model, batch, torch.from_numpy(energy[pick]), force, progress)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        if (step + 1) % 500 == 0 or step + 1 == args.steps:
            e, f = errors(model, test)
            spent = time.time() - began
            print(f"step {step + 1}: test energy {e:.1f} meV/atom, force {f:.0f} meV/Å, {spent:.0f} s", flush=True)
            state = {"model": model.state_dict(), "optimizer": optimizer.state_dict(), "step": step + 1}
            torch.save(state, args.checkpoint)
    e, f = errors(model, test)
    args.out.parent.mkdir(parents=True, exist_ok=True)
    write_model(model, args.out, f"{DESCRIPTION} Test RMSE: {e:.1f} meV/atom, {f:.0f} meV/Å.")


if __name__ == "__main__":
    main()
