"""The energy net and its gradient. Formula: ``reference.energy_network`` and the model's biases.

The part of the input that depends on the centre's type alone is a table of first-layer values.
"""

from __future__ import annotations

import torch
from torch import Tensor

from ..reference import Layer
from ..weights import Weights
from .network import ResnetNetwork
from .workspace import Workspace


class Fitting:
    """Energies of centres from their descriptors."""

    def __init__(self, weights: Weights) -> None:
        c = weights.config
        f = c.fitting
        self.weights, self.config = weights, f
        *hidden, last = weights.fitting
        self.width = c.neuron[-1] * c.axis_neuron
        self.net = ResnetNetwork(hidden, f.activation_function, "fitting")
        self.last = last
        self.tebd = weights.type_table if c.concat_output_tebd else None
        # A residual in the first layer (input as wide as its output) needs the whole input in one row.
        self.bias = weights.bias + weights.out_bias

    def forward_backward(
        self, d: Tensor, center_type: Tensor, fparam: Tensor | None, aparam: Tensor | None, ws: Workspace
    ) -> tuple[Tensor, Tensor]:
        """Energies (B,) in float64 and dE/dD (B, M·A) from D (B, M·A)."""
        rows = [d] if self.tebd is None else [d, self.tebd[center_type]]
        rows += self._parameters(d.shape[0], fparam, aparam, d)
        x = torch.cat(rows, dim=-1)
        y, steps = self.net.forward(x, ws)
        energy = self._last(y)
        if self.config.subtract_vacuum:
            vacuum = x.clone()
            vacuum[:, : d.shape[1] + (0 if self.tebd is None else self.tebd.shape[1])] = 0.0
            energy = energy - self._last(self.net.forward(vacuum, Workspace(d.dtype))[0])
        grad = self.net.backward(self.last.weight.t().expand(d.shape[0], -1).clone(), steps)[:, : self.width]
        energy = energy.double() + self.bias[center_type]
        for t in self.config.exclude_types:
            out = center_type == t
            energy = torch.where(out, self.weights.out_bias[center_type], energy)
            grad = grad.masked_fill(out.unsqueeze(-1), 0.0)
        return energy, grad.contiguous()

    def _last(self, y: Tensor) -> Tensor:
        last: Layer = self.last
        e = (y @ last.weight).squeeze(-1)
        return e if last.bias is None else e + last.bias

    def _parameters(self, n: int, fparam: Tensor | None, aparam: Tensor | None, like: Tensor) -> list[Tensor]:
        w, out = self.weights, []
        if fparam is not None and w.fparam is not None:
            out.append((fparam - w.fparam[0]) * w.fparam[1])
        if aparam is not None and w.aparam is not None and self.config.numb_aparam_in:
            out.append((aparam - w.aparam[0]) * w.aparam[1])
        if w.case_embd is not None:
            out.append(w.case_embd.expand(n, -1))
        return [x.to(like.dtype) for x in out]
