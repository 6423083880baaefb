"""Evaluates batches with the Triton kernels: forward and backward chunk by chunk, no tape, nothing kept in between.

For each chunk of atoms: embedding; attention, layer by layer; contraction; energy net; contraction back; attention
back, layer by layer, and with the first the embedding's way back; the environment's. Then, for the whole batch, forces.
Two layers of attention take nine launches a chunk, and nothing else runs for a chunk: what is small is done once a
batch (``plan.py``). Only the choice of chunks reads anything back from the device, once a batch; ``run`` does not.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from . import coordinates, packing, plan
from .contraction import _contraction_bwd_kernel, _contraction_fwd_kernel
from .coordinates import Coordinates
from .cpu import basis, numbers
from .embedding import _embedding_bwd_kernel, _embedding_fwd_kernel
from .energy_net import _energy_net_kernel
from .env_matrix import _environment_bwd_kernel
from .gated_attention import KEPT, NUMBERS, WIDE, _gated_attention_fwd_kernel
from .gated_attention_bwd import _gated_attention_bwd_kernel
from .plan import Atoms, Chunk, Order
from .precision import OPERANDS, PRODUCTS, WORK
from .reduced_attention import _reduced_attention_fwd_kernel
from .reduced_attention_bwd import _reduced_attention_bwd_kernel
from .reference import activation, network
from .series import _coordinates_kernel
from .sums import _forces_kernel, _virials_kernel
from .tile_cache import Tuned
from .tiles import BUCKETS, Tile, Tiles, reduced_back_tile, reduced_tile, tiles_for
from .weights import Weights

EDGES, EDGE_ROWS = 16, 32
"""Edges at a time where the embedding is: at the end of attention's way back, and elsewhere."""
NET_ATOMS, NET_COLUMNS = 64, 64
"""The tile of the energy net."""
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
        tiles: for all atoms, whatever the table says. tuned: what was measured on this card, see ``tile_cache.py``.
    """

    def __init__(
        self, weights: Weights, precision: str, device: torch.device, architecture: str | None,
        programs: int, chunk_bytes: int, tiles: Tiles | None = None, tuned: Tuned | None = None,
    ) -> None:  # fmt: skip
        w = weights.double().to(torch.device("cpu"))
        self.weights, self.config, self.device = w, w.config, device
        self.precision, self.architecture, self.programs = precision, architecture, programs
        self.chunk_bytes, self.tiles = chunk_bytes, tiles
        self.tuned = (tuned or {}).get(precision)
        self.work, self.products = WORK[precision], PRODUCTS[precision]
        if architecture is None and precision == "bfloat16":
            self.products = "rounded_bfloat16"
        self.operand, self.split = OPERANDS[precision], "x3" in self.products
        self._pack(w)

    # --- prepared once ------------------------------------------------------------------------------------------------

    def _pack(self, w: Weights) -> None:
        c = self.config

        def here(x: Tensor, dtype: torch.dtype | None = None) -> Tensor:
            return x.to(device=self.device, dtype=dtype or self.work).contiguous()

        e = packing.embedding_numbers(w)
        self.mp = e.widths[-1]
        factor_width, factor_filled = packing.factor_widths(w)
        self.net = here(e.net)
        self.statistics = here(torch.cat([w.davg, w.dstd], dim=1), torch.float64)
        self.order = here(e.order, torch.int32)
        self.axis = here(torch.argsort(e.order)[: c.axis_neuron], torch.int32)
        self.factors = self.net[:1]
        if w.strip is not None:
            factors = network(numbers.pairs_of_types(w), w.strip, activation(c.activation_function))
            factors = factors.expand(c.ntypes**2, -1)[:, e.order]
            self.factors = here(packing.fill(factors, c.ntypes**2, self.mp))
        self.empty = self.net[:1]
        self.carries = bool(w.davg.any())
        if self.carries:
            table = numbers.empty_slots(w)[..., e.order]
            self.empty = here(packing.fill(table, c.ntypes, c.ntypes, 4, self.mp))
        layers = [
            packing.attention_numbers(packing.layer_in_order(x, e.order), self.mp, factor_filled) for x in w.attention
        ]
        self.layers = [(here(x.matrices, self.operand), here(x.vectors), x.factors, x.biases) for x in layers]
        self.coordinates = None
        if reduced_tile(self.architecture, self.precision, BUCKETS[-1]) is not None:
            self.coordinates = coordinates.find(w, e.order, self.mp, self.precision)
        if self.coordinates is not None:
            x = self.coordinates
            self.series, self.series_t, self.ranges = here(x.series), here(x.series_t), here(x.ranges)
            self.reduced = (here(x.matrices, self.operand), here(x.vectors), here(x.wide, self.operand), here(x.norm))
            self.of_series = {
                "TYPES": c.ntypes, "SETS": x.sets, "TERMS": x.terms, "M": x.width,
                "SERIES_PREC": coordinates.SERIES.get(self.products, self.products),
            }  # fmt: skip
            self.of_reduced = {
                "N": c.neuron[-1], "NP": self.mp, "MATRICES": x.matrices.shape[1], "VECTORS": x.vectors.shape[1],
            }  # fmt: skip
        fit = packing.energy_numbers(w, step=NET_COLUMNS)
        self.fitting = fit
        self.fit_weights, self.fit_vectors = here(fit.weights, self.operand), here(fit.vectors)
        self.fit_last = here(fit.last)
        alive = torch.ones(c.ntypes, dtype=torch.float64)
        alive[[t for t in c.fitting.exclude_types if 0 <= t < c.ntypes]] = 0.0
        self.alive = here(alive, torch.float64)
        self.bias = here(w.bias * alive + w.out_bias, torch.float64)
        self.no_bias = torch.zeros_like(self.bias)
        self.tebd = here(w.type_table)
        self.fparam, self.aparam = (x and tuple(here(y, torch.float64) for y in x) for x in (w.fparam, w.aparam))
        self.case_embd = None if w.case_embd is None else here(w.case_embd)
        more = c.dim_fitting_in - c.neuron[-1] * c.axis_neuron
        self.extras = {"EXTRA": more, "EP": packing.padded(more) if more else 0}
        kind, threshold = (float(x) for x in numbers.activation_code(c.activation_function))
        fit_kind, fit_threshold = (float(x) for x in numbers.activation_code(c.fitting.activation_function))
        self.environment = {"SMTH": c.rcut_smth, "RCUT": c.rcut, "PROTECTION": c.env_protection, "TYPES": c.ntypes}
        self.embedding = {
            "WIDTHS": e.widths, "REAL": e.widths if self.split else e.real, "RESIDUALS": e.residuals,
            "STARTS": e.starts, "KIND": numbers.ACTIVATIONS[int(kind)], "T": threshold, "STRIP": w.strip is not None,
        }  # fmt: skip
        self.options = {"SMOOTH": c.smooth_type_embedding, "DOTR": c.attn_dotr, "NORMALIZE": c.normalize}
        self.shape = {"M": c.neuron[-1], "MP": self.mp}
        self.factor_widths = {"LM": factor_width, "LW": factor_filled}
        self.axes = {"A": c.axis_neuron, "AP": packing.padded(c.axis_neuron), "NSEL": float(c.nsel)}
        self.net_layout = {
            "WIDTHS": fit.widths, "PADDED": fit.padded, "RESIDUALS": fit.residuals, "AT": fit.at,
            "WEIGHTS": fit.weight_starts, "VECTORS": fit.vector_starts,
            "KIND": numbers.ACTIVATIONS[int(fit_kind)], "T": fit_threshold,
        }  # fmt: skip

    # --- a batch ------------------------------------------------------------------------------------------------------

    def __call__(self, batch: Any) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Atomic energies (n,) in eV, dE/dd of every edge (e, 3) and forces (n, 3) in eV/Å, virials (S, 3, 3) in eV.

        Args:
            batch: see ``dpa1_fast.batch.Batch``.
        """
        batch = batch.to(self.device)
        with self.on_device():
            order = plan.by_neighbors(batch)
            sizes, near = plan.read(order, batch.vector, basis.NEAREST)
            return self.run(batch, order, self.chunks(sizes), near=near)

    def too_near(self, batch: Any) -> bool:
        """Whether atoms of a batch are closer than the first layer's coordinates allow; reads it from the device."""
        return self.coordinates is not None and bool(plan.near(batch.vector, basis.NEAREST))

    def on_device(self) -> AbstractContextManager[Any]:
        """Triton launches on the device that is current."""
        return torch.cuda.device(self.device) if self.device.type == "cuda" else nullcontext()

    def chunks(self, sizes: Tensor) -> list[Chunk]:
        """Chunks of atoms with so many edges; see ``plan.cut``."""
        layers = len(self.layers)
        per_edge = self.work.itemsize * (layers and (layers + 1) * (self.config.neuron[-1] + 3) + 16)
        widths = self.fitting.widths
        per_atom = self.work.itemsize * (2 * widths[0] + 3 * sum(widths[1:]) + 16 * self.mp)
        return plan.cut(sizes, per_edge, per_atom, self.chunk_bytes)

    def run(
        self, batch: Any, order: Order, chunks: Sequence[Chunk], *, near: bool = False
    ) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """What a call gives, by a choice of chunks. Reads nothing back from the device: a CUDA graph can capture it.

        Args:
            batch: on this device. Edges beyond the last atom's are left out; their neighbour is ``n_atoms``.
            order: of its atoms. chunks: with room for all their edges.
            near: whether atoms are closer than ``basis.NEAREST``, for which the net and the full layer stand in.
        """
        neighbor, arriving = torch.sort(batch.neighbor.to(torch.int32), stable=True)
        types = torch.nn.functional.pad(batch.types.to(torch.int32), (0, 1))
        edges = Edges(batch.vector, types[batch.neighbor], torch.zeros_like(batch.vector))
        center = order.atom[: chunks[-1].stop if chunks else 0]
        atoms = self._atoms(batch, order, center)
        for chunk in chunks:
            self._evaluate(edges, atoms.part(chunk), chunk, None if near else self.coordinates)
        energy = torch.zeros(batch.n_atoms, dtype=torch.float64, device=self.device)
        energy.scatter_(0, center, atoms.energy)
        return energy, edges.gradient, *self._sums(batch, edges, neighbor, arriving)

    def _atoms(self, batch: Any, order: Order, center: Tensor) -> Atoms:
        count = order.count[: len(center)]
        first_of_structure = batch.offsets[batch.structure[center]]
        return Atoms(
            first=batch.first_edge[center],
            at=torch.cumsum(count, 0, dtype=torch.int64) - count,
            count=count,
            center_type=batch.types[center].to(torch.int32),
            first_type=batch.types[first_of_structure].clamp_min(0).to(torch.int32),
            n_key=(batch.nsel - count).to(self.work),
            n_row=(batch.nsel - batch.n_filled[center]).to(self.work),
            extras=self._parameters(batch, center),
            energy=torch.empty(len(center), dtype=torch.float64, device=self.device),
        )

    def _parameters(self, batch: Any, center: Tensor) -> Tensor:
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

    # --- a chunk ------------------------------------------------------------------------------------------------------

    def _new(self, *shape: int) -> Tensor:
        return torch.empty(shape, dtype=self.work, device=self.device)

    def _evaluate(self, edges: Edges, atoms: Atoms, chunk: Chunk, reduced: Coordinates | None) -> None:
        """Energies of a chunk go to ``atoms``, dE/dd of its edges to ``edges``."""
        tiles = self.tiles or tiles_for(self.architecture, self.precision, chunk.most, self.tuned)
        there, back = tiles.forward, tiles.backward
        common = {"PREC": self.products, **self.shape, "num_stages": 1}
        layers, size = len(self.layers), max(1, chunk.edges)
        edge_rows = min(there.rows, EDGE_ROWS)
        edge_blocks = max(1, -(-chunk.most // edge_rows))
        n, blocks = len(atoms), 1 if layers else edge_blocks
        block = reduced_tile(self.architecture, self.precision, chunk.most) or {}
        there_rows, back_rows, reduced_rows = (
            max(1, -(-chunk.most // x)) * x for x in (there.most, back.most, block.get("B", 1))
        )
        row, gate = (self._new(size, 4) if layers else self.net for _ in range(2))
        g = [self._new(size, self.config.neuron[-1]) for _ in range(layers)] or [self.net]
        lengths = [self._new(size, 3) for _ in range(layers)] or [self.net]
        moments = self._new(n, blocks, 4, self.mp)
        numbers_of = (self.statistics, self.net, self.factors)
        smooth = {k: v for k, v in self.environment.items() if k != "TYPES"}
        if reduced is not None:
            g[0] = torch.empty(size, reduced.width, dtype=self.operand, device=self.device)
            _coordinates_kernel[(n, edge_blocks)](
                edges.vector, edges.type, atoms.first, atoms.at, atoms.count, atoms.center_type, self.statistics,
                self.series, self.ranges, row, gate, g[0], **smooth, SMOOTH=self.options["SMOOTH"],
                DOTR=self.options["DOTR"], **self.of_series, R=edge_rows, num_warps=1, num_stages=1,
            )  # fmt: skip
        else:
            _embedding_fwd_kernel[(n, edge_blocks)](
                edges.vector, edges.type, atoms.first, atoms.at, atoms.count, atoms.center_type, *numbers_of,
                row, gate, g[0], moments, blocks, **self.environment, SMOOTH=self.options["SMOOTH"],
                DOTR=self.options["DOTR"], **self.embedding, ATTENTION=layers > 0, R=edge_rows,
                num_warps=min(there.warps, 8 if self.split else 4), **common,
            )  # fmt: skip
        programs = min(self.programs, n)
        rows = max(there_rows, back_rows, reduced_rows)
        scratch, stats = self._new(programs, rows, WIDE.value, self.mp), self._new(programs, rows, NUMBERS.value)
        operands = torch.empty(programs, rows, KEPT.value, self.mp, dtype=self.operand, device=self.device)
        attention = {"SCALE": self.config.attention_scale, "EPS": self.config.ln_eps, **self.options}
        narrow = {"NARROW": self.operand != self.work}
        for k in range(layers):
            if reduced is not None and k == 0:
                last = layers == 1
                _reduced_attention_fwd_kernel[(programs,)](
                    atoms.at, atoms.count, atoms.n_key, atoms.center_type, g[0], row, gate, lengths[0],
                    g[0 if last else 1], moments, operands, stats, *self.reduced, n, reduced_rows, **attention,
                    LAST=last, LW=reduced.factor_width, FACTORS=reduced.factors, BIASES=reduced.biases,
                    **self.of_reduced, M=reduced.width, PREC=self.products, **block, num_stages=1,
                )  # fmt: skip
                continue
            matrices, vectors, at_factors, at_biases = self.layers[k]
            last = k + 1 == layers
            _gated_attention_fwd_kernel[(programs,)](
                atoms.at, atoms.count, atoms.n_key, g[k], row, gate, lengths[k], g[k if last else k + 1], moments,
                scratch, operands, stats, matrices, vectors, matrices[at_factors:], vectors[at_biases:], n, there_rows,
                **attention, **narrow, LAST=last, **self.factor_widths, **self._tile(there), **common,
            )  # fmt: skip
        d_x = self._energies(atoms, moments, blocks, edge_rows)
        if not layers:
            _embedding_bwd_kernel[(n, max(1, -(-chunk.most // EDGES)))](
                edges.vector, edges.gradient, edges.type, atoms.first, atoms.count, atoms.center_type, *numbers_of,
                d_x, **self.environment, SMOOTH=self.options["SMOOTH"], **self.embedding, MP=self.mp, R=EDGES,
                PREC=self.products, num_warps=back.warps, num_stages=1,
            )  # fmt: skip
            return
        d_g, d_row, d_gate = self._new(size, self.config.neuron[-1]), self._new(size, 4), self._new(size, 4)
        for k in reversed(range(layers)):
            if reduced is not None and k == 0:
                d_z = torch.empty(programs, reduced_rows, self.mp, dtype=self.operand, device=self.device)
                block = reduced_back_tile(self.architecture, self.precision, chunk.most, ends=layers == 1)
                _reduced_attention_bwd_kernel[(programs,)](
                    atoms.at, atoms.count, atoms.n_key, atoms.center_type, atoms.first, g[0], row, gate, lengths[0],
                    d_g, d_row, d_gate, d_x, scratch, operands, stats, d_z, *self.reduced, edges.type, self.series_t,
                    self.ranges, n, reduced_rows, **attention, LAST=layers == 1, **self.of_reduced, **self.of_series,
                    PREC=self.products, **block, W=16, num_stages=1,
                )  # fmt: skip
                continue
            matrices, vectors, *_ = self.layers[k]
            _gated_attention_bwd_kernel[(programs,)](
                atoms.at, atoms.count, atoms.n_key, g[k], row, gate, lengths[k], d_g, d_row, d_gate, d_x, scratch,
                operands, stats, matrices, vectors, edges.type, atoms.first, atoms.center_type, self.net,
                self.factors, n, back_rows, **attention, **narrow, FIRST=k == 0, LAST=k + 1 == layers,
                TYPES=self.config.ntypes, **self.embedding, **self._tile(back, k == 0), Q=back.rows, E=EDGES, **common,
            )  # fmt: skip
        _environment_bwd_kernel[(n, edge_blocks)](
            edges.vector, edges.gradient, atoms.first, atoms.at, atoms.count, atoms.center_type, self.statistics,
            d_row, d_gate, **smooth, R=edge_rows, num_warps=1,
        )  # fmt: skip

    def _tile(self, tile: Tile, first: bool = False) -> dict[str, int]:
        """A tile as the kernels of attention take it; ``first``: on the way back of the first layer."""
        # Operands in three parts: the one choice of two that compiles without a stack.
        chunk = 2 * WEIGHT_CHUNK if first and self.split else WEIGHT_CHUNK
        return {
            "K": tile.keys, "C": min(tile.chunk, self.mp), "W": min(tile.chunk, chunk, self.mp), "B": tile.most,
            "num_warps": tile.warps,
        }  # fmt: skip

    def _energies(self, atoms: Atoms, moments: Tensor, blocks: int, rows: int) -> Tensor:
        """dE/dX (B, 4, MP); energies go to ``atoms``."""
        n, width = len(atoms), self.config.dim_fitting_in
        x, d_x = self._new(n, 4, self.mp), self._new(n, 4, self.mp)
        inputs, d_inputs = self._new(n, width), self._new(n, width)
        shape = {**self.shape, **self.axes, "num_warps": 4, "num_stages": 1}
        _contraction_fwd_kernel[(n,)](
            atoms.count, atoms.center_type, atoms.first_type, moments, atoms.n_row, self.empty, self.order, self.axis,
            atoms.extras, x, inputs, blocks, width, EMPTY=self.carries, TYPES=self.config.ntypes, R=rows, **self.extras,
            **shape,
        )  # fmt: skip
        self._net(atoms, inputs, d_inputs, self.bias, atoms.energy, backward=True)
        if self.config.fitting.subtract_vacuum:
            inputs[:, : self.config.dim_descrpt].zero_()
            vacuum = torch.empty_like(atoms.energy)
            self._net(atoms, inputs, d_inputs, self.no_bias, vacuum, backward=False)
            atoms.energy.sub_(vacuum)
        _contraction_bwd_kernel[(n,)](x, self.order, self.axis, d_inputs, d_x, width, **shape)
        return d_x

    def _net(
        self, atoms: Atoms, inputs: Tensor, d_inputs: Tensor, bias: Tensor, energy: Tensor, *, backward: bool
    ) -> None:
        n, total = len(inputs), max(1, sum(self.fitting.widths[1:]))
        hidden, slopes, d_hidden = (self._new(n, total) for _ in range(3))
        _energy_net_kernel[(-(-n // NET_ATOMS),)](
            atoms.center_type, inputs, hidden, slopes, d_hidden, d_inputs, energy, self.fit_weights, self.fit_vectors,
            self.fit_last, self.alive, bias, n, inputs.shape[1], total, **self.net_layout, BACKWARD=backward,
            R=NET_ATOMS, C=16, W=NET_COLUMNS, PREC=self.products, num_warps=8, num_stages=1,
        )  # fmt: skip

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
