"""Proof that files we write run in DeePMD-kit: write here, evaluate there, compare.

    python bench/speed/peer_check.py write FOLDER                   (our environment)
    build/peer/bin/python bench/speed/peer_check.py compare FOLDER  (DeePMD-kit's)

``make peer-check`` does both. Models: the bundled one, every fixture of the tests, and one made in memory here.
"""

from __future__ import annotations

import sys
import warnings
from pathlib import Path

import numpy as np

DATA = Path(__file__).parents[2] / "tests" / "data"
TOLERANCES = {"energy": 1e-9, "force": 1e-9, "virial": 1e-8}
SINGLE = dict.fromkeys(TOLERANCES, 5e-5)  # where the file's own nets are float32


def write(folder: Path) -> None:
    """Writes each model as .dp with a few structures and our results."""
    from dataclasses import replace

    import torch

    from dpa1_fast import DPA1, DeepPot
    from dpa1_fast.checkpoint import bundled, read_model, write_model

    folder.mkdir(parents=True, exist_ok=True)
    models = {name: read_model(name).model for name in bundled()}
    for path in sorted([*DATA.glob("*.pt"), *DATA.glob("*.pth"), *DATA.glob("*.dp")]):
        for head in ("liquid", "vapour") if path.stem == "two_heads" else (None,):
            models[f"{path.stem}_{head or path.suffix[1:]}"] = read_model(path, head).model
    torch.manual_seed(0)
    base = models["concat_hard_dp"].config
    made = replace(base, type_map=("Na", "Cl"), attn_layer=1, smooth_type_embedding=True, tebd_input_mode="strip")
    models["made_in_memory"] = DPA1(made).set_dtype(torch.float64)
    rng = np.random.default_rng(0)
    for name, model in models.items():
        write_model(model, folder / f"{name}.dp")
        c = model.config
        cell = np.diag([4.2, 4.5, 4.8])
        grid = np.stack(np.meshgrid(*[np.arange(2)] * 3), -1).reshape(-1, 3) @ (cell / 2)
        coord = grid + rng.uniform(-0.3, 0.3, (8, 3))
        types = rng.integers(0, c.ntypes, 8)
        parameters = {}
        if c.fitting.numb_fparam:
            parameters = {"fparam": rng.normal(size=2), "aparam": rng.normal(size=(8, 1))}
        e, f, v = DeepPot(folder / f"{name}.dp").eval(coord, cell.reshape(1, 9), types, **parameters)
        kept = {"coord": coord, "cell": cell, "type": types, **parameters}
        single = "float32" in (c.precision, c.fitting.precision)
        np.savez(folder / f"{name}.npz", energy=e, force=f, virial=v, single=single, **kept)
    print(f"{len(models)} models written to {folder}")


def compare(folder: Path) -> int:
    """Converts each .dp with DeePMD-kit, evaluates it there, and compares with what stands beside it."""
    from deepmd.entrypoints.convert_backend import convert_backend
    from deepmd.infer import DeepPot

    worst = 0
    for path in sorted(folder.glob("*.dp")):
        with np.load(path.with_suffix(".npz")) as file:
            a = dict(file)
        frozen = path.with_suffix(".pth")
        convert_backend(INPUT=str(path), OUTPUT=str(frozen))
        parameters = {k: a[k] for k in ("fparam", "aparam") if k in a}
        found = DeepPot(str(frozen)).eval(a["coord"][None], a["cell"].reshape(1, 9), a["type"], **parameters)
        differences = {k: float(np.abs(x - a[k]).max()) for k, x in zip(TOLERANCES, found, strict=True)}
        limits = SINGLE if a["single"] else TOLERANCES
        ok = all(differences[k] < limits[k] for k in limits)
        worst |= not ok
        told = ", ".join(f"{k} {x:.1e}" for k, x in differences.items())
        print(f"{'same' if ok else 'DIFFERENT':10}{path.stem:28}{told}")
    return int(worst)


if __name__ == "__main__":
    warnings.simplefilter("ignore")
    sys.exit({"write": write, "compare": compare}[sys.argv[1]](Path(sys.argv[2])))
