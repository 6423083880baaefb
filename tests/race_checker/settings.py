"""What is evaluated under a watch: model options, precisions, launch configurations, neighbour counts."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, fields
from typing import Any

import pytest
import torch
from conftest import OPTIONS, make_model
from kernel_cases import one_center_each, run
from test_cpu_engine import MORE

from dpa1_fast.kernels.prepare import bases
from dpa1_fast.kernels.triton.evaluator import TritonEvaluator
from dpa1_fast.kernels.triton.launch_configurations import (
    Configurations,
    EmbeddingConfigurations,
    LaunchConfiguration,
    LayerConfigurations,
)

from .watch import Watch


def alike(rows: int, chunk: int, keys: int) -> Configurations:
    """The same for every kernel of every layer. The interpreter knows neither warps nor stages."""
    one = LaunchConfiguration(rows, chunk, warps=4, keys=keys)
    layer = LayerConfigurations(*(one for _ in fields(LayerConfigurations)))
    return Configurations(layer, layer, EmbeddingConfigurations(series_moments=one, series_moments_bwd=one))


SMALL = alike(16, 16, 16)
"""So small that every loop of a kernel goes round more than once for 33 neighbours, and every grid has several rows."""

PRODUCTION = {"neuron": (25, 50, 100), "attn": 128, "axis_neuron": 16, "sel": (260,), "type_map": ("H", "O")}
FILLED = PRODUCTION | {"neuron": (32, 64, 128)}
NARROW = {"neuron": (4, 8, 16), "attn": 12, "axis_neuron": 4, "sel": (260,), "type_map": ("H", "O")}
MODES: dict[str, dict[str, Any]] = {
    "smooth": {},
    "hard": {"smooth_type_embedding": False},
    "strip": {"tebd_input_mode": "strip", "resnet_dt": True},
    "strip_hard": {"tebd_input_mode": "strip", "smooth_type_embedding": False},
}
NEIGHBORS = {16: (0, 1, 5, 16), 32: (0, 1, 17, 30), 64: (1, 5, 33, 64), 128: (0, 17, 120), 256: (1, 130, 253)}
"""By bucket: the neighbours of each atom, whose rows lie one after the other in a chunk."""


@dataclass(frozen=True)
class Setting:
    """One evaluation. coordinates: whether the first layer is taken in them, or moments by series; configurations:
    instead of those that are shipped for the architecture, None for the interpreter's."""

    options: dict[str, Any]
    precision: str
    neighbors: tuple[int, ...]
    coordinates: bool = True
    architecture: str | None = "sm_90"
    configurations: Configurations | None = None

    def watched(self, patch: pytest.MonkeyPatch, *, leave_out: bool = False) -> Watch:
        """What a watch says of the evaluation. Results must be finite."""
        patch.setattr(bases, "WORTH", 2.0)  # whatever the model's width
        model = make_model(**self.options)
        evaluator = TritonEvaluator(
            model.weights(), self.precision, torch.device("cpu"), self.architecture, 1 << 30, self.configurations
        )
        if self.precision == "bfloat16":
            evaluator.model.products = "rounded_bfloat16"  # the interpreter can't multiply others
        if not self.coordinates:
            evaluator.model.leave_series()
        assert (evaluator.model.coordinates is not None) == (self.coordinates and model.config.attn_layer > 0)
        with Watch(leave_out=leave_out) as watch:
            outputs = run(evaluator, one_center_each(model, self.neighbors))
        assert all(bool(torch.isfinite(x).all()) for x in outputs)
        assert any("reduced" in k for k in watch.launches) == (evaluator.model.coordinates is not None)
        assert any("series" in k for k in watch.launches) == (evaluator.model.series_moments is not None)
        return watch


def smallest(*, coordinates: bool, **options: Any) -> Setting:
    """A small model in float64, in blocks so small that every loop goes round."""
    return Setting(NARROW | options, "float64", (0, 3, 20, 33), coordinates, None, SMALL)


def quick() -> dict[str, Setting]:
    """A few that differ in all that kernels are compiled for."""
    return {
        "tf32, coordinates": Setting(PRODUCTION, "tf32", NEIGHBORS[32]),
        "bfloat16, all channels, strip": Setting(PRODUCTION | MODES["strip"], "bfloat16", (3, 40), coordinates=False),
        "float32, one layer, hard": Setting(PRODUCTION | MODES["hard"] | {"attn_layer": 1}, "float32", NEIGHBORS[16]),
        "no attention": Setting(PRODUCTION | MODES["strip"] | {"attn_layer": 0}, "tf32", NEIGHBORS[64]),
    }


def everything() -> Iterator[tuple[str, Setting]]:
    """Buckets, modes, layers and coordinates; all options; other launch configurations than those that are shipped."""
    modes = (("hard", 2), ("strip", 1), ("smooth", 3))
    for p, precision in enumerate(("tf32", "bfloat16", "float32", "float16")):
        for k, (bucket, neighbors) in enumerate(NEIGHBORS.items()):
            for coordinates in (True, False):
                mode, layers = modes[(p + k + coordinates) % 3]
                options = PRODUCTION | MODES[mode] | {"attn_layer": layers}
                name = f"{precision} {bucket} {mode} {layers}{' coordinates' if coordinates else ''}"
                yield name, Setting(options, precision, neighbors, coordinates)
    for precision, coordinates in (("tf32", True), ("bfloat16", False), ("float32", False)):
        more = {
            "filled strip_hard": FILLED | MODES["strip_hard"],
            "filled attn 256": FILLED | {"attn": 256},
            "attn 64": PRODUCTION | {"attn": 64},
            "no dotr": PRODUCTION | {"attn_dotr": False, "concat_output_tebd": False},
            "no normalize": PRODUCTION | {"normalize": False, "temperature": 0.4},
            "64 channels": PRODUCTION | {"neuron": (16, 32, 64), "attn": 64},
            "no attention": PRODUCTION | {"attn_layer": 0},
        }
        for name, options in more.items():
            yield f"{precision} {name}", Setting(options, precision, NEIGHBORS[64], coordinates)
    for name, options in (OPTIONS | MORE).items():
        wide = {k: v for k, v in options.items() if k != "sel"} | {"sel": (260,)}
        yield f"option {name}", Setting(wide, "float64", (0, 3, 20, 33), False, configurations=SMALL)
    for name in ("smooth", "strip"):
        setting = Setting(NARROW | MODES[name], "float64", NEIGHBORS[128], architecture=None)
        yield f"interpreter's configurations {name}", setting
    yield from _launch_configurations()


def _launch_configurations() -> Iterator[tuple[str, Setting]]:
    """Rows, chunks and keys in many combinations, some larger than an atom and some that do not divide its rows."""
    for k, (rows, chunk, keys) in enumerate(
        (rows, chunk, keys) for rows in (16, 32, 64, 128) for chunk in (16, 32, 1 << 10) for keys in (16, 32, 64)
    ):
        neighbors = list(NEIGHBORS.values())[k % len(NEIGHBORS)]
        setting = Setting(PRODUCTION, "bfloat16", neighbors, k % 2 == 0, configurations=alike(rows, chunk, keys))
        yield f"{rows} rows, chunks of {chunk}, {keys} keys", setting
