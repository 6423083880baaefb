"""The one place that chooses who evaluates a tile. An explicit request never falls back silently."""

from __future__ import annotations

from dataclasses import replace
from typing import Any, Protocol

import torch
from torch import Tensor

from .cpu.evaluate import CpuEvaluator

BACKENDS = ("cpu", "reference")
"""cpu: hand-derived gradients, no tape. reference: autograd over ``reference.py``, on any device."""


class Evaluator(Protocol):
    """What a backend is: a function of a tile, and whether its centres must be of one type."""

    one_center_type: bool

    def __call__(self, tile: Any) -> tuple[Tensor, Tensor]:
        """Atomic energies (B,) in eV and dE/dd (B, N, 3) in eV/Å, both float64."""


def choose(backend: str, device: str) -> str:
    """The backend that ``backend`` means on ``device``.

    Args:
        backend: "auto" or one of ``BACKENDS``.
        device: a torch device type, "cpu" or "cuda".

    Raises:
        ValueError: for a backend that this version does not have, or not on this device, naming those it has.
    """
    if backend == "auto":
        return "cpu" if device == "cpu" else "reference"
    if backend not in BACKENDS:
        raise ValueError(f"backend {backend!r} is not available; available: auto, {', '.join(BACKENDS)}")
    if backend == "cpu" and device != "cpu":
        raise ValueError(f"backend 'cpu' does not run on {device}; use backend='auto' or device='cpu'")
    return backend


def make(backend: str, model: Any) -> Evaluator:
    """The evaluator of a chosen backend for a model (a ``DPA1``)."""
    return CpuEvaluator(model.weights()) if backend == "cpu" else ReferenceEvaluator(model)


class ReferenceEvaluator:
    """The reference formulas under autograd."""

    one_center_type = False

    def __init__(self, model: Any) -> None:
        self.model = model

    def __call__(self, tile: Any) -> tuple[Tensor, Tensor]:
        """Energies and dE/dd of a tile."""
        d = tile.d.detach().requires_grad_()
        with torch.enable_grad():
            energy = self.model.atomic_energies(replace(tile, d=d))
        if not tile.d.numel() or not energy.requires_grad:
            return energy.detach(), torch.zeros_like(tile.d)
        return energy.detach(), torch.autograd.grad(energy.sum(), d)[0]
