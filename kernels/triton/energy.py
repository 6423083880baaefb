"""The energy net of a chunk: products of all its atoms at once by torch, and small kernels between them.

One net serves all types, so a layer is one product of matrices, which the library does at the rate of the card. Two
launches a hidden layer forward and two backward, but for the first layer's input, which is nobody's slope: 4 a layer.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from .device_model import DeviceModel
from .matrix_product import product
from .ops.energy_net import _energy_last_kernel, _energy_layer_bwd_kernel, _energy_layer_fwd_kernel

BLOCKS = {"BLOCK_ROWS": 16, "BLOCK_COLUMNS": 64, "num_warps": 4, "num_stages": 1}
"""Atoms and columns at a time."""


def values_per_atom(model: DeviceModel) -> int:
    """How many numbers of the work precision an atom needs at a time."""
    inputs: int = model.config.dim_fitting_in
    return 2 * inputs + 4 * sum(layer.vectors.shape[1] for layer in model.fitting)


def energies(
    model: DeviceModel, types: Tensor, inputs: Tensor, bias: Tensor, energy: Tensor,
    new: Callable[..., Tensor], *, backward: bool,
) -> Tensor | None:  # fmt: skip
    """Writes the energies of a chunk's atoms, and gives dE/d(inputs) (B, IN) where ``backward``.

    Args:
        types: (B,) int32. inputs: (B, IN), in ``model.net_input``. bias: (types,) eV. energy: (B,) eV, float64, out.
        new: makes a tensor of a shape, in the work precision.
    """
    n, layers = len(inputs), model.fitting
    narrow = model.operand != model.work

    def taken(like: Tensor) -> Tensor:
        return torch.empty_like(like, dtype=model.operand)

    def times(a: Tensor, b: Tensor) -> Tensor:
        return product(a, b, model.work, tf32=model.products == "tf32")

    h, operand, slopes = inputs, inputs.to(model.operand), []
    for layer in layers:
        z = times(operand, layer.weight)
        y = new(*z.shape)
        operand = taken(y) if narrow else y
        _energy_layer_fwd_kernel[_blocks(z)](
            h, z, y, operand, layer.vectors, n, N_IN=h.shape[1], N_OUT=z.shape[1], RESIDUAL=layer.residual,
            **model.net_activation, NARROW=narrow, **BLOCKS,
        )  # fmt: skip
        h = y
        slopes.append(z)
    d_h = new(*h.shape) if backward else h
    d_p = taken(h) if backward and layers else d_h
    _energy_last_kernel[(-(-n // BLOCKS["BLOCK_ROWS"]),)](
        types, h, slopes[-1] if layers else h, d_h, d_p, energy, model.fit_last, model.alive, bias, n,
        N_OUT=h.shape[1], HIDDEN=bool(layers), BACKWARD=backward, **BLOCKS,
    )  # fmt: skip
    if not backward:
        return None
    for layer in reversed(layers):
        slopes.pop()
        d_x = times(d_p, layer.weight.t())
        if slopes or layer.residual:
            d_p = taken(d_x) if slopes else d_x
            _energy_layer_bwd_kernel[_blocks(d_x)](
                d_x, d_h, slopes[-1] if slopes else d_x, d_p, n, N_IN=d_x.shape[1], N_OUT=d_h.shape[1],
                RESIDUAL=layer.residual, HIDDEN=bool(slopes), **BLOCKS,
            )  # fmt: skip
        d_h = d_x
    return d_h


def _blocks(x: Tensor) -> tuple[int, int]:
    return -(-x.shape[0] // BLOCKS["BLOCK_ROWS"]), -(-x.shape[1] // BLOCKS["BLOCK_COLUMNS"])
