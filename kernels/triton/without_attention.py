"""Models without attention, on a chunk: from distances to moments, and from dE/dX to dE/dd of the edges.

By series where they serve, and by the embedding net for many types, nets that are no short series, and atoms closer
than ``bases.NEAREST``.
"""

from __future__ import annotations

from typing import Any

from torch import Tensor

from .attention import Rows
from .device_model import DeviceModel
from .launch_configurations import EmbeddingConfigurations
from .ops.embedding import _embedding_bwd_kernel, _embedding_fwd_kernel
from .ops.series_moments import _series_moments_bwd_kernel, _series_moments_kernel
from .series_moments import SeriesMoments


class MomentsByNet:
    """The embedding net for every neighbour.

    Args:
        model: whose. configurations: fitted to the chunk.
    """

    def __init__(self, model: DeviceModel, configurations: EmbeddingConfigurations) -> None:
        self.model, self.configurations = model, configurations
        self.rows = configurations.embedding_fwd.rows

    @property
    def _constants(self) -> dict[str, Any]:
        m = self.model
        return {**m.environment, **m.embedding, "MP": m.mp, "SMOOTH": m.options["SMOOTH"], "PREC": m.products}

    def forward(self, rows: Rows) -> Tensor:
        """Moments (B, blocks, 4, MP), of blocks of ``rows`` neighbours each."""
        m, atoms, edges, c = self.model, rows.atoms, rows.edges, self.configurations.embedding_fwd
        grid = rows.grid(c.rows)
        moments = m.new(len(atoms), grid[1], 4, m.mp)
        _embedding_fwd_kernel[grid](
            edges.vector, edges.type, atoms.first, atoms.at, atoms.count, atoms.center_type, m.statistics, m.net,
            m.factors, rows.row, rows.gate, m.net, moments, moments.shape[1], DOTR=m.options["DOTR"], ATTENTION=False,
            M=m.config.neuron[-1], **self._constants, **c.options("BLOCK_ROWS"),
        )  # fmt: skip
        return moments

    def backward(self, rows: Rows, d_x: Tensor) -> None:
        """Writes dE/dd of the chunk's edges, from dE/dX (B, 4, MP)."""
        m, atoms, edges, c = self.model, rows.atoms, rows.edges, self.configurations.embedding_bwd
        _embedding_bwd_kernel[rows.grid(c.rows)](
            edges.vector, edges.gradient, edges.type, atoms.first, atoms.count, atoms.center_type, m.statistics,
            m.net, m.factors, d_x, **self._constants, **c.options("BLOCK_ROWS"),
        )  # fmt: skip


class MomentsBySeries:
    """Sums over neighbours first, then coefficients.

    Args:
        model: whose. series: its. configurations: fitted to the chunk.
    """

    rows = 1 << 30  # an atom's moments are one block, however many neighbours it has

    def __init__(self, model: DeviceModel, series: SeriesMoments, configurations: EmbeddingConfigurations) -> None:
        self.model, self.series, self.configurations = model, series, configurations

    @property
    def _constants(self) -> dict[str, Any]:
        m, x = self.model, self.series
        return {
            **m.environment, "TYPES": x.types, "SETS": x.sets, "TERMS": x.terms, "COLUMNS": x.columns, "MP": m.mp,
            "SERIES_PREC": m.precision.series_products,
        }  # fmt: skip

    def forward(self, rows: Rows) -> Tensor:
        """Moments (B, 1, 4, MP)."""
        m, x, atoms, edges = self.model, self.series, rows.atoms, rows.edges
        moments = m.new(len(atoms), 1, 4, m.mp)
        assert x.series.shape == (x.types, x.types, x.sets, x.terms, m.mp)
        assert x.series.is_contiguous()
        assert x.series.dtype == moments.dtype
        _series_moments_kernel[(len(atoms),)](
            edges.vector, edges.type, atoms.first, atoms.count, atoms.center_type, m.statistics, x.series, x.ranges,
            moments, **self._constants, **self.configurations.series_moments.options("BLOCK_ROWS", "BLOCK_INNER"),
        )  # fmt: skip
        return moments

    def backward(self, rows: Rows, d_x: Tensor) -> None:
        """Writes dE/dd of the chunk's edges, from dE/dX (B, 4, MP)."""
        m, x, atoms, edges = self.model, self.series, rows.atoms, rows.edges
        assert d_x.shape == (len(atoms), 4, m.mp)
        assert d_x.is_contiguous()
        assert x.series_t.shape == (x.types, x.types, x.sets, m.mp, x.terms)
        assert x.series_t.is_contiguous()
        assert x.series_t.dtype == d_x.dtype
        _series_moments_bwd_kernel[(len(atoms),)](
            edges.vector, edges.gradient, edges.type, atoms.first, atoms.count, atoms.center_type, m.statistics,
            x.series_t, x.ranges, d_x, **self._constants,
            **self.configurations.series_moments_bwd.options("BLOCK_ROWS", "BLOCK_INNER"),
        )  # fmt: skip
