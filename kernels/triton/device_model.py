"""A model on the device: its numbers as the Triton kernels read them, and the constants that kernels are compiled with.

Made once; a batch changes nothing here.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from ..precision import PRECISIONS
from ..prepare import merging
from ..prepare.weights import Weights
from ..reference import activation, network
from . import coordinates, packing, series_moments
from .coordinates import Coordinates
from .series_moments import SeriesMoments


class DeviceModel:
    """A model's numbers on a device.

    Args:
        weights: the model's. precision: one of ``precision.PRECISIONS``. device: where.
        architecture: "sm_90" and the like; None in the interpreter.

    Attributes:
        work, operand: what is kept between products, and what their large matrices stand in. products: how they are
            done; ``split``: with operands in several parts.
        mp: channels, filled up. layers: matrices, vectors and where those of lengths begin, of each layer of attention.
        coordinates: of its first layer, or None: then ``series``, ``ranges`` and ``reduced`` are missing.
        series_moments: of a model without attention, or None.
        Dictionaries: constants by the names that kernels give them.
    """

    def __init__(self, weights: Weights, precision: str, device: torch.device, architecture: str | None) -> None:
        w = weights.double().to(torch.device("cpu"))
        c = w.config
        self.weights, self.config, self.device = w, c, device
        self.precision = PRECISIONS[precision]
        self.work, self.operand, self.products = self.precision.work, self.precision.operand, self.precision.products
        if architecture is None and precision == "bfloat16":
            self.products = "rounded_bfloat16"
        self.split = "x3" in self.products
        order = self._embedding(w)
        self._attention(w, order)
        self.series_moments = self._series_moments(series_moments.find(w, order, self.mp, self.precision.series))
        self.coordinates = None
        if precision != "float64" or architecture is None:
            self.coordinates = coordinates.find(w, order, self.mp, self.precision.series)
        if self.coordinates is not None:
            self._first_layer(self.coordinates)
        self._energy(w)
        self.environment = {"SMTH": c.rcut_smth, "RCUT": c.rcut, "PROTECTION": c.env_protection, "TYPES": c.ntypes}
        self.shape = {"M": c.neuron[-1], "MP": self.mp}
        self.axes = {"AXIS": c.axis_neuron, "AXIS_PADDED": packing.padded(c.axis_neuron), "NSEL": float(c.nsel)}

    def new(self, *shape: int, operand: bool = False) -> Tensor:
        """An array that a kernel is to fill, in the work precision, or the operands'."""
        return torch.empty(shape, dtype=self.operand if operand else self.work, device=self.device)

    def _here(self, x: Tensor, dtype: torch.dtype | None = None) -> Tensor:
        return x.to(device=self.device, dtype=dtype or self.work).contiguous()

    def _embedding(self, w: Weights) -> Tensor:
        """The net, its channels' new order, and what goes by type."""
        c, e = w.config, packing.embedding_numbers(w)
        self.mp = e.widths[-1]
        self.net = self._here(e.net)
        self.statistics = self._here(torch.cat([w.davg, w.dstd], dim=1), torch.float64)
        self.order = self._here(e.order, torch.int32)
        self.axis = self._here(torch.argsort(e.order)[: c.axis_neuron], torch.int32)
        self.factors = self.net[:1]
        if w.strip is not None:
            factors = network(merging.pairs_of_types(w), w.strip, activation(c.activation_function))
            factors = factors.expand(c.ntypes**2, -1)[:, e.order]
            self.factors = self._here(packing.fill(factors, c.ntypes**2, self.mp))
        self.empty = self.net[:1]
        self.carries = bool(w.davg.any())
        if self.carries:
            table = merging.empty_slots(w)[..., e.order]
            self.empty = self._here(packing.fill(table, c.ntypes, c.ntypes, 4, self.mp))
        kind, threshold = (float(x) for x in merging.activation_code(c.activation_function))
        self.embedding = {
            "WIDTHS": e.widths, "REAL": e.widths if self.split else e.real, "RESIDUALS": e.residuals,
            "STARTS": e.starts, "KIND": merging.ACTIVATIONS[int(kind)], "THRESHOLD": threshold,
            "STRIP": w.strip is not None,
        }  # fmt: skip
        return e.order

    def _attention(self, w: Weights, order: Tensor) -> None:
        """All layers in all channels."""
        c = w.config
        factor_width, factor_filled = packing.factor_widths(w)
        layers = [
            packing.attention_numbers(packing.layer_in_order(x, order), self.mp, factor_filled) for x in w.attention
        ]
        self.layers = [
            (self._here(x.matrices, self.operand), self._here(x.vectors), x.factors, x.biases) for x in layers
        ]
        self.options = {"SMOOTH": c.smooth_type_embedding, "DOTR": c.attn_dotr, "NORMALIZE": c.normalize}
        self.factor_widths = {"FACTOR_REAL": factor_width, "FACTOR_WIDTH": factor_filled}

    def _first_layer(self, x: Coordinates) -> None:
        """The first layer in coordinates, and the series that lead to them."""
        c, here = self.config, self._here
        self.series, self.series_t, self.ranges = here(x.series), here(x.series_t), here(x.ranges)
        self.reduced = (here(x.matrices, self.operand), here(x.vectors), here(x.wide, self.operand), here(x.norm))
        self.of_series = {
            "TYPES": c.ntypes, "SETS": x.sets, "TERMS": x.terms, "M": x.width,
            "SERIES_PREC": self.precision.series_products,
        }  # fmt: skip
        self.of_reduced = {
            "N": c.neuron[-1], "NP": self.mp, "MATRICES": x.matrices.shape[1], "VECTORS": x.vectors.shape[1],
        }  # fmt: skip

    def _series_moments(self, x: SeriesMoments | None) -> SeriesMoments | None:
        if x is None:
            return None
        here = self._here
        return replace(x, series=here(x.series), series_t=here(x.series_t), ranges=here(x.ranges, torch.float64))

    def leave_series(self) -> None:
        """From now on the embedding is the net for every neighbour, and the first layer is taken in all channels."""
        self.coordinates = self.series_moments = None

    @property
    def sampled(self) -> bool:
        """Whether atoms closer than ``bases.NEAREST`` are evaluated in another way than all others."""
        return self.coordinates is not None or self.series_moments is not None

    def _energy(self, w: Weights) -> None:
        """The energy net, and what it reads besides D."""
        c, here = w.config, self._here
        hidden, last = packing.energy_net(w)
        self.fitting = [packing.EnergyLayer(here(x.weight, self.operand), here(x.vectors), x.residual) for x in hidden]
        self.fit_last = here(last)
        # Only products read the input of a layer that does not add it again: it is rounded when it is made.
        self.net_input = self.operand if hidden and not hidden[0].residual else self.work
        alive = torch.ones(c.ntypes, dtype=torch.float64)
        alive[[t for t in c.fitting.exclude_types if 0 <= t < c.ntypes]] = 0.0
        self.alive = here(alive, torch.float64)
        self.bias = here(w.bias * alive + w.out_bias, torch.float64)
        self.no_bias = torch.zeros_like(self.bias)
        self.tebd = here(w.type_table)
        self.fparam, self.aparam = (x and tuple(here(y, torch.float64) for y in x) for x in (w.fparam, w.aparam))
        self.case_embd = None if w.case_embd is None else here(w.case_embd)
        more = c.dim_fitting_in - c.neuron[-1] * c.axis_neuron
        self.extras = {"EXTRA": more, "EXTRA_PADDED": packing.padded(more) if more else 0}
        kind, threshold = (float(x) for x in merging.activation_code(c.fitting.activation_function))
        self.net_activation = {"KIND": merging.ACTIVATIONS[int(kind)], "THRESHOLD": threshold}

    def parameters(self, batch: Any, center: Tensor) -> Tensor:
        """What the energy net reads besides D, for each centre. (B, …)"""
        parts = []
        if self.config.concat_output_tebd:
            parts.append(self.tebd[batch.types[center]])
        if batch.fparam is not None and self.fparam is not None:
            average, inverse = self.fparam
            parts.append(((batch.fparam[batch.structure[center]] - average) * inverse).to(self.work))
        if batch.aparam is not None and self.aparam is not None and self.config.fitting.numb_aparam_in:
            average, inverse = self.aparam
            parts.append(((batch.aparam[center] - average) * inverse).to(self.work))
        if self.case_embd is not None:
            parts.append(self.case_embd.expand(len(center), -1))
        return torch.cat(parts, dim=-1) if parts else self.tebd.new_empty(len(center), 0)
