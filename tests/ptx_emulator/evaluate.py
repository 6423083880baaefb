"""Whole evaluations with emulated kernels: ``python -m ptx_emulator.evaluate < cases.json > results.json``.

Kernels that are interpreted can't be compiled, and which they are is settled when they are imported: so this runs in a
process of its own, without ``TRITON_INTERPRET``.

A case: {"options": of the model, "precision", "neighbors": of each atom, "architecture", "coordinates": whether the
first layer may be taken in them, "small": whether blocks are small, so that all loops and grids go round,
"schedules": how many of ``SCHEDULES``}. A result: {"finite",
"same_bits": in every schedule, "error": largest, of the largest of its kind, against the reference in float64,
"kernels": launched, "found": [kernel, kind, memory, earlier, later, may be harmless], "done": counts}.
"""

from __future__ import annotations

import json
import os
import sys
from dataclasses import fields
from typing import Any

os.environ.pop("TRITON_INTERPRET", None)
os.environ.setdefault("TRITON_DEFAULT_FP_FUSION", "1")  # what unset means, without the warning

import numpy as np
import torch
from kernel_cases import one_center_each, random_model, run

from dpa1_fast import DPA1Config, Engine
from dpa1_fast.config import FittingConfig
from dpa1_fast.kernels.prepare import bases
from dpa1_fast.kernels.triton.evaluator import TritonEvaluator
from dpa1_fast.kernels.triton.launch_configurations import Configurations, LaunchConfiguration, LayerConfigurations

from .kernels import emulated
from .machine import SCHEDULES

BASE: dict[str, Any] = {
    "type_map": ("H", "O"), "rcut": 4.0, "rcut_smth": 1.0, "sel": (260,), "neuron": (25, 50, 100), "axis_neuron": 4,
    "tebd_dim": 5, "attn": 128, "attn_layer": 2, "fitting": FittingConfig(neuron=(16, 16)),
}  # fmt: skip
"""The production model's widths, with an energy net that is quick to emulate."""

_SMALL = LayerConfigurations(*[LaunchConfiguration(16, 16, warps=4, keys=16)] * len(fields(LayerConfigurations)))
SMALL = Configurations(_SMALL, _SMALL)
"""More warps than what is shipped has for blocks of these sizes."""


def evaluate(case: dict[str, Any]) -> dict[str, Any]:
    """One case, in several orders of warps."""
    options = {k: tuple(v) if isinstance(v, list) else v for k, v in case.get("options", {}).items()}
    model = random_model(DPA1Config(**(BASE | options)))
    batch = one_center_each(model, case["neighbors"])
    architecture, configurations = case.get("architecture", "sm_90"), SMALL if case.get("small") else None
    outputs, found, done, kernels = [], set(), [], set()
    for schedule in SCHEDULES[: case.get("schedules", len(SCHEDULES))]:
        evaluator = TritonEvaluator(
            model.weights(), case["precision"], torch.device("cpu"), architecture, 1 << 30, configurations
        )
        if not case.get("coordinates", True):
            evaluator.model.leave_series()
        with emulated(architecture, schedule) as log:
            outputs.append(run(evaluator, batch))
        found |= {(kernel, x.kind, x.memory, x.earlier, x.later, x.may_be_harmless) for kernel, x in log.findings}
        done.append(dict(log.done))
        kernels |= set(log.launches)
    judge = Engine(model, backend="reference").run(batch)
    errors = [
        float((a - b).abs().max()) / max(float(b.abs().max()), 1e-3) for a, b in zip(outputs[0], judge, strict=True)
    ]
    return {
        "finite": all(bool(torch.isfinite(x).all()) for out in outputs for x in out),
        "same_bits": all(torch.equal(a, b) for out in outputs for a, b in zip(outputs[0], out, strict=True)),
        "error": max(errors), "kernels": sorted(kernels), "found": sorted(found), "done": done,
    }  # fmt: skip


def main() -> None:
    """Evaluates the cases of standard input."""
    np.seterr(all="ignore")  # as a GPU does
    torch.set_num_threads(1)
    torch.use_deterministic_algorithms(True)
    torch.utils.deterministic.fill_uninitialized_memory = True
    bases.WORTH = 2.0  # the first layer is taken in coordinates whatever the model's width
    json.dump([evaluate(case) for case in json.load(sys.stdin)], sys.stdout, indent=1)


if __name__ == "__main__":
    main()
