"""Buffers by name, grown when needed and never given back: a fresh page costs more than what is computed on it."""

from __future__ import annotations

import math

import torch
from torch import Tensor


class Workspace:
    """One worker's buffers of one dtype."""

    def __init__(self, dtype: torch.dtype) -> None:
        self.dtype = dtype
        self._flat: dict[str, Tensor] = {}
        self._views: dict[str, tuple[tuple[int, ...], Tensor]] = {}

    def take(self, name: str, *shape: int) -> Tensor:
        """A contiguous tensor of ``shape`` whose contents are whatever was there; the same name, the same memory."""
        last = self._views.get(name)
        if last is not None and last[0] == shape:
            return last[1]
        size = math.prod(shape)
        flat = self._flat.get(name)
        if flat is None or flat.numel() < size:
            flat = self._flat[name] = torch.empty(size + size // 8, dtype=self.dtype)
        view = flat[:size].view(shape)
        self._views[name] = (shape, view)
        return view
