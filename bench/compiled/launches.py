"""What the engine launches: the real evaluator on a small real batch, with recorders where the kernels stand."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, replace
from functools import cache
from typing import Any

import numpy as np
import torch
from torch import Tensor

from bench import cases
from dpa1_fast.kernels.triton.evaluator import TritonEvaluator
from dpa1_fast.kernels.triton.launch_configurations import Configurations
from dpa1_fast.kernels.triton.stand_ins import kernels, standing_in
from dpa1_fast.structures.batch import Batch, collate, neighborhood
from dpa1_fast.structures.structure import from_ase

TYPES = {
    torch.float64: "*fp64", torch.float32: "*fp32", torch.bfloat16: "*bf16", torch.float16: "*fp16",
    torch.int64: "*i64", torch.int32: "*i32",
}  # fmt: skip
WATER = 90
"""Neighbours in liquid water within 6 Å."""
WATER_BUCKET = 128
BY_BATCH = ("atoms", "blocks")
"""Numbers that differ from chunk to chunk: compiled for any."""
SPLIT_ON_AMD = "bf16x3"
"""AMD's compiler has no tf32x3."""


@dataclass(frozen=True)
class Launch:
    """One launch, as the compiler sees it.

    Attributes:
        kernel: the function's name. coordinates: whether it goes over the first layer's.
        signature: parameter → type or "constexpr". constants: the latter's values. aligned: parameters that are
            multiples of 16. options: warps and stages, where the engine names them.
    """

    kernel: str
    architecture: str
    signature: dict[str, str]
    constants: dict[str, Any]
    aligned: tuple[str, ...]
    options: dict[str, int]
    coordinates: bool = False

    @property
    def key(self) -> str:
        """The same for launches that compile alike."""
        return json.dumps(asdict(self), sort_keys=True)


class _Recorder:
    """Stands where a kernel stands, and runs nothing."""

    def __init__(self, name: str, function: Any, into: list[tuple[str, dict[str, Any]]]) -> None:
        self.name, self.function, self.into = name, function, into

    def __getitem__(self, grid: Any) -> Callable[..., None]:
        names = list(self.function.arg_names)
        return lambda *args, **kwargs: self.into.append((self.name, {**dict(zip(names, args, strict=False)), **kwargs}))


@cache
def _batch(most: int) -> Batch:
    """Water, or the middle of it where atoms may not have as many neighbours as there."""
    model, atoms = cases.model(), cases.water(4)
    if most < WATER:
        from_middle = np.linalg.norm(atoms.positions - np.diag(atoms.cell) / 2, axis=1)
        atoms = atoms[np.argsort(from_middle)[:most]]
        atoms.pbc = False
    return collate(model.config, [neighborhood(model.config, from_ase(model.config, atoms, "water"))])


@cache
def _evaluator(precision: str, architecture: str, **options: Any) -> TritonEvaluator:
    weights = cases.model(**options).weights()
    out = TritonEvaluator(weights, precision, torch.device("cpu"), architecture, chunk_bytes=1 << 30)
    if architecture.startswith("gfx") and out.model.products == "tf32x3":
        out.model.products = SPLIT_ON_AMD
    return out


def launch_of(function: Any, name: str, architecture: str, values: Mapping[str, Any]) -> Launch:
    """What a launch of a kernel, of this name in the evaluator, is to the compiler. values: parameters and options."""
    signature, constants, aligned = {}, {}, []
    for p in function.params:
        value = values[p.name]
        if p.is_constexpr:
            signature[p.name], constants[p.name] = "constexpr", value
        elif isinstance(value, Tensor):
            signature[p.name] = TYPES[value.dtype]
            # A GPU's allocator gives multiples of 16 bytes, so what counts is where a view begins.
            if value.storage_offset() * value.itemsize % 16 == 0:
                aligned.append(p.name)
        elif value == 1 and p.name not in BY_BATCH:
            signature[p.name], constants[p.name] = "constexpr", 1
        else:
            signature[p.name] = "i32"
            if value % 16 == 0 and p.name not in BY_BATCH:
                aligned.append(p.name)
    options = {k: v for k, v in values.items() if k not in signature}
    return Launch(name, architecture, signature, constants, tuple(aligned), options)


def record(
    precision: str, architecture: str, configurations: Configurations | None = None, most: int = WATER, *,
    coordinates: bool = True, **options: Any,
) -> list[Launch]:  # fmt: skip
    """All launches of one evaluation, in order.

    Args:
        precision: see ``kernels/precision.py``. architecture: "sm_90" and the like, or "gfx942".
        configurations: None for those that the engine would choose.
        most: neighbours of an atom.
        coordinates: whether the first layer may be taken in them, or moments without attention by series.
        options: of the se_atten model, where it differs.
    """
    evaluator = _evaluator(precision, architecture, **options)
    evaluator.configurations = configurations
    kept, series = evaluator.model.coordinates, evaluator.model.series_moments
    if not coordinates:
        evaluator.model.coordinates = evaluator.model.series_moments = None
    in_coordinates = evaluator.model.coordinates is not None
    seen: list[tuple[str, dict[str, Any]]] = []
    try:
        with standing_in(lambda name, function: _Recorder(name, function, seen)):
            evaluator(_batch(most))
    finally:
        evaluator.model.coordinates, evaluator.model.series_moments = kept, series
    functions, names = kernels(), [name for name, _ in seen]
    out = []
    for k, (name, values) in enumerate(seen):
        # The first layer comes first forward, and last backward.
        same = names[k + 1 :] if name.endswith("bwd_kernel") else names[:k]
        first = in_coordinates and name in SHARED and name not in same
        out.append(replace(launch_of(functions[name], name, architecture, values), coordinates=first))
    return out


SHARED = ("_attention_project_kernel", "_attention_scores_kernel", "_attention_scores_bwd_kernel")
"""Kernels that the first layer in coordinates shares with the others."""


@dataclass(frozen=True)
class Variant:
    """A launch, and where it stands in the report."""

    kernel: str
    evaluation: bool
    launch: Launch


def name_of(launch: Launch) -> str:
    """A kernel's name in the report: which layer it serves, where that makes it another kernel."""
    c, plain = launch.constants, launch.kernel.removeprefix("_").removesuffix("_kernel")
    if launch.coordinates:
        return plain.replace("attention", "reduced")
    if plain == "embedding_fwd":
        return plain if c["ATTENTION"] else f"{plain}_no_attention"
    first, last = c.get("FIRST", False), c.get("LAST", False)
    return plain + ("_first" if first else "") + ("_last" if last else "")


def variants(
    architecture: str, precision: str, configurations: Configurations | None = None, most: int = WATER, **options: Any
) -> list[Variant]:  # fmt: skip
    """A model's launches, the production model's where no options are given, and those with its first layer in all
    channels; a single layer's; of three layers the middle one's backward pass; of none moments, by series and by the
    embedding net."""

    def launches(layers: int, coordinates: bool) -> list[Launch]:
        here = {**options, "attn_layer": layers}
        return record(precision, architecture, configurations, most, coordinates=coordinates, **here)

    out = [Variant(name_of(x), not options, x) for x in launches(2, True)]
    for layers, coordinates in ((2, False), (1, True), (1, False), (3, True), (0, True), (0, False)):
        there = {v.kernel for v in out}
        out += [Variant(name_of(x), False, x) for x in launches(layers, coordinates) if name_of(x) not in there]
    return out


def neighbors(bucket: int) -> int:
    """The neighbour count that the model of time takes for a bucket of them."""
    return WATER if bucket >= WATER_BUCKET else bucket
