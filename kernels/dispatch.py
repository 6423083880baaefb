"""The one place that chooses who evaluates. An explicit request never falls back silently."""

from __future__ import annotations

import importlib.util
import re
import sys
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from .cpu import library
from .precision import known_to
from .prepare.weights import Weights
from .triton import configuration_cache, interpreting

BACKENDS = ("cpu", "triton", "reference")
"""cpu: compiled code with hand-derived gradients. triton: fused kernels for a GPU, and Triton's interpreter on a CPU.
reference: autograd over ``reference.py``, on any device."""

NOT_COMPILED = "backend 'cpu' was not compiled: install a C++ compiler (g++ or clang++) and reinstall dpa1-fast"
NO_TRITON = "backend 'triton' needs the package triton, which was not found: pip install triton"
TOO_LATE = (
    "backend 'triton' on a CPU runs in Triton's interpreter, and triton was loaded without it: set TRITON_INTERPRET=1 "
    "before Python starts"
)
INTERPRETED = (
    "backend 'triton' on a GPU needs compiled kernels, and this process has triton loaded with its interpreter: either "
    "TRITON_INTERPRET is set (unset it), or an engine with device='cpu' and backend='triton' was made first (use one "
    "process for each)"
)
CHUNK_BYTES = {"cuda": 1 << 31, "cpu": 1 << 26}
"""What a chunk of atoms may take, and on a GPU never more than a quarter of what is free."""


def has_triton() -> bool:
    """Whether the package is there; it is not loaded for that."""
    return importlib.util.find_spec("triton") is not None


def choose(backend: str, device: str) -> str:
    """The backend that ``backend`` means on ``device``.

    Args:
        backend: "auto" or one of ``BACKENDS``.
        device: a torch device type, "cpu" or "cuda".

    Raises:
        ValueError: for a backend that this version does not have, or not on this device, naming those it has.
    """
    if backend == "auto":
        if device == "cuda" and has_triton():
            return "triton"
        return "cpu" if device == "cpu" and library.available() else "reference"
    if backend not in BACKENDS:
        raise ValueError(f"backend {backend!r} is not available; available: auto, {', '.join(BACKENDS)}")
    if backend == "cpu" and device != "cpu":
        raise ValueError(f"backend 'cpu' does not run on {device}; use backend='auto' or device='cpu'")
    if backend == "cpu" and not library.available():
        raise ValueError(NOT_COMPILED)
    if backend == "triton" and not has_triton():
        raise ValueError(NO_TRITON)
    return backend


def check_precision(precision: str, backend: str) -> None:
    """Whether a backend does a precision here.

    Raises:
        ValueError: naming those that it does.
    """
    if precision not in known_to(backend):
        known = ", ".join(known_to(backend))
        raise ValueError(f"precision {precision!r} is not available with backend {backend!r}; available: {known}")
    if precision == "bfloat16" and backend == "cpu" and not library.has_bfloat16():
        raise ValueError("precision 'bfloat16' needs a processor with AVX512-BF16, or a GPU; use float32")


def check_fixed_shape(fixed_shape: bool, backend: str, device: str) -> None:
    """Whether evaluations can be captured here.

    Raises:
        ValueError: where they can't.
    """
    if fixed_shape and (backend, device) != ("triton", "cuda"):
        raise ValueError(f"fixed_shape=True needs backend 'triton' on a GPU, not {backend!r} on {device}")


@dataclass(frozen=True)
class Card:
    """What a device is to the Triton kernels: its name, architecture ("sm_90" and the like, None in the interpreter),
    and bytes for a chunk."""

    name: str
    architecture: str | None
    chunk_bytes: int


def architecture_of(properties: Any) -> str:
    """ "sm_90", "gfx942" and the like, from what torch says of a GPU.

    ``gcnArchName`` is the architecture in torch's builds for AMD alone: its CUDA builds put the card's name there.
    """
    if torch.version.hip:
        return str(properties.gcnArchName).split(":")[0]
    return f"sm_{properties.major}{properties.minor}"


def card_of(device: torch.device) -> Card:
    """A GPU, or the interpreter on a CPU."""
    if device.type == "cpu":
        return Card("interpreter", None, CHUNK_BYTES["cpu"])
    found = torch.cuda.get_device_properties(device)
    chunk = min(CHUNK_BYTES["cuda"], torch.cuda.mem_get_info(device)[0] // 4)
    architecture = architecture_of(found)
    return Card(found.name, architecture, chunk)


def load_triton(device: torch.device) -> None:
    """Loads triton and the kernels as a device needs them: compiled for a GPU, interpreted on a CPU.

    Raises:
        ValueError: they are loaded the other way already. A process has one or the other.
    """
    if device.type == "cpu":
        interpreting.load_interpreted()
    from .triton import ops

    if (device.type == "cpu") != ops.INTERPRETED:
        raise ValueError(TOO_LATE if device.type == "cpu" else INTERPRETED)
    if not ops.INTERPRETED:
        from .triton.compiling.functions import settled

        settled()


def say(line: str) -> None:
    """For whoever waits."""
    print(line, file=sys.stderr, flush=True)


def triton_evaluator(weights: Weights, precision: str, device: torch.device, *, fixed_shape: bool = False) -> Any:
    """The Triton kernels, on a GPU or in the interpreter.

    On a GPU all kernels for atoms with as many neighbours as the model foresees are compiled here, unless they were
    before; those for fewer when there are such atoms.

    Args:
        fixed_shape: capture what is evaluated, see ``cuda_graph.py``; on a GPU.

    Raises:
        ValueError: triton was loaded for the other kind of device, see ``load_triton``; a kernel does not compile, or
            does not fit, however it is launched.
    """
    load_triton(device)
    from .triton import cuda_graph
    from .triton.evaluator import TritonEvaluator

    card = card_of(device)
    tuned = (
        configuration_cache.read(configuration_cache.path_for(card.name, weights.config)) if card.architecture else None
    )
    evaluator = TritonEvaluator(weights, precision, device, card.architecture, card.chunk_bytes, tuned=tuned)
    if device.type != "cpu":
        evaluator.choose = chooser(card, device)
        evaluator.compile(weights.config.nsel)
    return cuda_graph.GraphedEvaluator(evaluator, cuda_graph.CudaCapture()) if fixed_shape else evaluator


def is_architecture(name: str) -> bool:
    """Whether a name is an architecture's, as Triton's compiler knows them."""
    return re.fullmatch(r"sm_\d{2,3}|gfx[0-9a-f]{3,4}", name) is not None


def chooser(card: Card, device: torch.device | None, workers: int | None = None) -> Any:
    """What compiles for a GPU, and chooses how kernels are launched there.

    Args:
        device: of this machine; None where the GPU may be elsewhere. workers: processes that compile, at most.
    """
    from triton import knobs

    from .triton.compiling import cards
    from .triton.compiling.choice import Chooser, Target

    assert card.architecture is not None
    may_take = cards.shared_bytes(card.architecture) if device is None else _shared_bytes(device)
    return Chooser(Target(card.name, card.architecture, may_take), Path(knobs.cache.dir), say, workers)


def _shared_bytes(device: torch.device) -> int:
    """That a program may take, by Triton, which asks the driver."""
    from triton.runtime import driver

    index = torch.cuda.current_device() if device.index is None else device.index
    return int(driver.active.utils.get_device_properties(index)["max_shared_mem"])


class ReferenceEvaluator:
    """The reference formulas under autograd, a tile at a time."""

    def __init__(self, model: Any) -> None:
        self.model = model

    def __call__(self, tile: Any) -> tuple[Tensor, Tensor]:
        """Atomic energies (B,) in eV and dE/dd (B, N, 3) in eV/Å, both float64."""
        d = tile.d.detach().requires_grad_()
        with torch.enable_grad():
            energy = self.model.atomic_energies(replace(tile, d=d))
        if not tile.d.numel() or not energy.requires_grad:
            return energy.detach(), torch.zeros_like(tile.d)
        return energy.detach(), torch.autograd.grad(energy.sum(), d)[0]
