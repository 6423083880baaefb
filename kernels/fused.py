"""Evaluates batches with the Triton kernels: forward and backward chunk by chunk, no tape, nothing kept in between.

For each chunk of atoms: embedding; attention, layer by layer; contraction; energy net; contraction back; attention
back, layer by layer, and with the first the embedding's way back; the environment's. Then, for the whole batch, forces.
Two layers of attention take nine launches a chunk and one more for the batch.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from . import packing
from .contraction import _contraction_bwd_kernel, _contraction_fwd_kernel
from .cpu import numbers
from .embedding import _embedding_bwd_kernel, _embedding_fwd_kernel
from .energy_net import _energy_net_kernel
from .env_matrix import _environment_bwd_kernel
from .gated_attention import _gated_attention_bwd_kernel, _gated_attention_fwd_kernel
from .precision import OPERANDS, PRODUCTS, WORK
from .reference import activation, network
from .sums import _forces_kernel
from .tiles import Tiles, tiles_for
from .weights import Weights

STATS = 16
"""Numbers per row that a program of the way back keeps."""
EDGES = 16
"""Edges at a time at the end of the way back, where the embedding is."""
NET_ATOMS, NET_COLUMNS = 16, 64
"""The tile of the energy net."""
FORCE_ROWS = 32


@dataclass(frozen=True)
class Chunk:
    """Some atoms of a batch: the places of their edges there and here. All (B,), on the device."""

    center: Tensor
    first: Tensor
    at: Tensor
    count: Tensor
    center_type: Tensor
    edges: int
    most: int
    inputs: Tensor


class TritonEvaluator:
    """Evaluates batches on a GPU, or on tensors of a CPU in Triton's interpreter.

    Args:
        weights: the model's. precision: one of ``precision.PRODUCTS``. device: where.
        architecture: "sm_90" and the like, to look tiles up; None in the interpreter.
        programs: how many programs walk over atoms at a time. chunk_bytes: device memory for one chunk.
    """

    def __init__(
        self, weights: Weights, precision: str, device: torch.device, architecture: str | None,
        programs: int, chunk_bytes: int, tiles: Tiles | None = None,
    ) -> None:  # fmt: skip
        w = weights.double().to(torch.device("cpu"))
        self.weights, self.config, self.device = w, w.config, device
        self.precision, self.architecture, self.programs = precision, architecture, programs
        self.chunk_bytes, self.tiles = chunk_bytes, tiles
        self.work, self.products = WORK[precision], PRODUCTS[precision]
        if architecture is None and precision == "bfloat16":
            self.products = "rounded_bfloat16"
        self._pack(w, OPERANDS[precision])

    # --- prepared once ------------------------------------------------------------------------------------------------

    def _pack(self, w: Weights, operand: torch.dtype) -> None:
        c = self.config

        def here(x: Tensor, dtype: torch.dtype | None = None) -> Tensor:
            return x.to(device=self.device, dtype=dtype or self.work).contiguous()

        e = packing.embedding_numbers(w)
        self.mp = e.widths[-1]
        factor_width = packing.factor_width(w)
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
            packing.attention_numbers(packing.layer_in_order(x, e.order), self.mp, factor_width) for x in w.attention
        ]
        self.layers = [(here(x.matrices, operand), here(x.vectors), x.factors, x.biases) for x in layers]
        fit = packing.energy_numbers(w, step=NET_COLUMNS)
        self.fitting = fit
        self.fit_weights, self.fit_vectors = here(fit.weights, operand), here(fit.vectors)
        self.fit_last = here(fit.last)
        alive = torch.ones(c.ntypes, dtype=torch.float64)
        alive[[t for t in c.fitting.exclude_types if 0 <= t < c.ntypes]] = 0.0
        self.alive = here(alive, torch.float64)
        self.bias = here(w.bias * alive + w.out_bias, torch.float64)
        self.no_bias = torch.zeros_like(self.bias)
        self.tebd = here(w.type_table)
        kind, threshold = (float(x) for x in numbers.activation_code(c.activation_function))
        fit_kind, fit_threshold = (float(x) for x in numbers.activation_code(c.fitting.activation_function))
        self.environment = {"SMTH": c.rcut_smth, "RCUT": c.rcut, "PROTECTION": c.env_protection, "TYPES": c.ntypes}
        self.embedding = {
            "WIDTHS": e.widths, "RESIDUALS": e.residuals, "STARTS": e.starts,
            "KIND": numbers.ACTIVATIONS[int(kind)], "T": threshold, "STRIP": w.strip is not None,
        }  # fmt: skip
        self.options = {"SMOOTH": c.smooth_type_embedding, "DOTR": c.attn_dotr, "NORMALIZE": c.normalize}
        self.shape = {"M": c.neuron[-1], "MP": self.mp}
        self.factor_width = factor_width
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
            batch: see ``dpa1_fast.batch.Batch``; on this evaluator's device.
        """
        energy = torch.zeros(batch.n_atoms, dtype=torch.float64, device=self.device)
        gradient = torch.zeros_like(batch.vector)
        neighbor_type = batch.types[batch.neighbor].to(torch.int32)
        for chunk in self._chunks(batch):
            energy[chunk.center] = self._evaluate(batch, chunk, neighbor_type, gradient)
        return energy, gradient, *self._sums(batch, gradient)

    def _chunks(self, batch: Any) -> Any:
        """Active atoms by rising neighbour count, as many at a time as ``chunk_bytes`` hold."""
        center = torch.nonzero(batch.active).squeeze(-1)
        count = batch.counts[center]
        order = torch.argsort(count, stable=True)
        center, count = center[order], count[order]
        extras = self._parameters(batch, center)
        sizes = count.cpu()
        ends = torch.cumsum(sizes * self._bytes_per_edge + self._bytes_per_atom, 0)
        start = 0
        while start < len(center):
            before = int(ends[start - 1]) if start else 0
            stop = max(start + 1, int(torch.searchsorted(ends, before + self.chunk_bytes, right=True)))
            here = slice(start, stop)
            counts = count[here].to(torch.int32)
            at = (torch.cumsum(counts, 0) - counts).to(torch.int32)
            yield Chunk(
                center[here], batch.first_edge[center[here]], at, counts,
                batch.types[center[here]].to(torch.int32),
                int(sizes[here].sum()), int(sizes[stop - 1]), extras[here],
            )  # fmt: skip
            start = stop

    @property
    def _bytes_per_edge(self) -> int:
        """What a neighbour needs while its chunk is evaluated."""
        layers = len(self.layers)
        return self.work.itemsize * (layers and (layers + 1) * (self.config.neuron[-1] + 3) + 16)

    @property
    def _bytes_per_atom(self) -> int:
        """What an atom needs besides its neighbours."""
        return self.work.itemsize * (2 * self.fitting.widths[0] + 3 * sum(self.fitting.widths[1:]) + 16 * self.mp)

    def _parameters(self, batch: Any, center: Tensor) -> Tensor:
        """What the energy net reads besides D, for each centre. (B, …)"""
        w, parts = self.weights, []
        if self.config.concat_output_tebd:
            parts.append(self.tebd[batch.types[center]].double())
        if batch.fparam is not None and w.fparam is not None:
            a, b = (x.to(self.device) for x in w.fparam)
            parts.append((batch.fparam[batch.structure[center]] - a) * b)
        if batch.aparam is not None and w.aparam is not None and self.config.fitting.numb_aparam_in:
            a, b = (x.to(self.device) for x in w.aparam)
            parts.append((batch.aparam[center] - a) * b)
        if w.case_embd is not None:
            parts.append(w.case_embd.to(self.device).expand(len(center), -1))
        empty = torch.zeros(len(center), 0, dtype=torch.float64, device=self.device)
        return torch.cat([empty, *parts], dim=-1).to(self.work)

    # --- a chunk ------------------------------------------------------------------------------------------------------

    def _new(self, *shape: int) -> Tensor:
        return torch.empty(shape, dtype=self.work, device=self.device)

    def _evaluate(self, batch: Any, chunk: Chunk, neighbor_type: Tensor, gradient: Tensor) -> Tensor:
        """Energies (B,) of a chunk; dE/dd of its edges goes to ``gradient``."""
        tiles = self.tiles or tiles_for(self.architecture, self.precision, chunk.most)
        there, back = tiles.forward, tiles.backward
        common = {"PREC": self.products, **self.shape, "num_stages": 1}
        atoms, blocks = len(chunk.center), max(1, -(-chunk.most // there.rows))
        back_rows = max(1, -(-chunk.most // back.rows)) * back.rows
        layers, edges = len(self.layers), max(1, chunk.edges)
        n_key = (batch.nsel - batch.counts[chunk.center]).to(self.work)
        n_row = (batch.nsel - batch.n_filled[chunk.center]).to(self.work)
        first_type = batch.types[batch.offsets[batch.structure[chunk.center]]].clamp_min(0).to(torch.int32)
        row, gate = (self._new(edges, 4) if layers else self.net for _ in range(2))
        g = [self._new(edges, self.config.neuron[-1]) for _ in range(layers)] or [self.net]
        lengths = [self._new(edges, 3) for _ in range(layers)] or [self.net]
        moments = self._new(atoms, blocks, 4, self.mp)
        first = (batch.vector, neighbor_type, chunk.first)
        numbers_of = (self.statistics, self.net, self.factors)
        matrices, vectors, at_factors, at_biases = self.layers[0] if layers else (self.net, self.net, 0, 0)
        _embedding_fwd_kernel[(atoms, blocks)](
            *first, chunk.at, chunk.count, chunk.center_type, *numbers_of, matrices[at_factors:], vectors[at_biases:],
            row, gate, g[0], lengths[0], moments, blocks, **self.environment, **self.options, **self.embedding,
            ATTENTION=layers > 0, LW=self.factor_width, R=there.rows, C=min(there.chunk, self.mp),
            num_warps=there.warps, **common,
        )  # fmt: skip
        programs = min(self.programs, atoms * blocks)
        scratch = self._new(max(programs * 2 * there.rows, min(programs, atoms) * 3 * back_rows) * self.mp)
        attention = {"SCALE": self.config.attention_scale, "EPS": self.config.ln_eps, **self.options}
        for k in range(layers):
            matrices, vectors, *_ = self.layers[k]
            last = k + 1 == layers
            following = k if last else k + 1
            next_matrices, next_vectors, at_factors, at_biases = self.layers[following]
            _gated_attention_fwd_kernel[(programs,)](
                chunk.at, chunk.count, n_key, g[k], row, gate, lengths[k], g[following], lengths[following], moments,
                scratch, matrices, vectors, next_matrices[at_factors:], next_vectors[at_biases:], atoms, blocks,
                **attention, LAST=last, LW=self.factor_width, Q=there.rows, K=there.keys, C=min(there.chunk, self.mp),
                num_warps=there.warps, **common,
            )  # fmt: skip
        energy, d_x = self._energies(chunk, moments, blocks, n_row, first_type, there.rows)
        if not layers:
            _embedding_bwd_kernel[(atoms, back_rows // back.keys)](
                batch.vector, gradient, neighbor_type, chunk.first, chunk.count, chunk.center_type, *numbers_of, d_x,
                **self.environment, SMOOTH=self.options["SMOOTH"], **self.embedding, MP=self.mp, R=back.keys,
                PREC=self.products, num_warps=back.warps, num_stages=1,
            )  # fmt: skip
            return energy
        programs = min(self.programs, atoms)
        stats = self._new(programs, back_rows, STATS)
        d_g, d_row, d_gate = self._new(edges, self.config.neuron[-1]), self._new(edges, 4), self._new(edges, 4)
        for k in reversed(range(layers)):
            matrices, vectors, *_ = self.layers[k]
            _gated_attention_bwd_kernel[(programs,)](
                chunk.at, chunk.count, n_key, g[k], row, gate, lengths[k], d_g, d_row, d_gate, d_x, scratch, stats,
                matrices, vectors, neighbor_type, chunk.first, chunk.center_type, self.net, self.factors, atoms,
                back_rows, **attention, FIRST=k == 0, LAST=k + 1 == layers, TYPES=self.config.ntypes, **self.embedding,
                Q=back.rows, K=back.keys, C=min(back.chunk, self.mp), E=EDGES, num_warps=back.warps, **common,
            )  # fmt: skip
        smooth = {k: v for k, v in self.environment.items() if k != "TYPES"}
        _environment_bwd_kernel[(atoms, back_rows // back.rows)](
            batch.vector, gradient, chunk.first, chunk.at, chunk.count, chunk.center_type, self.statistics,
            d_row, d_gate, **smooth, R=back.rows, num_warps=1,
        )  # fmt: skip
        return energy

    def _energies(
        self, chunk: Chunk, moments: Tensor, blocks: int, n_row: Tensor, first_type: Tensor, rows: int
    ) -> tuple[Tensor, Tensor]:
        """Energies (B,) and dE/dX (B, 4, MP)."""
        atoms, width = len(chunk.center), self.config.dim_fitting_in
        x, d_x = self._new(atoms, 4, self.mp), self._new(atoms, 4, self.mp)
        inputs, d_inputs = self._new(atoms, width), self._new(atoms, width)
        inputs[:, width - chunk.inputs.shape[1] :] = chunk.inputs
        shape = {**self.shape, **self.axes, "num_warps": 4, "num_stages": 1}
        _contraction_fwd_kernel[(atoms,)](
            chunk.count, chunk.center_type, first_type, moments, n_row, self.empty, self.order, self.axis, x, inputs,
            blocks, width, EMPTY=self.carries, TYPES=self.config.ntypes, R=rows, **shape,
        )  # fmt: skip
        energy = self._net(chunk, inputs, d_inputs, self.bias, backward=True)
        if self.config.fitting.subtract_vacuum:
            inputs[:, : self.config.dim_descrpt] = 0.0
            energy -= self._net(chunk, inputs, d_inputs, self.no_bias, backward=False)
        _contraction_bwd_kernel[(atoms,)](x, self.order, self.axis, d_inputs, d_x, width, **shape)
        return energy, d_x

    def _net(self, chunk: Chunk, inputs: Tensor, d_inputs: Tensor, bias: Tensor, *, backward: bool) -> Tensor:
        atoms, total = len(inputs), max(1, sum(self.fitting.widths[1:]))
        hidden, slopes, d_hidden = (self._new(atoms, total) for _ in range(3))
        energy = torch.empty(atoms, dtype=torch.float64, device=self.device)
        _energy_net_kernel[(-(-atoms // NET_ATOMS),)](
            chunk.center_type, inputs, hidden, slopes, d_hidden, d_inputs, energy, self.fit_weights, self.fit_vectors,
            self.fit_last, self.alive, bias, atoms, inputs.shape[1], total, **self.net_layout, BACKWARD=backward,
            R=NET_ATOMS, C=32, W=NET_COLUMNS, PREC=self.products, num_warps=4, num_stages=1,
        )  # fmt: skip
        return energy

    def _sums(self, batch: Any, gradient: Tensor) -> tuple[Tensor, Tensor]:
        """Forces (n, 3) in eV/Å and virials (S, 3, 3) in eV."""
        n = batch.n_atoms
        arriving = torch.argsort(batch.neighbor, stable=True)
        arrivals = torch.bincount(batch.neighbor, minlength=n)
        first_arriving = torch.nn.functional.pad(torch.cumsum(arrivals, 0), (1, 0))
        forces = torch.empty(n, 3, dtype=torch.float64, device=self.device)
        virials = torch.empty(n, 3, 3, dtype=torch.float64, device=self.device)
        _forces_kernel[(n,)](
            gradient, batch.vector, batch.first_edge, arriving, first_arriving, forces, virials,
            R=FORCE_ROWS, num_warps=1,
        )  # fmt: skip
        if batch.n_structures == 1:
            return forces, virials.sum(0, keepdim=True)
        return forces, torch.segment_reduce(virials.view(n, 9), "sum", offsets=batch.offsets).view(-1, 3, 3)
