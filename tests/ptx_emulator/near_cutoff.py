"""Neighbours just inside the cut-off in compiled kernels.

    echo '["coordinates"]' | python -m ptx_emulator.near_cutoff > results.json

{"kernels": that have an environment in them, "cases": {name: {"kernels": of these, launched, "rows": largest relative
difference of a number in the environment's rows from the reference's, for each launch that stores them, "gradients": of
an edge's dE/dd from the CPU engine's}}}
"""

from __future__ import annotations

import json
import os
import sys
from dataclasses import replace
from typing import Any

os.environ.pop("TRITON_INTERPRET", None)
os.environ.setdefault("TRITON_DEFAULT_FP_FUSION", "1")

import numpy as np
import torch
from ase import Atoms
from kernel_cases import random_model, run

from dpa1_fast import DPA1, DPA1Config, Engine
from dpa1_fast.kernels import reference
from dpa1_fast.kernels.prepare import bases
from dpa1_fast.kernels.triton.evaluator import TritonEvaluator
from dpa1_fast.kernels.triton.stand_ins import kernels, standing_in
from dpa1_fast.structures.batch import Batch, collate, neighborhood
from dpa1_fast.structures.structure import from_ase

from .evaluate import BASE
from .kernels import emulated
from .machine import SCHEDULES

NARROW: dict[str, Any] = {"neuron": (4, 8, 16), "attn": 16, "attn_layer": 1, "smooth_type_embedding": False}
CASES: dict[str, tuple[dict[str, Any], str]] = {
    "all channels": (NARROW, "float32"), "coordinates": (NARROW, "bfloat16"),
    "no attention": (NARROW | {"attn_layer": 0}, "float32"),
    "no attention, by the net": (NARROW | {"attn_layer": 0}, "float32"),
}  # fmt: skip
GAPS = (1e-4, 3e-5, 1e-5, 1e-6)
"""Å from a neighbour to the cut-off: so near that its direction is divided by 1e-12."""


def with_environment() -> list[str]:
    """Kernels that are told the cut-off."""
    return sorted(k for k, v in kernels().items() if "RCUT" in v.arg_names)


def structures(config: DPA1Config) -> list[Atoms]:
    """An atom with three neighbours close by, and one at the cut-off; only the pair with that one is near it."""
    near = [[0.9, 0.4, 0.1], [-0.2, -1.1, 0.5], [0.3, -0.2, -1.2]]
    out = []
    for k, gap in enumerate(GAPS):
        direction = np.random.default_rng(k).normal(size=3)
        far = direction / np.linalg.norm(direction) * (config.rcut - gap)
        out.append(Atoms("OHHOH", positions=[[0.0, 0.0, 0.0], *near, far]))
    return out


class Watched:
    """Stands where a kernel stands; keeps what each launch was given."""

    def __init__(self, kernel: Any, seen: list[dict[str, Any]]) -> None:
        self.kernel, self.seen = kernel, seen

    def __getitem__(self, grid: Any) -> Any:
        def launch(*args: Any, **kwargs: Any) -> None:
            self.kernel[grid](*args, **kwargs)
            names = self.kernel.function.arg_names
            self.seen.append({"kernel": self.kernel.name, **dict(zip(names, args, strict=False)), **kwargs})

        return launch


def rows_off(model: DPA1, batch: Batch, launch: dict[str, Any]) -> float:
    """How far rows that a launch has stored are from the reference's, relative to each number."""
    first, at, count = (launch[k].tolist() for k in ("first", "at", "count"))
    edges = torch.cat([torch.arange(f, f + n) for f, n in zip(first, count, strict=True)])
    found = torch.cat([launch["row"][a - at[0] : a - at[0] + n] for a, n in zip(at, count, strict=True)])
    kind = batch.types[batch.center[edges]]
    config = model.config
    right, _ = reference.environment_matrix(
        batch.vector[edges][:, None], model.davg[kind][:, None], model.dstd[kind][:, None], config.rcut_smth,
        config.rcut, config.env_protection,
    )  # fmt: skip
    return float((found / right[:, 0] - 1).abs().max())


def evaluate(name: str) -> dict[str, Any]:
    """One case, contracted wherever it may be."""
    options, precision = CASES[name]
    model = random_model(DPA1Config(**(BASE | options)))
    parts = [neighborhood(model.config, from_ase(model.config, a, "x")) for a in structures(model.config)]
    batch = collate(model.config, parts)
    active = torch.zeros(len(batch.types), dtype=torch.bool)
    active[batch.offsets[:-1]] = True
    batch = replace(batch, active=active)
    evaluator = TritonEvaluator(model.weights(), precision, torch.device("cpu"), "sm_90", 1 << 30)
    if name.endswith("by the net"):
        evaluator.model.leave_series()
    seen: list[dict[str, Any]] = []
    watched = with_environment()
    with (
        emulated("sm_90", SCHEDULES[0], contract=True),
        standing_in(lambda name, kernel: Watched(kernel, seen) if name in watched else kernel),
    ):
        found = run(evaluator, batch)
    judge = Engine(model, device="cpu").run(batch)
    counted = judge[1].norm(dim=1) > 0  # those of atoms that are evaluated
    off = (found[1] - judge[1])[counted].norm(dim=1) / judge[1][counted].norm(dim=1)
    rows = [rows_off(model, batch, x) for x in seen if model.config.attn_layer and "row" in x]
    return {"kernels": sorted({x["kernel"] for x in seen}), "gradients": float(off.max()), "rows": rows}


def main() -> None:
    """The cases that standard input names."""
    np.seterr(all="ignore")
    torch.set_num_threads(1)
    bases.WORTH = 2.0
    found = {name: evaluate(name) for name in json.load(sys.stdin)}
    json.dump({"kernels": with_environment(), "cases": found}, sys.stdout, indent=1)


if __name__ == "__main__":
    main()
