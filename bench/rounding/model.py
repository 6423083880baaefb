"""A model evaluated as the Triton kernels do, in plain torch on a CPU, each product with operands rounded as told.

Networks, series and attention are in files of their own; the environment matrix is float64.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from bench.rounding.attention import Attention, in_coordinates, merged
from bench.rounding.products import Products, TimesWeight
from bench.rounding.series import RoundedSeries
from dpa1_fast.kernels import reference as ref
from dpa1_fast.kernels.precision import PRECISIONS
from dpa1_fast.kernels.prepare import merging
from dpa1_fast.kernels.prepare.weights import Weights
from dpa1_fast.kernels.triton import coordinates
from dpa1_fast.structures.batch import Tile

ENGINE = {
    "float64": "float64", "tf32": "tf32", "tf32, truncated": "tf32", "float16": "float16", "bfloat16": "bfloat16",
}  # fmt: skip
"""The engine's precision by which a mode's coordinates are looked for; "float32" for all others."""

SERIES = {"float16": "tf32, truncated", "bfloat16": "tf32, truncated"}
"""How products of series are rounded, where not as all others; see ``kernels/precision.py``."""


class RoundedModel:
    """A model evaluated as the kernels do, tile by tile. Not for models with frame or atomic parameters.

    Args:
        weights: the model's. dot: the products, and with them the precision of everything else.
        reduced: whether the first layer of attention is taken in coordinates, where they are worth it.

    Attributes:
        reduced: whether it is.
    """

    def __init__(self, weights: Weights, dot: Products, *, reduced: bool = False) -> None:
        w = weights.double()
        c = w.config
        if w.fparam or w.aparam or w.case_embd is not None or c.fitting.subtract_vacuum:
            raise ValueError("rounding is emulated for models without frame, atomic or case parameters only")
        self.weights, self.config, self.dot = w, c, dot
        self.first = {k: x.to(dot.dtype) for k, x in merging.first_layer(w).items()}
        self.factors = None
        if w.strip is not None:
            table = ref.network(merging.pairs_of_types(w), w.strip, ref.activation(c.activation_function))
            self.factors = table.expand(c.ntypes**2, -1).to(dot.dtype)
        self.empty = merging.empty_slots(w).to(dot.dtype) if w.davg.any() else None
        self.layers = [merged(x, dot.dtype) for x in w.attention]
        found = None
        if reduced:
            m = c.neuron[-1]
            found = coordinates.find(w, torch.arange(m), m, PRECISIONS[ENGINE.get(dot.mode, "float32")].series)
        self.reduced = found is not None
        if found is not None:
            self.layers[0] = in_coordinates(found, dot.dtype)
            of_series = Products(SERIES[dot.mode]) if dot.mode in SERIES else dot
            self.series = RoundedSeries(found, of_series, dot)

    def __call__(self, tile: Tile) -> tuple[Tensor, Tensor]:
        """Atomic energies (B,) in eV and dE/dd (B, N, 3) in eV/Å."""
        d = tile.d.detach().requires_grad_()
        energy = self._energies(tile, d)
        if not d.numel():
            return energy.detach(), torch.zeros_like(d)
        return energy.detach(), torch.autograd.grad(energy.sum(), d)[0]

    def _net(self, x: Tensor, layers: Sequence[ref.Layer], name: str) -> Tensor:
        act = ref.activation(name)
        for weight, bias, idt in layers:
            y = TimesWeight.apply(x, weight.to(x), self.dot)
            y = act(y if bias is None else y + bias.to(x))
            y = y if idt is None else y * idt.to(x)
            copies = {x.shape[-1]: 1, 2 * x.shape[-1]: 2}.get(y.shape[-1], 0)
            x = y + torch.cat([x] * copies, dim=-1) if copies else y
        return x

    def _embed(self, tile: Tile, s: Tensor, sw: Tensor) -> Tensor:
        if self.reduced:
            return self.series(s[..., 0], sw, tile.mask, tile.center_type, tile.neighbor_type)
        c, first = self.config, self.first
        pair = tile.center_type.unsqueeze(-1) * c.ntypes + tile.neighbor_type
        pre = first["first.pre"].expand(c.ntypes**2, -1)[pair]
        g = ref.activation(c.activation_function)(s * first["first.w_s"] + pre) * first.get("first.idt", 1.0)
        if "first.r_s" in first:
            g = g + s * first["first.r_s"] + first["first.r_types"].expand(c.ntypes**2, -1)[pair]
        g = self._net(g, self.weights.embedding[1:], c.activation_function)
        if self.factors is None:
            return g
        return g * (self.factors[pair] * sw.unsqueeze(-1) if c.smooth_type_embedding else self.factors[pair]) + g

    def _energies(self, tile: Tile, d: Tensor) -> Tensor:
        c, w = self.config, self.weights
        davg, dstd = (x[tile.center_type].unsqueeze(1) for x in (w.davg, w.dstd))
        row, sw = ref.environment_matrix(d, davg, dstd, c.rcut_smth, c.rcut, c.env_protection)
        row, sw = (row * tile.mask.unsqueeze(-1)).to(self.dot.dtype), (sw * tile.mask).to(self.dot.dtype)
        g = self._embed(tile, row[..., :1], sw)
        gate = sw if c.smooth_type_embedding else tile.mask.to(sw)
        u = gate.unsqueeze(-1) * (ref.unit_rows(row) if c.attn_dotr else 1.0)
        empty = tile.n_empty_key.to(sw) if c.smooth_type_embedding else None
        for k, layer in enumerate(self.layers):
            layer = layer.at(tile.center_type) if self.reduced and k == 0 else layer
            g = Attention.apply(g, u, gate, tile.mask, empty, c, layer, self.dot)
        padding = None
        if self.empty is not None:
            padding = self.empty[tile.first_type, tile.center_type].mT * tile.n_empty_row.to(sw).view(-1, 1, 1)
        descriptor = ref.contraction(ref.moments(g, row, padding), c.nsel, c.axis_neuron)
        if c.concat_output_tebd:
            descriptor = torch.cat([descriptor, w.type_table[tile.center_type].to(descriptor)], dim=-1)
        *hidden, last = w.fitting
        h = self._net(descriptor, hidden, c.fitting.activation_function).double()
        energy = h @ last.weight[:, 0].to(self.dot.dtype).double() + (0.0 if last.bias is None else last.bias)
        alive = torch.ones(c.ntypes, dtype=torch.float64)
        alive[[t for t in c.fitting.exclude_types if 0 <= t < c.ntypes]] = 0.0
        return (energy + w.bias[tile.center_type]) * alive[tile.center_type] + w.out_bias[tile.center_type]
