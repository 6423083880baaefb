"""Resnet layers forward and backward. Formula: ``reference.resnet_layer``."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from ..reference import Layer, activation
from .activations import slope
from .workspace import Workspace


@dataclass(frozen=True)
class Step:
    """One layer of a forward pass: its input to the activation, its output before the residual, and its parameters."""

    z: Tensor
    t: Tensor
    layer: Layer
    residual: int


def residual_kind(n_in: int, n_out: int) -> int:
    """0: none, 1: + x, 2: + [x, x]."""
    return 1 if n_out == n_in else 2 if n_out == 2 * n_in else 0


class ResnetNetwork:
    """Layers of one network on rows of any number; every buffer carries ``tag`` in its name."""

    def __init__(self, layers: Sequence[Layer], name: str, tag: str) -> None:
        self.layers, self.tag = list(layers), tag
        self.activation, self.slope = activation(name), slope(name)
        self.in_place_tanh = name.lower() == "tanh"

    def activate(self, z: Tensor) -> Tensor:
        """act(z); tanh overwrites its input, since its slope needs the output alone."""
        return torch.tanh(z, out=z) if self.in_place_tanh else self.activation(z)

    def forward(self, x: Tensor, ws: Workspace) -> tuple[Tensor, list[Step]]:
        """x (E, n_in) → y (E, n_out) and what the backward needs."""
        steps = []
        for k, layer in enumerate(self.layers):
            z = ws.take(f"{self.tag}.z{k}", x.shape[0], layer.weight.shape[1])
            if layer.bias is None:
                torch.mm(x, layer.weight, out=z)
            else:
                torch.addmm(layer.bias, x, layer.weight, out=z)
            t = self.activate(z)
            kind = residual_kind(*layer.weight.shape)
            steps.append(Step(z, t, layer, kind))
            y = t if layer.idt is None else t * layer.idt
            if kind:
                out = ws.take(f"{self.tag}.y{k}", *z.shape)
                add_residual(y, x, kind, out)
                y = out
            x = y
        return x, steps

    def backward(self, gy: Tensor, steps: Sequence[Step]) -> Tensor:
        """dE/dy (E, n_out) → dE/dx (E, n_in). ``gy`` may be overwritten."""
        for step in reversed(steps):
            gt = gy if step.layer.idt is None else gy * step.layer.idt
            gz = self.slope(gt, step.z, step.t)
            weight = step.layer.weight.t()
            if step.residual == 0:
                gy = gz @ weight
            else:
                n = weight.shape[1]
                gx = gy.clone() if step.residual == 1 else gy[:, :n] + gy[:, n:]
                gy = gx.addmm_(gz, weight)
        return gy


def add_residual(y: Tensor, x: Tensor, kind: int, out: Tensor) -> None:
    """out = y + x, or y + [x, x]."""
    if kind == 1:
        torch.add(y, x, out=out)
    else:
        n = x.shape[1]
        torch.add(y.view(-1, 2, n), x.unsqueeze(1), out=out.view(-1, 2, n))
