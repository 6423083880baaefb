"""Slopes of the activation functions, by torch's own backward operators where it has one."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor

Slope = Callable[[Tensor, Tensor, Tensor], Tensor]
"""(gradient of the output, input, output) → gradient of the input."""

aten = torch.ops.aten


def _silut(threshold: float) -> Slope:
    sigmoid = 1.0 / (1.0 + math.exp(-threshold))
    slope = sigmoid + threshold * sigmoid * (1.0 - sigmoid)

    def backward(g: Tensor, x: Tensor, y: Tensor) -> Tensor:
        t = torch.tanh(slope * (x - threshold))
        return torch.where(x >= threshold, g * slope * (1.0 - t * t), aten.silu_backward(g, x))

    return backward


SLOPES: dict[str, Slope] = {
    "tanh": lambda g, x, y: aten.tanh_backward(g, y),
    "sigmoid": lambda g, x, y: aten.sigmoid_backward(g, y),
    "relu": lambda g, x, y: aten.threshold_backward(g, x, 0),
    "relu6": lambda g, x, y: aten.hardtanh_backward(g, x, 0.0, 6.0),
    "softplus": lambda g, x, y: aten.softplus_backward(g, x, 1, 20),
    "silu": lambda g, x, y: aten.silu_backward(g, x),
    "gelu": lambda g, x, y: aten.gelu_backward(g, x, approximate="tanh"),
    "gelu_tf": lambda g, x, y: aten.gelu_backward(g, x, approximate="tanh"),
    "linear": lambda g, x, y: g,
    "none": lambda g, x, y: g,
}


def slope(name: str) -> Slope:
    """The backward of ``reference.activation(name)``."""
    key = name.lower()
    if key.startswith(("silut", "custom_silu")):
        return _silut(float(key.split(":")[1]) if ":" in key else 3.0)
    return SLOPES[key]
