"""The one place that chooses who evaluates. An explicit request never falls back silently."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from .cpu import library

BACKENDS = ("cpu", "reference")
"""cpu: compiled code with hand-derived gradients. reference: autograd over ``reference.py``, on any device."""

NOT_COMPILED = "backend 'cpu' was not compiled: install a C++ compiler (g++ or clang++) and reinstall dpa1-fast"


def choose(backend: str, device: str) -> str:
    """The backend that ``backend`` means on ``device``.

    Args:
        backend: "auto" or one of ``BACKENDS``.
        device: a torch device type, "cpu" or "cuda".

    Raises:
        ValueError: for a backend that this version does not have, or not on this device, naming those it has.
    """
    if backend == "auto":
        return "cpu" if device == "cpu" and library.available() else "reference"
    if backend not in BACKENDS:
        raise ValueError(f"backend {backend!r} is not available; available: auto, {', '.join(BACKENDS)}")
    if backend == "cpu" and device != "cpu":
        raise ValueError(f"backend 'cpu' does not run on {device}; use backend='auto' or device='cpu'")
    if backend == "cpu" and not library.available():
        raise ValueError(NOT_COMPILED)
    return backend


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
