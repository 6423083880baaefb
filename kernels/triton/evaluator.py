"""Evaluates batches with the Triton kernels: forward and backward chunk by chunk, no tape, nothing kept in between.

For each chunk of atoms: embedding; attention, layer by layer; contraction; energy net; contraction back; attention
back, layer by layer, and with the first the embedding's backward pass; the environment's. Then, for the batch, forces.
Two layers of attention take 19 launches a chunk beside those of the energy net (``energy.py``), 17 where the first is
taken in coordinates, and nothing else runs for a chunk: what is small is done once a batch (``chunks.py``). Only the
choice of chunks reads anything back from the device, once a batch; ``run`` does not.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from torch import Tensor

from ..outputs import Outputs
from ..prepare import bases
from ..prepare.weights import Weights
from . import chunks
from .attention import Edges, FirstLayer, Gradients, Layer, Rows, bytes_per_row
from .chunks import Atoms, Chunk, Order
from .configuration_cache import Tuned
from .coordinates import Coordinates
from .device_model import DeviceModel
from .energy import energies, values_per_atom
from .launch_configurations import (
    EDGE_ROWS,
    Configurations,
    EmbeddingConfigurations,
    bucket,
    configurations_for,
    power_of_two,
)
from .ops.contraction import _contraction_bwd_kernel, _contraction_fwd_kernel
from .ops.embedding import _embedding_fwd_kernel
from .ops.env_matrix import _environment_bwd_kernel
from .ops.gated_attention_bwd import _embedding_edges_bwd_kernel
from .ops.series import _coordinates_kernel
from .ops.sums import _forces_kernel, _virials_kernel
from .series_moments import SeriesMoments
from .side_stream import on_side_stream
from .without_attention import MomentsByNet, MomentsBySeries

FORCE_ROWS, VIRIAL_ROWS = 32, 64


class TritonEvaluator:
    """Evaluates batches on a GPU, or on tensors of a CPU in Triton's interpreter.

    Args:
        weights: the model's. precision: one of ``precision.PRECISIONS``. device: where.
        architecture: "sm_90" and the like; None in the interpreter.
        chunk_bytes: device memory for one chunk. configurations: for all atoms, whatever is shipped.
        tuned: what was measured on this card, see ``configuration_cache.py``.

    Attributes:
        choose: compiles ahead and finds configurations, see ``compiling/choice.py``: asked once for each bucket of
            neighbour counts, before it is launched; None for those that are tuned or shipped, compiled when launched.
    """

    def __init__(
        self, weights: Weights, precision: str, device: torch.device, architecture: str | None,
        chunk_bytes: int, configurations: Configurations | None = None, tuned: Tuned | None = None,
    ) -> None:  # fmt: skip
        self.model = DeviceModel(weights, precision, device, architecture)
        self.precision, self.device, self.architecture = precision, device, architecture
        self.chunk_bytes, self.configurations = chunk_bytes, configurations
        self.tuned = dict((tuned or {}).get(precision, {}))
        self.choose: Callable[[TritonEvaluator, int], Configurations] | None = None
        self._chosen: set[int] = set()
        cuda = device.type == "cuda"
        self._reading = torch.cuda.Stream(device, priority=-1) if cuda else None  # type: ignore[no-untyped-call]

    # --- a batch ------------------------------------------------------------------------------------------------------

    def __call__(self, batch: Any) -> Outputs:
        """Atomic energies (n,) in eV, dE/dd of every edge (e, 3) and forces (n, 3) in eV/Å, virials (S, 3, 3) in eV.

        Args:
            batch: see ``dpa1_fast.structures.batch.Batch``.
        """
        batch = batch.to(self.device)
        with self.on_device():
            with on_side_stream(batch, self._reading) as keep:
                order = chunks.by_neighbors(batch)
                sizes, near = chunks.read(order, self.near(batch))
                keep(order.count, order.atom)
            return self.run(batch, order, self.chunks(sizes), near=near)

    def near(self, batch: Any) -> Tensor:
        """Whether atoms of a batch are closer than series were sampled for: a number, where the batch is."""
        return chunks.near(batch.vector, bases.NEAREST)

    def too_near(self, batch: Any) -> bool:
        """The same on the host, where it matters; reads it from the device."""
        return self.model.sampled and bool(self.near(batch))

    def on_device(self) -> AbstractContextManager[Any]:
        """Triton launches on the device that is current."""
        return torch.cuda.device(self.device) if self.device.type == "cuda" else nullcontext()

    def chunks(self, sizes: Tensor) -> list[Chunk]:
        """Chunks of atoms with so many edges; see ``chunks.cut``."""
        m = self.model
        per_atom = m.work.itemsize * (values_per_atom(m) + 16 * m.mp)
        found = chunks.cut(sizes, bytes_per_row(m), per_atom, self.chunk_bytes)
        if self.choose is not None:
            for chunk in found:
                if bucket(chunk.most) not in self._chosen:
                    self.compile(chunk.most)
        return found

    def compile(self, most: int) -> None:
        """Makes what atoms with up to ``most`` neighbours need, where that was not done yet.

        Raises:
            ValueError: a kernel does not compile, or does not fit, however it is launched.
        """
        b = bucket(most)
        if self.choose is not None and b not in self._chosen:
            self.tuned = {**self.tuned, str(b): self.choose(self, b)}
            self._chosen.add(b)

    def run(self, batch: Any, order: Order, chunks: Sequence[Chunk], *, near: bool = False) -> Outputs:
        """What a call gives, by a choice of chunks. Reads nothing back from the device: a CUDA graph can capture it.

        Args:
            batch: on this device. Edges beyond the last atom's are left out; their neighbour is ``n_atoms``.
            order: of its atoms. chunks: with room for all their edges.
            near: whether atoms are closer than ``bases.NEAREST``, for which the net and the full layer stand in.
        """
        neighbor, arriving = torch.sort(batch.neighbor.to(torch.int32), stable=True)
        types = torch.nn.functional.pad(batch.types.to(torch.int32), (0, 1))
        edges = Edges(batch.vector, types[batch.neighbor], torch.zeros_like(batch.vector))
        center = order.atom[: chunks[-1].stop if chunks else 0]
        atoms = self._atoms(batch, order, center)
        for chunk in chunks:
            self._evaluate(edges, atoms.part(chunk), chunk, near)
        energy = torch.zeros(batch.n_atoms, dtype=torch.float64, device=self.device)
        energy.scatter_(0, center, atoms.energy)
        return Outputs(energy, edges.gradient, *self._sums(batch, edges, neighbor, arriving))

    def _atoms(self, batch: Any, order: Order, center: Tensor) -> Atoms:
        m = self.model
        count = order.count[: len(center)]
        rows = (count + (chunks.ROWS - 1)).bitwise_and(-chunks.ROWS)  # up to a multiple
        first_of_structure = batch.offsets[batch.structure[center]]
        return Atoms(
            first=batch.first_edge[center],
            at=torch.cumsum(rows, 0, dtype=torch.int64) - rows,
            count=count,
            center_type=batch.types[center].to(torch.int32),
            first_type=batch.types[first_of_structure].clamp_min(0).to(torch.int32),
            n_key=(batch.nsel - count).to(m.work),
            n_row=(batch.nsel - batch.n_filled[center]).to(m.work),
            extras=m.parameters(batch, center),
            energy=torch.empty(len(center), dtype=torch.float64, device=self.device),
        )

    # --- a chunk ------------------------------------------------------------------------------------------------------

    def _evaluate(self, edges: Edges, atoms: Atoms, chunk: Chunk, near: bool) -> None:
        """Energies of a chunk go to ``atoms``, dE/dd of its edges to ``edges``."""
        m, size = self.model, max(1, chunk.edges)
        configurations = self._configurations(chunk)
        embedding = configurations.embedding.fitted(chunk.most, m.mp)
        if not m.layers:
            rows = Rows(atoms, edges, chunk.most, m.net, m.net)
            made = self._moments(embedding, None if near else m.series_moments)
            made.backward(rows, self._energies(atoms, made.forward(rows), made.rows))
            return
        reduced = None if near else m.coordinates
        layers = self._layers(chunk, reduced, configurations)
        edge_rows = min(EDGE_ROWS, power_of_two(chunk.most))
        row, gate = m.new(size, 4), m.new(size, 4)
        rows = Rows(atoms, edges, chunk.most, row, gate)
        block_rows = layers[-1].output_rows
        moments = m.new(len(atoms), rows.grid(block_rows)[1], 4, m.mp)
        g = [m.new(size, m.config.neuron[-1]) for _ in layers]
        if reduced is not None:
            g[0] = m.new(size, reduced.width, operand=True)
        embed, arguments, options = self._embedding(rows, g[0], moments, embedding, reduced)
        embed[rows.grid(options["BLOCK_ROWS"])](*arguments, **options)
        kept = [layer.forward(rows, g[k], g[min(k + 1, len(g) - 1)], moments) for k, layer in enumerate(layers)]
        d_x = self._energies(atoms, moments, block_rows)
        d = Gradients(m.new(size, m.config.neuron[-1]), m.new(size, 4), m.new(size, 4), d_x)
        for layer in reversed(layers):
            layer.backward(rows, kept.pop(), d)
        if reduced is None:
            _embedding_edges_bwd_kernel[rows.grid(embedding.embedding_edges_bwd.rows)](
                atoms.at, atoms.count, atoms.first, atoms.center_type, edges.type, d.g, row, gate, d.row, d.gate,
                m.net, m.factors, SMOOTH=m.options["SMOOTH"], TYPES=m.config.ntypes, **m.embedding, **m.shape,
                PREC=m.products, **embedding.embedding_edges_bwd.options("BLOCK_ROWS"),
            )  # fmt: skip
        _environment_bwd_kernel[rows.grid(edge_rows)](
            edges.vector, edges.gradient, atoms.first, atoms.at, atoms.count, atoms.center_type, m.statistics,
            d.row, d.gate, **self._smooth, BLOCK_ROWS=edge_rows, num_warps=1,
        )  # fmt: skip

    @property
    def _smooth(self) -> dict[str, Any]:
        return {k: v for k, v in self.model.environment.items() if k != "TYPES"}

    def _configurations(self, chunk: Chunk) -> Configurations:
        return self.configurations or configurations_for(self.architecture, self.precision, chunk.most, self.tuned)

    def _moments(self, found: EmbeddingConfigurations, series: SeriesMoments | None) -> MomentsByNet | MomentsBySeries:
        """How moments are made without attention."""
        return MomentsByNet(self.model, found) if series is None else MomentsBySeries(self.model, series, found)

    def _layers(self, chunk: Chunk, reduced: Coordinates | None, found: Configurations) -> list[Layer]:
        """The layers of attention, as this chunk takes them."""
        m = self.model
        layer = found.layer.fitted(chunk.most, m.mp)
        out = [Layer(m, k, layer) for k in range(len(m.layers))]
        if reduced is not None:
            out[0] = FirstLayer(m, reduced, found.coordinates.fitted(chunk.most, reduced.width))
        return out

    def _embedding(
        self, rows: Rows, g: Tensor, moments: Tensor, found: EmbeddingConfigurations, reduced: Coordinates | None
    ) -> tuple[Any, tuple[Any, ...], dict[str, Any]]:
        """The kernel for environment and embedding of all rows, and what it takes: it writes g (rows, M), or
        coordinates."""
        m, atoms, edges = self.model, rows.atoms, rows.edges
        where = (edges.vector, edges.type, atoms.first, atoms.at, atoms.count, atoms.center_type, m.statistics)
        options = {"SMOOTH": m.options["SMOOTH"], "DOTR": m.options["DOTR"]}
        if reduced is not None:
            options |= {**self._smooth, **m.of_series, **found.coordinates.options("BLOCK_ROWS")}
            return _coordinates_kernel, (*where, m.series, m.ranges, rows.row, rows.gate, g), options
        options |= {**m.environment, **m.embedding, **m.shape, "ATTENTION": True, "PREC": m.products}
        options |= found.embedding_fwd.options("BLOCK_ROWS")
        written = (rows.row, rows.gate, g, moments, moments.shape[1])
        return _embedding_fwd_kernel, (*where, m.net, m.factors, *written), options

    def _energies(self, atoms: Atoms, moments: Tensor, rows: int) -> Tensor:
        """dE/dX (B, 4, MP); energies go to ``atoms``."""
        m = self.model
        n, width = len(atoms), m.config.dim_fitting_in
        x, d_x = m.new(n, 4, m.mp), m.new(n, 4, m.mp)
        inputs = torch.empty(n, width, dtype=m.net_input, device=self.device)
        shape = {**m.shape, **m.axes, "num_warps": 4, "num_stages": 1}
        _contraction_fwd_kernel[(n,)](
            atoms.count, atoms.center_type, atoms.first_type, moments, atoms.n_row, m.empty, m.order, m.axis,
            atoms.extras, x, inputs, moments.shape[1], width, EMPTY=m.carries, TYPES=m.config.ntypes, BLOCK_ROWS=rows,
            **m.extras, **shape,
        )  # fmt: skip
        types, new = atoms.center_type, m.new
        d_inputs = energies(m, types, inputs, m.bias, atoms.energy, new, backward=True)
        if m.config.fitting.subtract_vacuum:
            inputs[:, : m.config.dim_descrpt].zero_()
            vacuum = torch.empty_like(atoms.energy)
            energies(m, types, inputs, m.no_bias, vacuum, new, backward=False)
            atoms.energy.sub_(vacuum)
        _contraction_bwd_kernel[(n,)](x, m.order, m.axis, d_inputs, d_x, width, **shape)
        return d_x

    def _sums(self, batch: Any, edges: Edges, neighbor: Tensor, arriving: Tensor) -> tuple[Tensor, Tensor]:
        """Forces (n, 3) in eV/Å and virials (S, 3, 3) in eV. neighbor: sorted, arriving: whose edges these are."""
        n = batch.n_atoms
        ends = torch.arange(n + 1, dtype=torch.int32, device=self.device)
        first_arriving = torch.searchsorted(neighbor, ends)
        forces = torch.empty(n, 3, dtype=torch.float64, device=self.device)
        per_atom = torch.empty(n, 3, 3, dtype=torch.float64, device=self.device)
        _forces_kernel[(n,)](
            edges.gradient, edges.vector, batch.first_edge, arriving, first_arriving, forces, per_atom,
            BLOCK_ROWS=FORCE_ROWS, num_warps=1,
        )  # fmt: skip
        if batch.n_structures == 1:
            return forces, per_atom.sum(0, keepdim=True)
        virials = torch.empty(batch.n_structures, 3, 3, dtype=torch.float64, device=self.device)
        _virials_kernel[(batch.n_structures,)](per_atom, batch.offsets, virials, BLOCK_ROWS=VIRIAL_ROWS, num_warps=4)
        return forces, virials
