"""Predictions with compiled parameter gradients, in constant memory and without a second backward.

A loss L(E, F, W) on energies, forces and virials needs ∂θ of forces, which are derivatives themselves. F and W are
linear in g_e = dE/dd_e of the edge vectors d_e, so one direction v_e = ∂L/∂g_e says all that the loss wants of them:

    dL/dθ = ∂θ [ Σ_i c_i E_i + D_v E ],   c_i = ∂L/∂E_i,   D_v E = d/dε E(d + ε v).

The first pass evaluates E and g with plain numbers; the second evaluates with dual numbers d + ε v, and its backward,
seeded with 1 + ε c_i, gives that gradient in its ε part. See docs/design/training.md for what else was tried.

The compiled code knows embedding and attention (``kernels/cpu/native/training.h``). What is small is torch's: the
environment matrix by edge, tables over pairs of types, and from the moments X on, contraction and energy net.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn

from ..kernels import reference as ref
from ..kernels.cpu import library
from ..kernels.cpu.threads import one_thread
from ..kernels.cpu.training import NativeTraining, Neighbors, Shape, Tables
from ..kernels.prepare.merging import ACTIVATIONS, activation_code
from ..kernels.reference import parse_activation
from ..model import DPA1, Prediction
from ..structures.batch import Batch, Tile

PASS_BYTES = 96 << 20
"""What a pass may keep at a time for its backward."""


def available(model: DPA1) -> bool:
    """Whether ``CompiledGradients`` serves this model on this machine."""
    on_cpu = model.davg.device.type == "cpu" and model.dtype in (torch.float32, torch.float64)
    known = parse_activation(model.config.activation_function)[0] in ACTIVATIONS
    return on_cpu and known and library.available()


def shape_of(model: DPA1) -> Shape:
    """What the compiled code must know of a model besides its numbers."""
    c = model.config
    return Shape(
        activation=activation_code(c.activation_function),
        widths=c.neuron,
        steps=tuple(layer.idt is not None for layer in model.embedding.tensors()),
        attn=c.attn,
        layers=c.attn_layer,
        smooth=c.smooth_type_embedding,
        dotr=c.attn_dotr,
        normalize=c.normalize,
        strip=model.embedding_strip is not None,
        scale=c.attention_scale,
        ln_eps=c.ln_eps,
    )


def copies_of_input(model: DPA1) -> int:
    """How often the first embedding layer's input returns in its output by the resnet rule."""
    n_in, width = model.embedding.tensors()[0].weight.shape
    return 1 if width == n_in else 2 if width == 2 * n_in else 0


def flat_parameters(model: DPA1) -> Tensor:
    """Parameters of embedding and attention as the compiled code wants them; the first layer's type part is a table."""
    first, *rest = model.embedding.tensors()
    returns = torch.zeros_like(first.weight[0])
    if copies := copies_of_input(model):
        returns[:: len(returns) // copies] = 1.0
    parts = [first.weight[0], returns, first.idt]
    for layer in rest:
        parts += [layer.weight, layer.bias, layer.idt]
    for block in model.attention_tensors():
        parts += block
    return torch.cat([p.reshape(-1) for p in parts if p is not None])


def pair_tables(model: DPA1, table: Tensor, pairs: Tensor) -> Tables:
    """What depends on types alone, for ``pairs`` (P,) = t_i·ntypes + t_j."""
    c = model.config
    first = model.embedding.tensors()[0]
    assert first.bias is not None
    types = table[pairs % c.ntypes]
    if not c.type_one_side:
        types = torch.cat([types, table[pairs // c.ntypes]], dim=-1)
    inputs, factors = types, None
    if model.embedding_strip is not None:
        act = ref.activation(c.activation_function)
        factors = ref.network(types, model.embedding_strip.tensors(), act)
        inputs = types[:1, :0]
    copies = copies_of_input(model)
    returns = torch.nn.functional.pad(inputs, (1, 0)).repeat(1, copies) if copies else None
    return Tables(inputs @ first.weight[1:] + first.bias, returns, factors)


@dataclass(frozen=True)
class Job:
    """One batch on its way: what both passes read.

    Attributes:
        model, native: as they are. batch. atoms: (a,) those that have energies. tile: of them, without neighbours.
        edges: (e,) their edges. pair, first_pair: (e,) rows of the tables. first_edge (a + 1,), chunks: spans of atoms.
        empty_row: (a,) row of the table of empty slots, and empty_weight (a,) how many there are.
    """

    model: DPA1
    native: NativeTraining
    threads: int
    batch: Batch
    atoms: Tensor
    tile: Tile
    edges: Tensor
    pair: Tensor
    first_pair: Tensor
    first_edge: Tensor
    chunks: list[tuple[int, int]]
    empty_row: Tensor

    @property
    def empty_logit(self) -> Tensor:
        """(a,) of smooth attention, for all empty slots together."""
        return torch.log(self.tile.n_empty_key.double()) - ref.ATTENTION_SHIFT

    def environment(self, d: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """row (e, 4), switch (e,) and direction (e, 3) of edge vectors, float64."""
        c, types = self.model.config, self.batch.types[self.batch.center[self.edges]]
        row, sw = ref.environment_matrix(
            d, self.model.davg[types], self.model.dstd[types], c.rcut_smth, c.rcut, c.env_protection
        )
        return row, sw, ref.unit_rows(row)

    def slopes(self, d: Tensor, v: Tensor) -> tuple[tuple[Tensor, ...], tuple[Tensor, ...]]:
        """``environment`` and its derivative along v: ∂/∂w of wᵀ J v, J being linear in w. Autograd's own code is three
        times as fast for small batches as ``torch.func.jvp``, which runs through Python."""
        with torch.enable_grad():
            d = d.detach().requires_grad_()
            values = self.environment(d)
            w = [torch.zeros_like(x, requires_grad=True) for x in values]
            (along,) = torch.autograd.grad(values, d, w, create_graph=True)
        slopes = torch.autograd.grad(along, w, v)
        return tuple(x.detach() for x in values), slopes

    def neighbors(self, values: tuple[Tensor, ...], slopes: tuple[Tensor, ...] | None = None) -> Neighbors:
        """What a pass reads."""
        dtype = self.model.dtype
        pairs = [
            (value.detach().to(dtype).contiguous(), None if slopes is None else slopes[k].to(dtype).contiguous())
            for k, value in enumerate(values)
        ]
        return Neighbors(self.first_edge, self.first_pair, self.pair, self.empty_logit, *pairs)

    def moments(self, x: Tensor, empty: Tensor | None, start: int, stop: int) -> Tensor:
        """(B, M, 4) of atoms [start, stop): what the compiled code found and what empty slots add."""
        x = x.transpose(1, 2)
        if empty is None:
            return x
        weight = self.tile.n_empty_row[start:stop].to(x).view(-1, 1, 1)
        return x + weight * empty[self.empty_row[start:stop]]

    def energies(self, x: Tensor, empty: Tensor | None, table: Tensor, start: int, stop: int) -> Tensor:
        """(B,) float64, eV."""
        some = self.tile.span(start, stop)
        moments = self.moments(x, empty, start, stop)
        return self.model.energies_of(self.model.contract(moments, table[some.center_type]), some)


class _Predict(torch.autograd.Function):
    """Energies of atoms (n,), forces (n, 3) and virials (S, 3, 3) from the small functions of the parameters.

    torch's own work here is small: its threads would wait for each other longer than they work, and stand in the way
    of the compiled passes' threads.
    """

    @staticmethod
    @one_thread()
    def forward(ctx: Any, job: Job, flat: Tensor, table: Tensor, *rest: Tensor | None) -> tuple[Tensor, ...]:
        first_types, first_returns, factors, empty, *_ = rest
        assert first_types is not None
        tables = Tables(first_types, first_returns, factors)
        job.native.set(flat)
        with torch.enable_grad():
            d = job.batch.vector[job.edges].detach().requires_grad_()
            values = job.environment(d)
        near = job.neighbors(values)
        out = [torch.zeros_like(pair[0]) for pair in (near.row, near.sw, near.unit)]
        energies = torch.zeros(len(job.atoms), dtype=torch.float64)
        for start, stop in job.chunks:
            (x,) = job.native.forward(near, tables, start, stop, False, job.threads)
            with torch.enable_grad():
                x.requires_grad_()
                energy = job.energies(x, empty, table, start, stop)
                (g_x,) = torch.autograd.grad(energy.sum(), x)
            energies[start:stop] = energy.detach()
            job.native.backward_inputs(g_x, out)
        (g,) = torch.autograd.grad(values, d, [o.double() for o in out])
        gradient = torch.zeros_like(job.batch.vector).index_copy_(0, job.edges, g)
        ctx.job, ctx.inputs = job, (flat, table, *rest)
        all_energies = torch.zeros(job.batch.n_atoms, dtype=torch.float64).index_copy_(0, job.atoms, energies)
        return all_energies, job.batch.forces(gradient), job.batch.virials(gradient)

    @staticmethod
    @one_thread()
    def backward(ctx: Any, *grads: Tensor) -> tuple[Any, ...]:
        job: Job = ctx.job
        g_energies, g_forces, g_virials = grads
        flat, table, first_types, first_returns, factors, empty, *parameters = ctx.inputs
        batch, edges = job.batch, job.edges
        center, neighbor, d = batch.center[edges], batch.neighbor[edges], batch.vector[edges]
        c = g_energies[job.atoms]
        v = g_forces[center] - g_forces[neighbor]
        v = v - (g_virials[batch.structure[center]] @ d.unsqueeze(-1)).squeeze(-1)
        values, slopes = job.slopes(d, v)
        near, tables = job.neighbors(values, slopes), Tables(first_types, first_returns, factors)
        job.native.set(flat)
        g_flat = torch.zeros_like(flat)
        g_tables = [None if t is None else torch.zeros_like(t) for t in tables.all()]
        leaves = [None if t is None else t.detach().requires_grad_() for t in (table, empty)]
        wanted = [t for t in (*leaves, *parameters) if t is not None and t.requires_grad]
        sums: list[Tensor] = [torch.zeros_like(t) for t in wanted]
        for start, stop in job.chunks:
            x, slope = job.native.forward(near, tables, start, stop, True, job.threads)
            with torch.enable_grad():
                x.requires_grad_(), slope.requires_grad_()
                energy = job.energies(x, leaves[1], leaves[0], start, stop)  # type: ignore[arg-type]
                (g_x,) = torch.autograd.grad(energy.sum(), x, create_graph=True)
                total = (c[start:stop] * energy).sum() + (g_x.double() * slope.double()).sum()
                g_value, g_slope, *found = torch.autograd.grad(total, [slope, x, *wanted], allow_unused=True)
            for s, f in zip(sums, found, strict=True):
                if f is not None:
                    s += f
            job.native.backward_parameters(g_value, g_slope, g_flat, g_tables)
        of = {id(t): s for t, s in zip(wanted, sums, strict=True)}
        g_table, g_empty = (None if t is None else of[id(t)] for t in leaves)
        return None, g_flat, g_table, *g_tables, g_empty, *(of.get(id(p)) for p in parameters)


_natives: WeakKeyDictionary[DPA1, NativeTraining] = WeakKeyDictionary()
"""Of each model the compiled code's memory, which the next batch takes over."""


class CompiledGradients:
    """A model's predictions as ``DPA1.forward`` gives them, with compiled passes forward and backward.

    Not differentiable twice, and not for several threads at once.

    Args:
        model: on the CPU, in float32 or float64; read anew at every call. threads: by default all cores.

    Raises:
        OSError: the engine was not compiled. ValueError: another precision, or an activation that only the reference
            backend has.
    """

    def __init__(self, model: DPA1, threads: int | None = None) -> None:
        self.model = model
        shape, native = shape_of(model), _natives.get(model)
        if native is None or native.numbers != shape.numbers() or native.dtype != model.dtype:
            native = _natives[model] = NativeTraining(shape, model.dtype)
        self.native = native
        self.threads = torch.get_num_threads() if threads is None else threads

    def __call__(self, batch: Batch) -> Prediction:
        """Energies, forces and virials of a batch, differentiable once in the parameters."""
        with one_thread():
            return self._predict(batch)

    def _predict(self, batch: Batch) -> Prediction:
        model, job = self.model, self._job(batch)
        table = model.type_table()
        pairs, empties = self._pairs, self._empties
        tables = pair_tables(model, table, pairs)
        empty = None if empties is None else model.empty_slot(*empties, table)
        fitting: list[nn.Parameter] = list(model.fitting.parameters())
        energies, forces, virial = _Predict.apply(job, flat_parameters(model), table, *tables.all(), empty, *fitting)  # type: ignore[no-untyped-call]
        return Prediction(batch.sum_structures(energies), forces, virial, energies)

    def _job(self, batch: Batch) -> Job:
        model, c = self.model, self.model.config
        atoms = torch.nonzero(batch.active).squeeze(-1)
        edges = torch.nonzero(batch.active[batch.center]).squeeze(-1)
        counts = batch.counts[atoms]
        first_edge = torch.nn.functional.pad(torch.cumsum(counts, 0), (1, 0))
        no_edge = torch.zeros(len(atoms), 0, dtype=torch.int64)
        tile = batch.tile(atoms, no_edge, no_edge.bool(), batch.vector.new_zeros(len(atoms), 0, 3), 2 * c.rcut)
        kinds = batch.types[batch.center[edges]] * c.ntypes + batch.types[batch.neighbor[edges]]
        self._pairs, pair = torch.unique(kinds, return_inverse=True)
        strip = model.embedding_strip is not None
        self._empties, empty_row = None, torch.zeros(0, dtype=torch.int64)
        if model.davg.any():
            kinds, empty_row = torch.unique(tile.first_type * c.ntypes + tile.center_type, return_inverse=True)
            self._empties = kinds // c.ntypes, kinds % c.ntypes
        return Job(
            model=model,
            native=self.native,
            threads=self.threads,
            batch=batch,
            atoms=atoms,
            tile=tile,
            edges=edges,
            pair=pair.int(),
            first_pair=torch.zeros_like(pair, dtype=torch.int32) if strip else pair.int(),
            first_edge=first_edge,
            chunks=self._chunks(counts),
            empty_row=empty_row,
        )

    def _chunks(self, counts: Tensor) -> list[tuple[int, int]]:
        """Spans of atoms of which a dual pass keeps no more than ``PASS_BYTES``, unless one atom does."""
        shape = self.native.shape
        per_atom = 2 * self.model.dtype.itemsize * counts * (shape.numbers_per_neighbor + shape.layers * 2 * counts)
        chunks, start, size = [], 0, 0
        for k, more in enumerate(per_atom.tolist()):
            if k > start and size + more > PASS_BYTES:
                chunks.append((start, k))
                start, size = k, 0
            size += more
        return [*chunks, (start, len(counts))] if len(counts) else []
