"""Proof that files we write run in DeePMD-kit: write here, evaluate there, compare. And what its DeepPot looks like.

    python bench/speed/peer_check.py write FOLDER                               (our environment)
    build/peer/bin/python bench/speed/peer_check.py compare FOLDER              (DeePMD-kit's)
    build/peer/bin/python bench/speed/peer_check.py record tests/data/deep_pot  (DeePMD-kit's)

``make peer-check`` does all three; a test holds our ``DeepPot`` against the record. Models: the bundled one, every
fixture of the tests, and one made in memory here.
"""

from __future__ import annotations

import sys
import warnings
from functools import partial
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


def record(folder: Path) -> None:
    """Writes what DeePMD-kit's DeepPot takes and gives: record.json (signatures, facts) and record.npz (arrays)."""
    import inspect
    import json
    import tempfile

    from deepmd.entrypoints.convert_backend import convert_backend
    from deepmd.infer import DeepPot
    from deepmd.pt.infer.deep_eval import DeepEval

    def parameters(function) -> list:
        found = list(inspect.signature(function).parameters.values())
        return [[p.name, p.kind.name, None if p.default is p.empty else repr(p.default)] for p in found[1:]]

    names = [name for name in dir(DeepPot) if not name.startswith("_")]
    members = {name: getattr(DeepPot, name) for name in names}
    methods = {name: parameters(m) for name, m in members.items() if callable(m)}
    methods |= {"__init__": parameters(DeepPot.__init__)}
    known = {"__init__": parameters(DeepEval.__init__), "eval": parameters(DeepEval.eval)}
    models, arrays = {}, {}
    with tempfile.TemporaryDirectory() as temporary:
        for path in sorted([*DATA.glob("*.dp"), DATA / "v2_parameters.pt", DATA / "econf_float32.pth"]):
            file = path
            if path.suffix == ".dp":
                file = Path(temporary) / f"{path.stem}.pth"
                convert_backend(INPUT=str(path), OUTPUT=str(file))
            models[path.name], more = _facts(partial(DeepPot, str(file)), path.name)
            arrays |= more
    facts = {
        "methods": methods,
        "properties": [name for name, m in members.items() if not callable(m)],
        "keywords of the PyTorch backend": known,
        "models": models,
    }
    (folder / "record.json").write_text(json.dumps(facts, indent=1) + "\n", encoding="utf-8")
    np.savez_compressed(folder / "record.npz", **arrays)
    print(f"{len(methods)} methods and {len(models)} models recorded in {folder}")


def _facts(make, name: str) -> tuple[dict, dict]:
    """What one model says and gives: plain facts, and arrays by ``model.what``. A new DeepPot for each call, because
    with ``atom_ener`` 3.2.0 fails in all but the first evaluation."""
    potential = make()
    ask = ("get_type_map", "get_ntypes", "get_ntypes_spin", "get_rcut", "get_dim_fparam", "get_dim_aparam",
           "get_sel_type", "get_model_size", "get_observed_types", "get_model_def_script", "has_default_fparam",
           "has_chg_spin_ebd", "has_default_chg_spin")  # fmt: skip
    facts = {what: getattr(potential, what)() for what in ask}
    facts |= {what: getattr(potential, what) for what in ("has_efield", "has_spin", "has_hessian", "use_spin")}
    facts["keys of serialize"] = sorted(potential.serialize())
    rng = np.random.default_rng(0)
    cells = np.tile(np.diag([4.2, 4.5, 4.8]), (2, 1, 1))
    grid = np.stack(np.meshgrid(*[np.arange(2)] * 3), -1).reshape(-1, 3)[:5] * 2.1
    given = {"coords": grid + rng.uniform(-0.3, 0.3, (2, 5, 3)), "cells": cells.reshape(2, 9)}
    given["atom_types"] = np.array([1, 0, -1, potential.get_ntypes() - 1, 0])
    if potential.get_dim_fparam():
        given["fparam"] = rng.normal(size=(2, potential.get_dim_fparam()))
        given["aparam"] = rng.normal(size=(2, 5, potential.get_dim_aparam()))
    calls = {"eval": {}, "eval atomic": {"atomic": True}, "eval_descriptor": {}, "eval_fitting_last_layer": {},
             "eval_embedding": {}, "eval_embedding fp64": {"dtype": "fp64"}}  # fmt: skip
    arrays = {f"{name}.given.{what}": x for what, x in given.items()}
    arrays[f"{name}.eval_typeebd.0"] = potential.eval_typeebd()
    for call, more in calls.items():
        found = getattr(make(), call.split()[0])(**given, **more)
        for k, x in enumerate(found if isinstance(found, tuple) else (found,)):
            arrays[f"{name}.{call}.{k}"] = x
    return facts, arrays


if __name__ == "__main__":
    warnings.simplefilter("ignore")
    sys.exit({"write": write, "compare": compare, "record": record}[sys.argv[1]](Path(sys.argv[2])))
