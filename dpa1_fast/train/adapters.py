"""Low-rank adapters: W = W₀ + A·B with a few columns, of which W₀ stays as it is."""

from __future__ import annotations

from functools import reduce
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

from ..model import DPA1, LayerParameters


class LowRank(nn.Module):
    """A (in, rank) random, B (rank, out) zero: at first nothing is changed."""

    def __init__(self, weight: Tensor, rank: int) -> None:
        super().__init__()
        rows, columns = weight.shape
        self.a = nn.Parameter(torch.randn(rows, rank, dtype=weight.dtype) / rows**0.5)
        self.b = nn.Parameter(torch.zeros(rank, columns, dtype=weight.dtype))

    def forward(self, weight: Tensor) -> Tensor:
        """W₀ + A·B."""
        return weight + self.a @ self.b


def adapt(model: DPA1, rank: int, seed: int) -> int:
    """Gives every matrix that a low rank makes smaller an adapter and freezes it. Returns how many there are."""
    count = 0
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        for name, layer in list(model.named_modules()):
            if not isinstance(layer, LayerParameters) or name == "type_embedding":
                continue
            rows, columns = layer.weight.shape
            if layer.weight.requires_grad and rank * (rows + columns) < rows * columns:
                parametrize.register_parametrization(layer, "weight", LowRank(layer.weight, rank))
                original = layer.parametrizations.weight.original  # type: ignore[union-attr]
                original.requires_grad_(False)  # type: ignore[operator]
                count += 1
    return count


def merged(model: DPA1) -> DPA1:
    """The model with each A·B added to its matrix, as files have it; the model itself where it has no adapters."""
    if not any(parametrize.is_parametrized(layer) for layer in model.modules()):
        return model
    # A new model: copies share the class that torch makes for a module with adapters, and lose it together.
    out = DPA1(model.config).set_dtype(model.dtype)
    state: dict[str, Any] = {name: reduce(getattr, name.split("."), model) for name in out.state_dict()}
    out.load_state_dict({name: value.detach() for name, value in state.items()})
    return out
