"""What an evaluator would launch for atoms with so many neighbours, as lines that another process compiles by.

The evaluator itself runs on a few made-up atoms, with recorders where its kernels stand: so there is no second list of
kernels, constants and alignments that could be wrong.
"""

from __future__ import annotations

import copy
import json
from dataclasses import dataclass, fields
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from .. import chunks
from ..kernel_clock import REDUCED, SHARED
from ..launch_configurations import Configurations, EmbeddingConfigurations, Kernel
from ..stand_ins import Recorder, standing_in
from .functions import name_of

if TYPE_CHECKING:
    from ..evaluator import TritonEvaluator

EMBEDDING = {f"_{f.name}_kernel": f.name for f in fields(EmbeddingConfigurations)}
"""Function → kernel, as ``SHARED`` and ``REDUCED`` have those of attention."""
ALIGNED = 16
"""Bytes: whether memory begins at a multiple of these is all that Triton compiles differently for."""


@dataclass(frozen=True)
class Job:
    """A kernel to be compiled.

    Attributes:
        line: JSON of its function, arguments and options. kernel: as launch configurations name it, None where it has
            none.
    """

    line: str
    kernel: Kernel | None


@dataclass(frozen=True)
class _Atoms:
    """As much of a ``Batch`` as an evaluator reads: two structures of which every atom has as many neighbours."""

    types: Tensor
    structure: Tensor
    offsets: Tensor
    active: Tensor
    neighbor: Tensor
    vector: Tensor
    first_edge: Tensor
    n_filled: Tensor
    nsel: int
    fparam: Tensor | None
    aparam: Tensor | None
    n_structures: int = 2

    @property
    def n_atoms(self) -> int:
        return len(self.types)

    @property
    def counts(self) -> Tensor:
        return self.first_edge[1:] - self.first_edge[:-1]


def _atoms(run: TritonEvaluator, most: int) -> _Atoms:
    w, here, n = run.model.weights, run.device, 2 * chunks.STEP

    def whole(*shape: int, value: int = 0) -> Tensor:
        return torch.full(shape, value, dtype=torch.int64, device=here)

    def parameters(rows: int, statistics: tuple[Tensor, ...] | None) -> Tensor | None:
        return None if statistics is None else torch.zeros(rows, len(statistics[0]), dtype=torch.float64, device=here)

    return _Atoms(
        types=whole(n), structure=torch.arange(n, device=here) * 2 // n,
        offsets=torch.arange(3, device=here) * (n // 2),
        active=torch.ones(n, dtype=torch.bool, device=here), neighbor=whole(n * most),
        vector=torch.ones(n * most, 3, dtype=torch.float64, device=here),
        first_edge=torch.arange(n + 1, device=here) * most, n_filled=whole(n, value=most), nsel=w.config.nsel,
        fparam=parameters(2, w.fparam), aparam=parameters(n, w.aparam),
    )  # fmt: skip


def jobs_of(run: TritonEvaluator, most: int, configurations: Configurations) -> list[Job]:
    """The kernels of an evaluation of atoms with up to ``most`` neighbours, each once, in the order of their launches.

    Args:
        run: whose launches; it is asked by this thread, others may use it meanwhile.
    """
    seen: dict[str, Job] = {}
    width = None if run.model.coordinates is None else run.model.coordinates.width

    def note(function: Any, arguments: tuple[Any, ...], options: dict[str, Any]) -> None:
        name = function.fn.__name__
        kernel = None
        if name in REDUCED:
            kernel = Kernel("coordinates", REDUCED[name])
        elif name in EMBEDDING:
            kernel = Kernel("embedding", EMBEDDING[name])
        elif name in SHARED:
            kernel = Kernel("coordinates" if options["MP"] == width else "layer", SHARED[name])
        line = json.dumps(
            {"function": name_of(function), "arguments": [encoded(x) for x in _free_of_batch(function, arguments)],
             "options": {k: encoded(v) for k, v in options.items()}},
            sort_keys=True,
        )  # fmt: skip
        seen.setdefault(line, Job(line, kernel))

    atoms, trial = _atoms(run, most), copy.copy(run)
    trial.configurations = configurations
    with run.on_device(), standing_in(lambda name, function: Recorder(function, note)):
        order = chunks.by_neighbors(atoms)
        cut = [chunks.Chunk(0, atoms.n_atoms, atoms.n_atoms * (-(-most // chunks.ROWS) * chunks.ROWS), most)]
        trial.run(atoms, order, cut)
    return list(seen.values())


def _free_of_batch(function: Any, arguments: tuple[Any, ...]) -> list[Any]:
    """Arguments without the values of numbers that a kernel is compiled for any of."""
    free = [p.do_not_specialize for p in getattr(function, "params", ())]
    return [0 if k < len(free) and free[k] else x for k, x in enumerate(arguments)]


def encoded(x: Any) -> Any:
    """An argument as JSON has it.

    Raises:
        TypeError: it is nothing that a kernel takes.
    """
    if isinstance(x, Tensor):
        return {"tensor": str(x.dtype).removeprefix("torch."), "offset": x.data_ptr() % ALIGNED}
    if isinstance(x, tuple):
        return [encoded(y) for y in x]
    if x is None or isinstance(x, bool | int | float | str):
        return x
    raise TypeError(f"a kernel's argument is {type(x).__name__}")
