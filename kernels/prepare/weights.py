"""A model's numbers as plain tensors: what every backend takes, and nothing that it could change."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, fields
from typing import Any

import torch
from torch import Tensor

from ..reference import AttentionLayer, Layer


@dataclass(frozen=True)
class Weights:
    """Parameters in one dtype, statistics in float64; shapes as in ``reference.py``.

    Attributes:
        config: the model's ``DPA1Config``.
        type_table (ntypes, tebd_dim). davg, dstd (ntypes, 4). bias (ntypes,): bias_atom_e; out_bias (ntypes,).
        embedding, strip, fitting: resnet layers. attention: its layers.
        fparam, aparam: (avg, inv_std) or None. case_embd: (dim_case_embd,) or None.
    """

    config: Any
    type_table: Tensor
    davg: Tensor
    dstd: Tensor
    embedding: list[Layer]
    strip: list[Layer] | None
    attention: list[AttentionLayer]
    fitting: list[Layer]
    bias: Tensor
    out_bias: Tensor
    fparam: tuple[Tensor, Tensor] | None
    aparam: tuple[Tensor, Tensor] | None
    case_embd: Tensor | None

    def to(self, device: torch.device) -> Weights:
        """The same weights on another device."""
        return self._map(lambda x: x.to(device))

    def double(self) -> Weights:
        """The same weights in float64."""
        return self._map(Tensor.double)

    def _map(self, change: Callable[[Tensor], Tensor]) -> Weights:
        def apply(x: Any) -> Any:
            if isinstance(x, Tensor):
                return change(x)
            if isinstance(x, tuple) and hasattr(x, "_fields"):
                return type(x)(*map(apply, x))
            return type(x)(map(apply, x)) if isinstance(x, list | tuple) else x

        return Weights(**{f.name: apply(getattr(self, f.name)) for f in fields(self)})
