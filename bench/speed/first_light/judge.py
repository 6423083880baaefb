"""What the card is judged by, made where time costs nothing: ``python -m bench.speed.first_light.judge DATA``.

Into DATA: the models; ``judge_<model>_<case>.npz`` with forces in float64 by an engine that has nothing to do with the
card; ``kernels_<model>_<precision>.pt.xz``, each kernel's work by Triton's interpreter. What is there is kept.
"""

from __future__ import annotations

import argparse
import os
import shutil
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np

os.environ["TRITON_INTERPRET"] = "1"  # before anything loads triton

from bench import cases
from bench.speed.gpu import prepare, spread

from . import BARS
from .place import FULL, LARGEST, MODELS, PARITY, SIZES, TINY, structures

DEEPMD_CASES = ("nopbc_mol", "pbc_tri_outside", "pbc_dense_over_sel", "virtual_tail", "pbc_tiny2")
DEEPMD_MODELS = (
    "P02_concat_L2_smooth_davg",
    "P03_strip_L0",
    "P04_strip_L2_onesided_excl",
    "P10_fparam_aparam",
    "P12_onetype_L3",
)
"""Of DeePMD-kit's cases: few, since each model has kernels of its own to be compiled."""
PEER_MODELS = {
    "attention": "a_L2_f32/model.pth",
    "no_attention": "b_L0_f32/model.pth",
    "compressed": "d_L0strip/model_compressed.pth",
}
"""Of the se_atten example's size, as DeePMD-kit froze them."""
BIG = ("compressed",)


def models(data: Path) -> None:
    """The models, with fixed weights."""
    from dpa1_fast.checkpoint import write_model

    for name, options in MODELS.items():
        file = data / f"{name}.safetensors"
        if not file.exists():
            write_model(cases.model(**options), file, "the se_atten example's size, random weights")


def forces(data: Path, names: Sequence[str]) -> None:
    """Energies, forces and virials of cases in float64."""
    from dpa1_fast import Engine
    from dpa1_fast.checkpoint import read_model

    for model_name in MODELS:
        model = read_model(data / f"{model_name}.safetensors").model
        engine = Engine(model, device="cpu")
        for name in names if model_name == "attention" else (PARITY[0], TINY):
            file = data / f"judge_{model_name}_{name}.npz"
            if file.exists():
                continue
            atoms = structures(name)
            energies, _, found, virials = engine.run(prepare(model, atoms))
            moved = spread(model, structures(FULL) if name == LARGEST else atoms)  # the same liquid
            if name == LARGEST:  # judges precisions that are no better
                energies, found = energies.float(), found.float()
            np.savez_compressed(file, energies=energies, forces=found, virials=virials, spread=moved)
            print(f"{file.name}: {len(found)} atoms, spread {moved:.1e}", flush=True)


def recordings(data: Path, architecture: str, precisions: Sequence[str]) -> None:
    """Each kernel's work on a few atoms of water."""
    from dpa1_fast.checkpoint import read_model

    from . import kernels

    for name in MODELS:
        model = read_model(data / f"{name}.safetensors").model
        batch = prepare(model, structures("water192"))
        for precision in precisions:
            file = data / f"kernels_{name}_{precision}.pt.xz"
            if file.exists():
                continue
            launches = [
                {**x, "architecture": architecture} for x in kernels.record(model, batch, precision, architecture)
            ]
            kernels.write(launches, file)
            print(f"{file.name}: {len(launches)} launches, {file.stat().st_size / 2**20:.1f} MiB", flush=True)


def deepmd(data: Path, shared: Path, big: bool) -> None:
    """Files and results of DeePMD-kit, where a folder of them is at hand; its models to be timed."""
    for name in DEEPMD_MODELS:
        source = next(
            (f for f in (shared / "public" / name / x for x in ("model.dp", "model.pth")) if f.exists()), None
        )
        if source is None:
            continue
        to = data / "deepmd" / name
        to.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(source, to / source.name)
        with np.load(source.parent / "cases.npz") as arrays:
            np.savez_compressed(
                to / "cases.npz", **{k: arrays[k] for k in arrays.files if k.split(".")[0] in DEEPMD_CASES}
            )
    for name, file in PEER_MODELS.items():
        if (shared / "water" / file).exists() and (big or name not in BIG):
            (data / "peer").mkdir(parents=True, exist_ok=True)
            shutil.copyfile(shared / "water" / file, data / "peer" / f"{name}.pth")


def main() -> int:
    """Makes what is missing."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("data", type=Path)
    parser.add_argument("--shared", type=Path, default=Path("../shared/cases"), help="models and cases of DeePMD-kit's")
    parser.add_argument("--architecture", default="sm_90")
    parser.add_argument("--precision", nargs="+", default=list(BARS))
    parser.add_argument("--quick", action="store_true", help="no large systems")
    parser.add_argument("--big", action="store_true", help="the compressed model too (14 MB)")
    options = parser.parse_args()
    options.data.mkdir(parents=True, exist_ok=True)
    models(options.data)
    deepmd(options.data, options.shared, options.big)
    names = dict.fromkeys((TINY, *PARITY, *SIZES, LARGEST))
    forces(options.data, [n for n in names if n == TINY or not (options.quick and cases.CASES[n].large)])
    recordings(options.data, options.architecture, options.precision)
    return 0


if __name__ == "__main__":
    sys.exit(main())
