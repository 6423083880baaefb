"""One tile, forward and backward: the whole of DPA-1 on a CPU in the paper's order, and back."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any, TypeVar

import torch
from torch import Tensor

from ..reference import AttentionLayer, environment_matrix, padding_after_attention
from ..weights import Weights
from . import basis, contraction, env_matrix, radial
from .attention import FullLayer, ReducedLayer
from .basis import Coordinates
from .channels import Channels, Fitted
from .embedding import Embedding
from .fitting import Fitting
from .moments import Moments
from .radial import Series
from .workspace import Workspace

T = TypeVar("T")
Key = tuple[int, tuple[int, ...]]
"""A centre type and the types around it, sorted."""


class CpuEvaluator:
    """Energies of a tile's centres and dE/dd of its neighbours. Safe to call from several threads at once."""

    def __init__(self, weights: Weights) -> None:
        self.weights, self.config = weights, weights.config
        c = self.config
        self.dtype = weights.type_table.dtype
        self.embedding, self.fitting = Embedding(weights), Fitting(weights)
        self.one_center_type = True
        b_out = [layer.b_out for layer in weights.attention]
        self.b_out = b_out
        self.layers = [FullLayer(*self._arguments(k)) for k in range(c.attn_layer)]
        self.empty = self._empty_slots() if weights.davg.any() else None
        self.exact = self.embedding if self.dtype == torch.float64 else Embedding(weights.double())
        self._reduced: dict[Key, tuple[Coordinates, ReducedLayer] | None] = {}
        self._moments: dict[Key, Moments | None] = {}
        self._local = threading.local()
        self._lock = threading.Lock()

    # --- prepared once --------------------------------------------------------------------------------------------

    def _arguments(self, k: int) -> tuple[AttentionLayer, float, bool, float, Tensor | None]:
        c = self.config
        b_next = self.b_out[k + 1] if k + 1 < c.attn_layer else None
        return self.weights.attention[k], c.attention_scale, c.normalize, c.ln_eps, b_next

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

    def moments(self, center: int, around: tuple[int, ...]) -> Moments | None:
        """The fitted moments of a centre type with the types around it, or None where the net cannot be fitted."""

        def make() -> Moments | None:
            series = self._fit(center, around)
            return None if series is None else Moments(series, self.dtype)

        return self._once(self._moments, (center, around), make)

    def reduced(self, center: int, around: tuple[int, ...]) -> tuple[Coordinates, ReducedLayer] | None:
        """Coordinates and first attention layer in them for a centre type with the types around it; None if not worth
        it."""
        return self._once(self._reduced, (center, around), lambda: self._reduce(center, around))

    def _once(self, known: dict[Key, T], key: Key, make: Callable[[], T]) -> T:
        with self._lock:
            if key not in known:
                known[key] = make()
            return known[key]

    def _fit(self, center: int, around: tuple[int, ...]) -> Series | None:
        """The embedding of each type around a centre type as polynomials of s."""
        exact, n = self.exact, self.config.ntypes

        def net(t: int, s: Tensor) -> Tensor:
            pair = torch.full((s.shape[0],), center * n + t)
            g, saved = exact.forward(s, pair, torch.zeros_like(s), Workspace(torch.float64))
            return (g if saved.g_s is None or not exact.smooth else saved.g_s).clone()

        s, _ = self._radial(center, torch.tensor([basis.NEAREST, self.config.rcut], dtype=torch.float64))
        g_type = exact.g_type[[center * n + t for t in around]] if exact.smooth and exact.g_type is not None else None
        return radial.fit(net, around, float(s.min()), float(s.max()), radial.TOLERANCE[self.dtype], g_type)

    def _reduce(self, center: int, around: tuple[int, ...]) -> tuple[Coordinates, ReducedLayer] | None:
        series = self._fit(center, around)
        if series is None:
            return None
        s, sw = self._radial(center, basis.sample_distances(self.config.rcut))
        samples = []
        for t in around:
            pair = torch.full((s.shape[0],), center * self.config.ntypes + t)
            samples.append(self.exact.forward(s, pair, sw, Workspace(torch.float64))[0].clone())
        span = basis.find(torch.cat(samples), self.dtype)
        if span is None:
            return None
        # [C 0; 0 1]: the last coordinate is the constant that carries the biases.
        full = torch.nn.functional.pad(span, (0, 1, 0, 1))
        full[-1, -1] = 1.0
        return Coordinates(span, series, self.b_out[0]), ReducedLayer(*self._arguments(0), full)

    def _radial(self, center: int, distance: Tensor) -> tuple[Tensor, Tensor]:
        """s and sw (n,), float64, of neighbours at ``distance`` (n,) of a centre type."""
        c, w = self.config, self.weights
        davg, dstd = w.davg[center].view(1, 1, 4), w.dstd[center].view(1, 1, 4)
        d = torch.stack([distance, torch.zeros_like(distance), torch.zeros_like(distance)], dim=-1).unsqueeze(0)
        row, sw = environment_matrix(d, davg, dstd, c.rcut_smth, c.rcut, c.env_protection)
        return row[0, :, 0], sw[0]

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
        davg, dstd = w.davg[tile.center_type].unsqueeze(1), w.dstd[tile.center_type].unsqueeze(1)
        env = env_matrix.forward(tile.d, tile.mask.double(), davg, dstd, c.rcut_smth, c.rcut, c.env_protection)
        row = env.row.to(dtype)
        sw = env.sw.to(dtype) if c.smooth_type_embedding else None
        channel: Channels | Fitted = self._fitted(tile, env, row, sw, ws) or Channels(self, tile, env, row, sw, ws)
        x = channel.moments
        if self.empty is not None:
            weight = tile.n_empty_row.to(dtype).view(-1, 1, 1)
            x = x + self.empty[tile.first_type, tile.center_type] * weight
        x = x / c.nsel
        d = contraction.forward(x, c.axis_neuron)
        energy, gd = self.fitting.forward_backward(d, tile.center_type, tile.fparam, tile.aparam, ws)
        dx = contraction.backward(gd, x, c.axis_neuron) / c.nsel
        grad_row, grad_sw, direction = channel.backward(dx)
        return energy, env_matrix.backward(
            env, grad_row.double(), None if grad_sw is None else grad_sw.double(), direction
        )

    def around(self, tile: Any, env: env_matrix.Environment) -> tuple[int, tuple[int, ...]] | None:
        """The centre type of a tile and the types around it; None where there are several centre types, no neighbour,
        or a neighbour closer than what fits and bases were sampled for."""
        center = tile.center_type
        if not tile.mask.shape[1] or bool((center != center[0]).any()):
            return None
        if float(torch.where(tile.mask, env.distance.squeeze(-1), torch.inf).min()) < basis.NEAREST:
            return None
        present = torch.bincount(tile.neighbor_type[tile.mask], minlength=1)
        types = tuple(torch.nonzero(present).squeeze(-1).tolist())
        return (int(center[0]), types) if types else None

    def _fitted(
        self, tile: Any, env: env_matrix.Environment, row: Tensor, sw: Tensor | None, ws: Workspace
    ) -> Fitted | None:
        key = None if self.config.attn_layer else self.around(tile, env)
        moments = self.moments(*key) if key is not None else None
        return None if moments is None or key is None else Fitted(moments, key[1], tile, row, sw, ws)
