"""Layers of attention on a chunk: which kernels run, on what. The kernels stand in ``ops``.

A layer goes forward and keeps what its backward pass needs: its input, the three lengths, t and the numbers of the
softmax, and what attention added.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from torch import Tensor

from .chunks import Atoms
from .coordinates import Coordinates
from .device_model import DeviceModel
from .launch_configurations import LayerConfigurations
from .ops.gated_attention import (
    KEPT,
    NUMBERS,
    WIDE,
    _attention_output_kernel,
    _attention_project_kernel,
    _attention_scores_kernel,
)
from .ops.gated_attention_bwd import (
    _attention_norm_bwd_kernel,
    _attention_output_bwd_kernel,
    _attention_project_bwd_kernel,
    _attention_scores_bwd_kernel,
)
from .ops.reduced_attention import _reduced_output_kernel
from .ops.reduced_attention_bwd import _reduced_output_bwd_kernel, _reduced_project_bwd_kernel


@dataclass(frozen=True)
class Edges:
    """Of the batch: vector (e, 3) Å and gradient (e, 3) eV/Å, which is to be written, float64; type (e,) int32."""

    vector: Tensor
    type: Tensor
    gradient: Tensor


@dataclass(frozen=True)
class Rows:
    """A chunk's rows, one for each neighbour of each atom, and their environment.

    Attributes:
        atoms: whose. edges: of the batch. most: rows of one atom, at most. row, gate: (rows, 4).
    """

    atoms: Atoms
    edges: Edges
    most: int
    row: Tensor
    gate: Tensor

    def __len__(self) -> int:
        return len(self.row)

    def grid(self, rows: int) -> tuple[int, int]:
        """A program for every so many rows of every atom."""
        return len(self.atoms), max(1, -(-self.most // rows))


@dataclass(frozen=True)
class Gradients:
    """dE/dg (rows, M), of which the last layer gives the first value; dE/d(row), dE/d(gate) (rows, 4), added up from
    layer to layer; dE/dX (B, 4, MP)."""

    g: Tensor
    row: Tensor
    gate: Tensor
    x: Tensor


@dataclass(frozen=True)
class Kept:
    """What a layer's backward pass needs: g (rows, M), lengths (rows, 3), operands (rows, KEPT, M), stats
    (rows, NUMBERS), and what attention added, (rows, MP)."""

    g: Tensor
    lengths: Tensor
    operands: Tensor
    stats: Tensor
    attended: Tensor


class Layer:
    """A layer in all channels.

    Args:
        model: whose. k: which layer. configurations: fitted to the chunk.
    """

    def __init__(self, model: DeviceModel, k: int, configurations: LayerConfigurations) -> None:
        self.model, self.configurations = model, configurations
        self.matrices, self.vectors, self.factors, self.biases = model.layers[k]
        self.first, self.last = k == 0, k + 1 == len(model.layers)
        self.channels = model.mp

    @property
    def output_rows(self) -> int:
        """Rows of a block, each of which adds moments of its own after the last layer."""
        return self.configurations.output.rows

    # --- shared with the layer in coordinates -------------------------------------------------------------------------

    @property
    def shape(self) -> dict[str, Any]:
        """Constants of kernels that go over this layer's input."""
        return {"PREC": self.model.products, **self.model.shape}

    @property
    def narrow(self) -> bool:
        """Whether products read a copy of g in their own precision."""
        return self.model.operand != self.model.work

    @property
    def pairwise(self) -> dict[str, Any]:
        """Constants of kernels that look at pairs of neighbours."""
        options = self.model.options
        return {"SMOOTH": options["SMOOTH"], "DOTR": options["DOTR"], "NARROW": self.narrow, **self.shape}

    def lengths(self) -> dict[str, Any]:
        """Where in the numbers of the layer stands how lengths are found."""
        widths = self.model.factor_widths
        return {**widths, "MATRICES": 0, "VECTORS": 0, "FACTORS": self.factors, "BIASES": self.biases}

    def attend(self, rows: Rows, g: Tensor) -> Kept:
        """Up to y = w g."""
        m, atoms, c = self.model, rows.atoms, self.configurations
        kept = Kept(
            g, self.model.new(len(rows), 3), self.model.new(len(rows), KEPT.value, self.channels, operand=True),
            self.model.new(len(rows), NUMBERS.value), self.added(rows),
        )  # fmt: skip
        _attention_project_kernel[rows.grid(c.project.rows)](
            atoms.at, atoms.count, atoms.center_type, g, rows.gate, kept.lengths, kept.operands, kept.stats,
            self.matrices, self.vectors, SCALE=m.config.attention_scale, NORMALIZE=m.options["NORMALIZE"],
            NARROW=self.narrow, **self.lengths(), **self.shape, **c.project.options("BLOCK_ROWS", "BLOCK_INNER"),
        )  # fmt: skip
        _attention_scores_kernel[rows.grid(c.scores.rows)](
            atoms.at, atoms.count, atoms.n_key, g, rows.gate, kept.operands, kept.stats, **self.pairwise,
            **c.scores.options("BLOCK_QUERIES", "BLOCK_INNER", "BLOCK_KEYS"),
        )  # fmt: skip
        return kept

    def attend_bwd(self, rows: Rows, kept: Kept, scratch: Tensor) -> None:
        """From ȳ to what keys and queries receive, in ``scratch`` and among the numbers."""
        atoms = rows.atoms
        _attention_scores_bwd_kernel[(len(atoms),)](
            atoms.at, atoms.count, kept.g, rows.gate, scratch, kept.operands, kept.stats, **self.pairwise,
            **self.configurations.scores_bwd.options("BLOCK_KEYS", "BLOCK_INNER", "BLOCK_QUERIES"),
        )  # fmt: skip

    # --- in all channels ----------------------------------------------------------------------------------------------

    def added(self, rows: Rows) -> Tensor:
        """Room for what attention adds."""
        return self.model.new(len(rows), self.channels)

    def forward(self, rows: Rows, g: Tensor, g_out: Tensor, moments: Tensor) -> Kept:
        """Writes g_out (rows, M), or after the last layer moments (B, blocks, 4, MP)."""
        atoms, c, kept = rows.atoms, self.configurations.output, self.attend(rows, g)
        _attention_output_kernel[rows.grid(c.rows)](
            atoms.at, atoms.count, g, rows.row, kept.operands, kept.stats, kept.attended, g_out, moments,
            self.matrices, self.vectors, moments.shape[1], EPS=self.model.config.ln_eps, LAST=self.last, **self.shape,
            **c.options("BLOCK_ROWS", "BLOCK_INNER"),
        )  # fmt: skip
        return kept

    def backward(self, rows: Rows, kept: Kept, d: Gradients) -> None:
        """From dE/dg after this layer, or dE/dX, to dE/dg before it."""
        m, atoms, c, row, gate = self.model, rows.atoms, self.configurations, rows.row, rows.gate
        scratch = self.model.new(len(rows), WIDE.value, self.channels)
        _attention_norm_bwd_kernel[rows.grid(c.norm_bwd.rows)](
            atoms.at, atoms.count, kept.g, row, kept.attended, d.g, d.row, d.x, scratch, kept.stats, self.vectors,
            EPS=m.config.ln_eps, LAST=self.last, **m.shape, **c.norm_bwd.options("BLOCK_ROWS"),
        )  # fmt: skip
        _attention_output_bwd_kernel[rows.grid(c.output_bwd.rows)](
            atoms.at, atoms.count, scratch, kept.operands, self.matrices, **self.shape,
            **c.output_bwd.options("BLOCK_ROWS", "BLOCK_INNER"),
        )  # fmt: skip
        self.attend_bwd(rows, kept, scratch)
        _attention_project_bwd_kernel[rows.grid(c.project_bwd.rows)](
            atoms.at, atoms.count, kept.g, row, gate, kept.lengths, d.g, d.row, d.gate, scratch, kept.stats,
            self.matrices, self.vectors, **m.options, FIRST=self.first, LAST=self.last, **self.shape,
            **c.project_bwd.options("BLOCK_ROWS", "BLOCK_INNER"),
        )  # fmt: skip


class FirstLayer(Layer):
    """The first layer in coordinates φ, down to dE/d(row) and dE/d(sw); see ``ops/reduced_attention.py``."""

    def __init__(self, model: DeviceModel, coordinates: Coordinates, configurations: LayerConfigurations) -> None:
        self.model, self.coordinates, self.configurations = model, coordinates, configurations
        self.matrices, self.vectors, self.wide, self.norm = model.reduced
        self.first, self.last = True, len(model.layers) == 1
        self.channels = coordinates.width

    @property
    def shape(self) -> dict[str, Any]:
        """See ``Layer``; φ has no channels that are filled up."""
        return {"PREC": self.model.products, "M": self.channels, "MP": self.channels}

    @property
    def narrow(self) -> bool:
        """φ stands in the products' precision."""
        return False

    @property
    def kinds(self) -> dict[str, int]:
        """Numbers of one centre type."""
        return {k: self.model.of_reduced[k] for k in ("MATRICES", "VECTORS")}

    @property
    def widths(self) -> dict[str, Any]:
        """Constants of kernels that go over channels too."""
        of = self.model.of_reduced
        return {"N": of["N"], "NP": of["NP"], "M": self.channels, "PREC": self.model.products, "LAST": self.last}

    def lengths(self) -> dict[str, Any]:
        """See ``Layer``."""
        x = self.coordinates
        return {
            "FACTOR_REAL": x.factor_width, "FACTOR_WIDTH": x.factor_width, "FACTORS": x.factors, "BIASES": x.biases,
            **self.kinds,
        }  # fmt: skip

    def added(self, rows: Rows) -> Tensor:
        """None: two small products find it again."""
        return rows.row

    def forward(self, rows: Rows, g: Tensor, g_out: Tensor, moments: Tensor) -> Kept:
        """As ``Layer``'s; g is φ."""
        atoms, c, kept = rows.atoms, self.configurations.output, self.attend(rows, g)
        _reduced_output_kernel[rows.grid(c.rows)](
            atoms.at, atoms.count, atoms.center_type, g, rows.row, kept.operands, kept.stats, g_out, moments,
            self.wide, self.norm, moments.shape[1], EPS=self.model.config.ln_eps, **self.widths,
            **c.options("BLOCK_ROWS"),
        )  # fmt: skip
        return kept

    def backward(self, rows: Rows, kept: Kept, d: Gradients) -> None:
        """To dE/d(row) and dE/d(sw)."""
        m, atoms, c, row, gate = self.model, rows.atoms, self.configurations, rows.row, rows.gate
        scratch = self.model.new(len(rows), WIDE.value, self.channels)
        d_z = self.model.new(len(rows), m.mp, operand=True)
        _reduced_output_bwd_kernel[rows.grid(c.output_bwd.rows)](
            atoms.at, atoms.count, atoms.center_type, kept.g, row, d.g, d.row, d.x, d_z, scratch, kept.operands,
            kept.stats, self.wide, self.norm, EPS=m.config.ln_eps, **self.widths,
            **c.output_bwd.options("BLOCK_ROWS", "BLOCK_INNER"),
        )  # fmt: skip
        self.attend_bwd(rows, kept, scratch)
        _reduced_project_bwd_kernel[rows.grid(c.project_bwd.rows)](
            atoms.at, atoms.count, atoms.center_type, atoms.first, kept.g, row, gate, kept.lengths, d.row, d.gate,
            scratch, kept.stats, self.matrices, self.vectors, rows.edges.type, m.series_t, m.ranges, **m.options,
            LAST=self.last, **self.kinds, **m.of_series, PREC=m.products, **c.project_bwd.options("BLOCK_ROWS"),
        )  # fmt: skip


def bytes_per_row(model: DeviceModel) -> int:
    """Device memory that a row of a chunk takes, in all layers together."""
    layers, channels, work = len(model.layers), int(model.config.neuron[-1]), model.work.itemsize
    once: int = work * ((layers and (layers + 1) * (channels + 3)) + 16 + bool(layers) * WIDE.value * model.mp)
    by_layer: int = model.operand.itemsize * KEPT.value * model.mp + work * (NUMBERS.value + model.mp)
    return once + layers * by_layer
