"""Evaluates batches with the Triton kernels: forward and backward chunk by chunk, no tape, nothing kept in between.

For each chunk of atoms: embedding; attention, layer by layer; contraction; energy net; contraction back; attention
back, layer by layer, and with the first the embedding's backward pass; the environment's. Then, for the batch, forces.
Two layers of attention take eight launches a chunk beside those of the energy net (``energy.py``), and nothing else
runs for a chunk: what is small is done once a batch (``chunks.py``). Only the choice of chunks reads anything back from
the device, once a batch; ``run`` does not.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ..outputs import Outputs
from ..prepare import bases
from ..prepare.weights import Weights
from . import chunks
from .chunks import Atoms, Chunk, Order
from .configuration_cache import Tuned
from .coordinates import Coordinates
from .device_model import DeviceModel
from .energy import energies, values_per_atom
from .launch_configurations import Phases, Tiles, coordinate_phases_for, phases_for, tiles_for
from .ops.attention import _attention_output_kernel, _attention_project_kernel, _attention_scores_kernel
from .ops.attention_bwd import (
    _attention_norm_bwd_kernel,
    _attention_output_bwd_kernel,
    _attention_project_bwd_kernel,
    _attention_scores_bwd_kernel,
    _embedding_edges_bwd_kernel,
)
from .ops.contraction import _contraction_bwd_kernel, _contraction_fwd_kernel
from .ops.embedding import _embedding_bwd_kernel, _embedding_fwd_kernel
from .ops.env_matrix import _environment_bwd_kernel
from .ops.gated_attention import KEPT, NUMBERS, WIDE
from .ops.reduced_attention import _reduced_output_kernel
from .ops.reduced_attention_bwd import _reduced_output_bwd_kernel, _reduced_project_bwd_kernel
from .ops.series import _coordinates_kernel
from .ops.sums import _forces_kernel, _virials_kernel

EDGES, EDGE_ROWS = 16, 32
"""Edges at a time where the embedding is: at the end of attention's backward pass, and elsewhere."""
WEIGHT_CHUNK = 16
"""Of the inner dimension of products with weights, at most."""
FORCE_ROWS, VIRIAL_ROWS = 32, 64


@dataclass(frozen=True)
class Edges:
    """Of the batch: vector (e, 3) Å and gradient (e, 3) eV/Å, which is to be written, float64; type (e,) int32."""

    vector: Tensor
    type: Tensor
    gradient: Tensor


class TritonEvaluator:
    """Evaluates batches on a GPU, or on tensors of a CPU in Triton's interpreter.

    Args:
        weights: the model's. precision: one of ``precision.PRODUCTS``. device: where.
        architecture: "sm_90" and the like, to look tiles up; None in the interpreter.
        programs: how many programs walk over atoms at a time. chunk_bytes: device memory for one chunk.
        tiles: for all atoms, whatever the table says. tuned: what was measured on this card,
            see ``configuration_cache.py``.
    """

    def __init__(
        self, weights: Weights, precision: str, device: torch.device, architecture: str | None,
        programs: int, chunk_bytes: int, tiles: Tiles | None = None, tuned: Tuned | None = None,
    ) -> None:  # fmt: skip
        self.model = DeviceModel(weights, precision, device, architecture)
        self.precision, self.device, self.architecture = precision, device, architecture
        self.programs, self.chunk_bytes, self.tiles = programs, chunk_bytes, tiles
        self.tuned = (tuned or {}).get(precision)
        self.phases: Phases | None = None
        self.coordinate_phases: Phases | None = None

    # --- a batch ------------------------------------------------------------------------------------------------------

    def __call__(self, batch: Any) -> Outputs:
        """Atomic energies (n,) in eV, dE/dd of every edge (e, 3) and forces (n, 3) in eV/Å, virials (S, 3, 3) in eV.

        Args:
            batch: see ``dpa1_fast.structures.batch.Batch``.
        """
        batch = batch.to(self.device)
        with self.on_device():
            order = chunks.by_neighbors(batch)
            sizes, near = chunks.read(order, batch.vector, bases.NEAREST)
            return self.run(batch, order, self.chunks(sizes), near=near)

    def too_near(self, batch: Any) -> bool:
        """Whether atoms of a batch are closer than the first layer's coordinates allow; reads it from the device."""
        return self.model.coordinates is not None and bool(chunks.near(batch.vector, bases.NEAREST))

    def on_device(self) -> AbstractContextManager[Any]:
        """Triton launches on the device that is current."""
        return torch.cuda.device(self.device) if self.device.type == "cuda" else nullcontext()

    def chunks(self, sizes: Tensor) -> list[Chunk]:
        """Chunks of atoms with so many edges; see ``chunks.cut``."""
        m = self.model
        layers = len(m.layers)
        per_edge = m.work.itemsize * (layers and (layers + 1) * (m.config.neuron[-1] + 3) + 16)
        if layers:
            per_edge += m.work.itemsize * WIDE.value * m.mp
            per_edge += layers * (m.operand.itemsize * KEPT.value * m.mp + m.work.itemsize * (NUMBERS.value + m.mp))
        per_atom = m.work.itemsize * (values_per_atom(m) + 16 * m.mp)
        return chunks.cut(sizes, per_edge, per_atom, self.chunk_bytes)

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
            self._evaluate(edges, atoms.part(chunk), chunk, None if near else self.model.coordinates)
        energy = torch.zeros(batch.n_atoms, dtype=torch.float64, device=self.device)
        energy.scatter_(0, center, atoms.energy)
        return Outputs(energy, edges.gradient, *self._sums(batch, edges, neighbor, arriving))

    def _atoms(self, batch: Any, order: Order, center: Tensor) -> Atoms:
        m = self.model
        count = order.count[: len(center)]
        rows = torch.div(count + (chunks.ROWS - 1), chunks.ROWS, rounding_mode="floor") * chunks.ROWS
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

    def _new(self, *shape: int) -> Tensor:
        return torch.empty(shape, dtype=self.model.work, device=self.device)

    def _evaluate(self, edges: Edges, atoms: Atoms, chunk: Chunk, reduced: Coordinates | None) -> None:
        """Energies of a chunk go to ``atoms``, dE/dd of its edges to ``edges``."""
        m = self.model
        tiles = self.tiles or tiles_for(self.architecture, self.precision, chunk.most, self.tuned)
        there, back = tiles.forward, tiles.backward
        phases = self.phases or phases_for(self.architecture, self.precision, chunk.most, m.mp)
        common = {"PREC": m.products, **m.shape}
        layers, size = len(m.layers), max(1, chunk.edges)
        edge_rows = min(there.rows, EDGE_ROWS)
        edge_blocks = max(1, -(-chunk.most // edge_rows))
        n, blocks, block_rows = len(atoms), 1 if layers else edge_blocks, edge_rows
        coordinates = self.coordinate_phases or coordinate_phases_for(
            self.precision, chunk.most, m.mp if reduced is None else reduced.width
        )
        if layers:
            block_rows = (coordinates if layers == 1 and reduced is not None else phases).output.rows
            blocks = max(1, -(-chunk.most // block_rows))

        def grid(rows: int) -> tuple[int, int]:
            return n, max(1, -(-chunk.most // rows))

        row, gate = (self._new(size, 4) if layers else m.net for _ in range(2))
        g = [self._new(size, m.config.neuron[-1]) for _ in range(layers)] or [m.net]
        lengths = [self._new(size, 3) for _ in range(layers)] or [m.net]
        moments = self._new(n, blocks, 4, m.mp)
        numbers_of = (m.statistics, m.net, m.factors)
        smooth = {k: v for k, v in m.environment.items() if k != "TYPES"}
        if reduced is not None:
            g[0] = torch.empty(size, reduced.width, dtype=m.operand, device=self.device)
            _coordinates_kernel[(n, edge_blocks)](
                edges.vector, edges.type, atoms.first, atoms.at, atoms.count, atoms.center_type, m.statistics,
                m.series, m.ranges, row, gate, g[0], **smooth, SMOOTH=m.options["SMOOTH"],
                DOTR=m.options["DOTR"], **m.of_series, R=edge_rows, num_warps=1, num_stages=1,
            )  # fmt: skip
        else:
            _embedding_fwd_kernel[(n, edge_blocks)](
                edges.vector, edges.type, atoms.first, atoms.at, atoms.count, atoms.center_type, *numbers_of,
                row, gate, g[0], moments, blocks, **m.environment, SMOOTH=m.options["SMOOTH"],
                DOTR=m.options["DOTR"], **m.embedding, ATTENTION=layers > 0, R=edge_rows,
                num_warps=8 if m.split and edge_rows == EDGE_ROWS else 4, num_stages=1, **common,
            )  # fmt: skip
        first = 0 if reduced is None else 1
        narrow = m.operand != m.work
        pairwise = {"SMOOTH": m.options["SMOOTH"], "DOTR": m.options["DOTR"]}
        scaled = {"SCALE": m.config.attention_scale, "NORMALIZE": m.options["NORMALIZE"]}
        kept = []
        for k in range(layers):
            last = k + 1 == layers
            if k < first:
                kept.append(
                    self._first_layer_fwd(atoms, row, gate, g, lengths, moments, blocks, reduced, coordinates, grid)
                )
                continue
            matrices, vectors, at_factors, at_biases = m.layers[k]
            operands = torch.empty(size, KEPT.value, m.mp, dtype=m.operand, device=self.device)
            stats = self._new(size, NUMBERS.value)
            attended = self._new(size, m.mp)
            kept.append((operands, stats, attended))
            _attention_project_kernel[grid(phases.project.rows)](
                atoms.at, atoms.count, atoms.center_type, g[k], gate, lengths[k], operands, stats, matrices, vectors,
                **scaled, NARROW=narrow, **m.factor_widths, MATRICES=0, VECTORS=0, FACTORS=at_factors,
                BIASES=at_biases, **common, **phases.project.options("B", "W"),
            )  # fmt: skip
            _attention_scores_kernel[grid(phases.scores.rows)](
                atoms.at, atoms.count, atoms.n_key, g[k], gate, operands, stats, **pairwise, NARROW=narrow, **common,
                **phases.scores.options("B", "C", "K"),
            )  # fmt: skip
            _attention_output_kernel[grid(phases.output.rows)](
                atoms.at, atoms.count, g[k], row, operands, stats, attended, g[k if last else k + 1], moments, matrices,
                vectors, blocks, EPS=m.config.ln_eps, LAST=last, **common, **phases.output.options("B", "W"),
            )  # fmt: skip
        d_x = self._energies(atoms, moments, blocks, block_rows)
        if not layers:
            _embedding_bwd_kernel[(n, max(1, -(-chunk.most // EDGES)))](
                edges.vector, edges.gradient, edges.type, atoms.first, atoms.count, atoms.center_type, *numbers_of,
                d_x, **m.environment, SMOOTH=m.options["SMOOTH"], **m.embedding, MP=m.mp, R=EDGES,
                PREC=m.products, num_warps=back.warps, num_stages=1,
            )  # fmt: skip
            return
        d_g, d_row, d_gate = self._new(size, m.config.neuron[-1]), self._new(size, 4), self._new(size, 4)
        scratch = self._new(size, WIDE.value, m.mp) if first < layers else d_g
        for k in reversed(range(layers)):
            last = k + 1 == layers
            if k < first:
                self._first_layer_bwd(
                    edges, atoms, row, gate, g[0], lengths[0], kept[0], d_g, d_row, d_gate, d_x, reduced, coordinates, grid
                )  # fmt: skip
                continue
            matrices, vectors, *_ = m.layers[k]
            operands, stats, attended = kept[k]
            _attention_norm_bwd_kernel[grid(phases.norm_bwd.rows)](
                atoms.at, atoms.count, g[k], row, attended, d_g, d_row, d_x, scratch, stats, vectors,
                EPS=m.config.ln_eps, LAST=last, **m.shape, R=phases.norm_bwd.rows, num_warps=phases.norm_bwd.warps,
            )  # fmt: skip
            _attention_output_bwd_kernel[grid(phases.output_bwd.rows)](
                atoms.at, atoms.count, scratch, operands, matrices, **common, **phases.output_bwd.options("B", "W"),
            )  # fmt: skip
            _attention_scores_bwd_kernel[(n,)](
                atoms.at, atoms.count, g[k], gate, scratch, operands, stats, **pairwise, NARROW=narrow, **common,
                **phases.scores_bwd.options("Q", "C", "K"),
            )  # fmt: skip
            _attention_project_bwd_kernel[grid(phases.project_bwd.rows)](
                atoms.at, atoms.count, g[k], row, gate, lengths[k], d_g, d_row, d_gate, scratch, stats, matrices,
                vectors, **m.options, FIRST=k == 0, LAST=last, **common, **phases.project_bwd.options("B", "W"),
            )  # fmt: skip
        if first == 0:
            _embedding_edges_bwd_kernel[grid(EDGES)](
                atoms.at, atoms.count, atoms.first, atoms.center_type, edges.type, d_g, row, gate, d_row, d_gate,
                m.net, m.factors, SMOOTH=m.options["SMOOTH"], TYPES=m.config.ntypes, **m.embedding, R=EDGES,
                num_warps=4, num_stages=1, **common,
            )  # fmt: skip
        _environment_bwd_kernel[(n, edge_blocks)](
            edges.vector, edges.gradient, atoms.first, atoms.at, atoms.count, atoms.center_type, m.statistics,
            d_row, d_gate, **smooth, R=edge_rows, num_warps=1,
        )  # fmt: skip

    def _first_layer_fwd(self, atoms, row, gate, g, lengths, moments, blocks, reduced, phases, grid):
        """The first layer in coordinates; what its backward pass needs."""
        m, size = self.model, len(row)
        matrices, vectors, wide, norm = m.reduced
        shape = {"M": reduced.width, "MP": reduced.width, "PREC": m.products}
        kinds = {k: m.of_reduced[k] for k in ("MATRICES", "VECTORS")}
        widths = {k: m.of_reduced[k] for k in ("N", "NP")}
        operands = torch.empty(size, KEPT.value, reduced.width, dtype=m.operand, device=self.device)
        stats = self._new(size, NUMBERS.value)
        last = len(m.layers) == 1
        _attention_project_kernel[grid(phases.project.rows)](
            atoms.at, atoms.count, atoms.center_type, g[0], gate, lengths[0], operands, stats, matrices, vectors,
            SCALE=m.config.attention_scale, NORMALIZE=m.options["NORMALIZE"], NARROW=False, LM=reduced.factor_width,
            LW=reduced.factor_width, **kinds, FACTORS=reduced.factors, BIASES=reduced.biases, **shape,
            **phases.project.options("B", "W"),
        )  # fmt: skip
        _attention_scores_kernel[grid(phases.scores.rows)](
            atoms.at, atoms.count, atoms.n_key, g[0], gate, operands, stats, SMOOTH=m.options["SMOOTH"],
            DOTR=m.options["DOTR"], NARROW=False, **shape, **phases.scores.options("B", "C", "K"),
        )  # fmt: skip
        _reduced_output_kernel[grid(phases.output.rows)](
            atoms.at, atoms.count, atoms.center_type, g[0], row, operands, stats, g[0 if last else 1], moments, wide,
            norm, blocks, EPS=m.config.ln_eps, LAST=last, **widths, M=reduced.width, PREC=m.products,
            B=phases.output.rows, num_warps=phases.output.warps, num_stages=1,
        )  # fmt: skip
        return operands, stats, g[0]

    def _first_layer_bwd(
        self, edges, atoms, row, gate, phi, lengths, kept, d_g, d_row, d_gate, d_x, reduced, phases, grid
    ):  # fmt: skip
        m, size = self.model, len(row)
        matrices, vectors, wide, norm = m.reduced
        shape = {"M": reduced.width, "MP": reduced.width, "PREC": m.products}
        kinds = {k: m.of_reduced[k] for k in ("MATRICES", "VECTORS")}
        widths = {k: m.of_reduced[k] for k in ("N", "NP")}
        operands, stats, _ = kept
        scratch = self._new(size, WIDE.value, reduced.width)
        d_z = torch.empty(size, m.mp, dtype=m.operand, device=self.device)
        last = len(m.layers) == 1
        _reduced_output_bwd_kernel[grid(phases.output_bwd.rows)](
            atoms.at, atoms.count, atoms.center_type, phi, row, d_g, d_row, d_x, d_z, scratch, operands, stats, wide,
            norm, EPS=m.config.ln_eps, LAST=last, **widths, M=reduced.width, PREC=m.products,
            **phases.output_bwd.options("B", "W"),
        )  # fmt: skip
        _attention_scores_bwd_kernel[(len(atoms),)](
            atoms.at, atoms.count, phi, gate, scratch, operands, stats, SMOOTH=m.options["SMOOTH"],
            DOTR=m.options["DOTR"], NARROW=False, **shape, **phases.scores_bwd.options("Q", "C", "K"),
        )  # fmt: skip
        _reduced_project_bwd_kernel[grid(phases.project_bwd.rows)](
            atoms.at, atoms.count, atoms.center_type, atoms.first, phi, row, gate, lengths, d_row, d_gate, scratch,
            stats, matrices, vectors, edges.type, m.series_t, m.ranges, **m.options, LAST=last, **kinds,
            **m.of_series, B=phases.project_bwd.rows, PREC=m.products, num_warps=phases.project_bwd.warps,
            num_stages=1,
        )  # fmt: skip

    def _energies(self, atoms: Atoms, moments: Tensor, blocks: int, rows: int) -> Tensor:
        """dE/dX (B, 4, MP); energies go to ``atoms``."""
        m = self.model
        n, width = len(atoms), m.config.dim_fitting_in
        x, d_x = self._new(n, 4, m.mp), self._new(n, 4, m.mp)
        inputs = torch.empty(n, width, dtype=m.net_input, device=self.device)
        shape = {**m.shape, **m.axes, "num_warps": 4, "num_stages": 1}
        _contraction_fwd_kernel[(n,)](
            atoms.count, atoms.center_type, atoms.first_type, moments, atoms.n_row, m.empty, m.order, m.axis,
            atoms.extras, x, inputs, blocks, width, EMPTY=m.carries, TYPES=m.config.ntypes, R=rows, **m.extras,
            **shape,
        )  # fmt: skip
        types, new = atoms.center_type, self._new
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
            R=FORCE_ROWS, num_warps=1,
        )  # fmt: skip
        if batch.n_structures == 1:
            return forces, per_atom.sum(0, keepdim=True)
        virials = torch.empty(batch.n_structures, 3, 3, dtype=torch.float64, device=self.device)
        _virials_kernel[(batch.n_structures,)](per_atom, batch.offsets, virials, R=VIRIAL_ROWS, num_warps=4)
        return forces, virials
