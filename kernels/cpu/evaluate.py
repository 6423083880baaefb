"""One tile, forward and backward: the whole of DPA-1 on a CPU in the paper's order, and back."""

from __future__ import annotations

import threading
from typing import Any

import torch
from torch import Tensor

from ..reference import environment_matrix, padding_after_attention, switch
from ..weights import Weights
from . import basis, contraction, env_matrix
from .attention import GatedAttention
from .embedding import Embedding
from .fitting import Fitting
from .scores import Gate
from .workspace import Workspace


class CpuEvaluator:
    """Energies of a tile's centres and dE/dd of its neighbours. Safe to call from several threads at once."""

    def __init__(self, weights: Weights) -> None:
        self.weights, self.config = weights, weights.config
        c = self.config
        self.dtype = weights.type_table.dtype
        self.embedding, self.fitting = Embedding(weights), Fitting(weights)
        self.one_center_type = c.attn_layer > 0
        b_out = [layer.b_out for layer in weights.attention]
        self.b_out = b_out
        self.layers = [self._layer(k, None) for k in range(c.attn_layer)]
        self.empty = self._empty_slots() if weights.davg.any() else None
        self._reduced: dict[tuple[int, tuple[int, ...]], tuple[Tensor, GatedAttention] | None] = {}
        self._local = threading.local()
        self._lock = threading.Lock()

    # --- prepared once --------------------------------------------------------------------------------------------

    def _layer(self, k: int, span: Tensor | None) -> GatedAttention:
        c = self.config
        b_next = self.b_out[k + 1] if k + 1 < c.attn_layer else None
        layer = self.weights.attention[k]
        return GatedAttention(layer, c.attention_scale, c.normalize, c.ln_eps, b_next, span, self.dtype)

    def _empty_slots(self) -> Tensor:
        """What one empty slot adds to X for each (type of the first atom, type of the centre). (T, T, M, 4)."""
        c, w = self.config, self.weights
        n = c.ntypes
        row = (-w.davg / w.dstd).to(self.dtype).repeat(n, 1)
        first, center = torch.arange(n).repeat_interleave(n), torch.arange(n).repeat(n)
        sw = torch.zeros(n * n, dtype=self.dtype)
        g, _ = self.embedding.forward(row[:, 0], center * n + first, sw, Workspace(self.dtype))
        g = padding_after_attention(g, w.attention, c.ln_eps)
        return (g.unsqueeze(-1) * row.unsqueeze(-2)).view(n, n, -1, 4)

    def reduced(self, center: int, around: tuple[int, ...]) -> tuple[Tensor, GatedAttention] | None:
        """Basis C and first layer in its coordinates, for a centre type and the types around it; None if not worth it."""
        key = (center, around)
        with self._lock:
            if key not in self._reduced:
                self._reduced[key] = self._find_reduced(center, around)
            return self._reduced[key]

    def _find_reduced(self, center: int, around: tuple[int, ...]) -> tuple[Tensor, GatedAttention] | None:
        c, w = self.config, self.weights
        r = basis.sample_distances(c.rcut)
        d = torch.stack([r, torch.zeros_like(r), torch.zeros_like(r)], dim=-1).unsqueeze(0)
        row, _ = environment_matrix(d, w.davg[center].view(1, 1, 4), w.dstd[center].view(1, 1, 4), c.rcut_smth, c.rcut, c.env_protection)
        s, sw = row[0, :, 0].to(self.dtype), switch(r, c.rcut_smth, c.rcut).to(self.dtype)

        def embed(t: int) -> Tensor:
            pair = torch.full((len(r),), center * c.ntypes + t)
            return self.embedding.forward(s, pair, sw, Workspace(self.dtype))[0].double()

        span = basis.find(embed, around, self.dtype)
        if span is None:
            return None
        # [C 0; 0 1]: the last coordinate is the constant that carries the biases.
        full = torch.block_diag(span, torch.ones(1, 1, dtype=torch.float64))
        return full[:-1].to(self.dtype).contiguous(), self._layer(0, full)

    # --- one tile -------------------------------------------------------------------------------------------------

    def workspace(self) -> Workspace:
        """The calling thread's buffers."""
        if not hasattr(self._local, "ws"):
            self._local.ws = Workspace(self.dtype)
        ws: Workspace = self._local.ws
        return ws

    def __call__(self, tile: Any) -> tuple[Tensor, Tensor]:
        """Energies (B,) in eV and dE/dd (B, N, 3) in eV/Å, both float64.

        Args:
            tile: see ``dpa1_fast.batch.Tile``.
        """
        c, w, ws, dtype = self.config, self.weights, self.workspace(), self.dtype
        b, n = tile.mask.shape
        mask = tile.mask.double()
        davg, dstd = w.davg[tile.center_type].unsqueeze(1), w.dstd[tile.center_type].unsqueeze(1)
        env = env_matrix.forward(tile.d, mask, davg, dstd, c.rcut_smth, c.rcut, c.env_protection)
        row = env.row.to(dtype)
        sw = env.sw.to(dtype) if c.smooth_type_embedding else None
        pair = (tile.center_type.unsqueeze(1) * c.ntypes + tile.neighbor_type).flatten()
        s = row[..., 0].flatten()
        g, embedded = self.embedding.forward(s, pair, None if sw is None else sw.flatten(), ws)

        layers, phi, span, stack = self.layers, None, None, []
        gate = self._gate(tile, mask, env, sw) if c.attn_layer and n else None
        if gate is not None:
            found = self._first_layer(tile, env)
            if found is not None:
                span, first = found
                layers = [first, *self.layers[1:]]
                phi = torch.mm(g, span, out=ws.take("phi", len(g), span.shape[1]))
                phi[:, -1] = 1.0
            g = torch.add(g, self.b_out[0], out=ws.take("attention.g", *g.shape))
            for k, layer in enumerate(layers):
                g, saved = layer.forward(g, phi if k == 0 else None, gate, ws, f"attention{k}")
                stack.append((layer, saved))
        g3 = g.view(b, n, -1)
        empty = None
        if self.empty is not None:
            weight = tile.n_empty_row.to(dtype).view(-1, 1, 1)
            empty = self.empty[tile.first_type, tile.center_type] * weight
        d, x = contraction.forward(g3, row, empty, c.nsel, c.axis_neuron)
        energy, gd = self.fitting.forward_backward(d, tile.center_type, tile.fparam, tile.aparam, ws)

        gg, grad_row = contraction.backward(gd, x, g3, row, c.nsel, c.axis_neuron)
        gg = gg.flatten(0, 1)
        grad_u = grad_sw = None
        for k, (layer, saved) in reversed(list(enumerate(stack))):
            assert gate is not None
            r = layer.backward(gg, phi if k == 0 else None, saved, gate, ws)
            gg, grad_u = r.g, _plus(grad_u, r.u)
            grad_sw = _plus(grad_sw, r.sw)
            if r.phi is not None:
                assert span is not None
                gg.addmm_(r.phi, span.t())
        grad_s, from_strip = self.embedding.backward(gg, embedded)
        grad_sw = _plus(grad_sw, None if from_strip is None else from_strip.view(b, n))
        grad_row[..., 0] += grad_s.view(b, n)
        direction = None
        if grad_u is not None and gate is not None:
            direction, grad_sw = self._ungate(grad_u, env, sw, grad_sw)
        return energy, env_matrix.backward(
            env, grad_row.double(), None if grad_sw is None else grad_sw.double(), direction
        )

    def _first_layer(self, tile: Any, env: env_matrix.Environment) -> tuple[Tensor, GatedAttention] | None:
        """The reduced first layer where the tile has one centre type and no neighbour is too close to be sampled."""
        center = tile.center_type
        if bool((center != center[0]).any()):
            return None
        real = torch.where(tile.mask, env.distance.squeeze(-1), torch.inf)
        if float(real.min()) < basis.NEAREST:
            return None
        around = tuple(torch.unique(tile.neighbor_type[tile.mask]).tolist())
        return self.reduced(int(center[0]), around) if around else None

    def _gate(self, tile: Any, mask: Tensor, env: env_matrix.Environment, sw: Tensor | None) -> Gate:
        mask = mask.to(self.dtype)
        u = env.direction.to(self.dtype) if self.config.attn_dotr else mask.unsqueeze(-1)
        padded = not bool(tile.mask.all())
        if sw is None:
            return Gate(mask, padded, u, None, None)
        return Gate(mask, padded, u * sw.unsqueeze(-1), sw, tile.n_empty_key.to(self.dtype).unsqueeze(-1))

    def _ungate(
        self, grad_u: Tensor, env: env_matrix.Environment, sw: Tensor | None, grad_sw: Tensor | None
    ) -> tuple[Tensor | None, Tensor | None]:
        """From dE/du to dE/d(direction) (float64) and dE/dsw: u = r̂·sw with attn_dotr, else sw or a constant."""
        dotr = self.config.attn_dotr
        if sw is not None:
            unit = env.direction.to(grad_u.dtype) if dotr else torch.ones_like(grad_u)
            grad_sw = _plus(grad_sw, (grad_u * unit).sum(-1))
            grad_u = grad_u * sw.unsqueeze(-1)
        return (grad_u.double() if dotr else None), grad_sw


def _plus(a: Tensor | None, b: Tensor | None) -> Tensor | None:
    return b if a is None else a if b is None else a + b
