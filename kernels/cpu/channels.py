"""The two ways from neighbours to the moments X = Σ_j g_j ⊗ row_j, each with its way back.

``Channels`` evaluates the embedding net and the attention layers. ``Fitted`` serves models without attention, whose
embedding is a polynomial of s to rounding.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from . import contraction
from .attention import FullLayer, ReducedLayer, Saved
from .basis import Coordinates
from .moments import Moments
from .radial import Series
from .scores import Gate
from .workspace import Workspace

if TYPE_CHECKING:
    from .env_matrix import Environment
    from .evaluate import CpuEvaluator

Gradient = tuple[Tensor, Tensor | None, Tensor | None]
"""dE/drow (B, N, 4), dE/dsw (B, N) or None, dE/d(direction) (B, N, 3) in float64 or None."""


class Channels:
    """Embedding and attention of one tile, forward on construction."""

    def __init__(
        self, owner: CpuEvaluator, tile: Any, env: Environment, row: Tensor, sw: Tensor | None, ws: Workspace
    ) -> None:
        c = owner.config
        self.embedding, self.env, self.row, self.sw, self.ws = owner.embedding, env, row, sw, ws
        self.dotr = c.attn_dotr
        self.shape = b, n = tile.mask.shape
        self.coordinates: Coordinates | None = None
        self.phi: Tensor | None = None
        self.stack: list[tuple[FullLayer | ReducedLayer, Saved]] = []
        self.gate = self._gate(tile) if c.attn_layer and n else None
        layers: list[FullLayer | ReducedLayer] = list(owner.layers)
        key = None if self.gate is None else owner.around(tile, env)
        found = None if key is None else owner.reduced(*key)
        if key is not None and found is not None:
            self.coordinates, layers[0] = found
            s, slot = fitted_inputs(key[1], tile, row, self.coordinates.series)
            gate_sw = None if sw is None else sw.flatten()
            g, self.phi, self.columns = self.coordinates.forward(s.flatten(), slot.flatten(), gate_sw, ws)
        else:
            pair = (tile.center_type.unsqueeze(1) * c.ntypes + tile.neighbor_type).flatten()
            gate_sw = None if sw is None else sw.flatten()
            g, self.embedded = owner.embedding.forward(row[..., 0].flatten(), pair, gate_sw, ws)
            if self.gate is not None:
                g = torch.add(g, owner.b_out[0], out=ws.take("attention.g", *g.shape))
        if self.gate is not None:
            for k, layer in enumerate(layers):
                g, saved = layer.forward(g, self.phi if k == 0 else None, self.gate, ws, f"attention{k}")
                self.stack.append((layer, saved))
        self.g = g.view(b, n, g.shape[1])
        self.moments = contraction.moments(self.g, row)

    def backward(self, dx: Tensor) -> Gradient:
        """From dE/dX (B, M, 4)."""
        gg, grad_row = contraction.moments_backward(dx, self.g, self.row)
        gg = gg.flatten(0, 1)
        grad_u: Tensor | None = None
        grad_sw: Tensor | None = None
        grad_phi: Tensor | None = None
        for k, (layer, saved) in reversed(list(enumerate(self.stack))):
            assert self.gate is not None
            r = layer.backward(gg, self.phi if k == 0 else None, saved, self.gate, self.ws)
            gg, grad_phi, grad_u, grad_sw = r.g, r.phi, _plus(grad_u, r.u), _plus(grad_sw, r.sw)
        if self.coordinates is not None:
            assert grad_phi is not None
            grad_s, from_strip = self.coordinates.backward(gg, grad_phi, self.columns, self.ws)
        else:
            grad_s, from_strip = self.embedding.backward(gg, self.embedded)
        grad_sw = _plus(grad_sw, None if from_strip is None else from_strip.view(self.shape))
        grad_row[..., 0] += grad_s.view(self.shape)
        if grad_u is None:
            return grad_row, grad_sw, None
        return grad_row, *self._ungate(grad_u, grad_sw)

    def _gate(self, tile: Any) -> Gate:
        """What the attention layers share: u = r̂·sw with attn_dotr, sw alone without, 1 without either."""
        mask = tile.mask.to(self.row.dtype)
        u = self.env.direction.to(mask.dtype) if self.dotr else mask.unsqueeze(-1)
        padded = not bool(tile.mask.all())
        if self.sw is None:
            return Gate(mask, padded, u, None, None)
        return Gate(mask, padded, u * self.sw.unsqueeze(-1), self.sw, tile.n_empty_key.to(mask.dtype).unsqueeze(-1))

    def _ungate(self, grad_u: Tensor, grad_sw: Tensor | None) -> tuple[Tensor | None, Tensor | None]:
        """From dE/du to dE/dsw and dE/d(direction)."""
        if self.sw is not None:
            unit = self.env.direction.to(grad_u.dtype) if self.dotr else torch.ones_like(grad_u)
            grad_sw = _plus(grad_sw, (grad_u * unit).sum(-1))
            grad_u = grad_u * self.sw.unsqueeze(-1)
        return grad_sw, (grad_u.double() if self.dotr else None)


class Fitted:
    """Moments of one tile by ``Moments``, forward on construction; ``types`` are those it was fitted for."""

    def __init__(
        self, fitted: Moments, types: tuple[int, ...], tile: Any, row: Tensor, sw: Tensor | None, ws: Workspace
    ) -> None:
        self.fitted = fitted
        s, which = fitted_inputs(types, tile, row, fitted.series)
        self.moments, self.saved = fitted.forward(s, which, row, sw, ws)

    def backward(self, dx: Tensor) -> Gradient:
        """From dE/dX (B, M, 4)."""
        grad_row, grad_s, grad_sw = self.fitted.backward(dx, self.saved)
        grad_row[..., 0] += grad_s
        return grad_row, grad_sw, None


def fitted_inputs(types: tuple[int, ...], tile: Any, row: Tensor, series: Series) -> tuple[Tensor, Tensor]:
    """s (B, N) inside the series' interval, and which of the fitted types each neighbour is (B, N).

    A masked slot has row = 0: whatever type and s it has, it adds nothing.
    """
    slot = torch.zeros(types[-1] + 1, dtype=torch.int64)
    slot[list(types)] = torch.arange(len(types))
    return torch.where(tile.mask, row[..., 0], series.lo), slot[tile.neighbor_type.clamp_max(types[-1])]


def _plus(a: Tensor | None, b: Tensor | None) -> Tensor | None:
    return b if a is None else a if b is None else a + b
