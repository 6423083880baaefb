"""DPA-1 as a torch module: the parameters, and the reference formulas called in the paper's order.

Training differentiates this (twice, for a loss on forces). Inference takes the same module to an ``Engine``.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from .config import DPA1Config
from .electrons import econf_table
from .kernels import reference as ref
from .kernels.prepare.weights import Weights
from .structures.batch import Batch, Tile
from .uncertainty import Uncertainty

TILE_ELEMENTS = 2_000_000
"""Numbers per tile when the whole module is differentiated; a tile of 16 MB per tensor in float64."""


class LayerParameters(nn.Module):
    """Weight (in, out), bias and time step of one resnet layer, initialised as DeePMD-kit does."""

    weight: nn.Parameter

    def __init__(self, n_in: int, n_out: int, bias: bool = True, timestep: bool = False) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(n_in, n_out))
        self.bias = nn.Parameter(torch.empty(n_out)) if bias else None
        # A time step exists only where there is a residual to add to.
        self.idt = nn.Parameter(torch.empty(n_out)) if timestep and n_out in (n_in, 2 * n_in) else None
        if self.weight.is_meta:
            return  # numbers are on their way from a file
        nn.init.normal_(self.weight, std=(n_in + n_out) ** -0.5)
        if self.bias is not None:
            nn.init.normal_(self.bias)
        if self.idt is not None:
            nn.init.normal_(self.idt, mean=0.1, std=0.001)

    def tensors(self) -> ref.Layer:
        """The parameters as the reference formulas take them."""
        return ref.Layer(self.weight, self.bias, self.idt)


class Network(nn.ModuleList):
    """Resnet layers of the given widths."""

    def __init__(self, n_in: int, widths: tuple[int, ...], timestep: bool, outputs: int = 0) -> None:
        pairs = list(zip((n_in, *widths), widths, strict=False))
        layers = [LayerParameters(a, b, timestep=timestep) for a, b in pairs]
        if outputs:
            layers.append(LayerParameters(widths[-1] if widths else n_in, outputs))
        super().__init__(layers)

    def tensors(self) -> list[ref.Layer]:
        """The parameters as the reference formulas take them."""
        return [layer.tensors() for layer in self]  # type: ignore[operator]


class AttentionParameters(nn.Module):
    """One layer of gated attention: projections in and out, and the LayerNorm after the residual."""

    def __init__(self, width: int, attn: int) -> None:
        super().__init__()
        self.in_proj = LayerParameters(width, 3 * attn)
        self.out_proj = LayerParameters(attn, width)
        self.layer_norm = nn.ParameterDict({"weight": torch.ones(width), "bias": torch.zeros(width)})

    def tensors(self) -> ref.AttentionLayer:
        """The parameters as the reference formulas take them."""
        w_in, b_in, _ = self.in_proj.tensors()
        w_out, b_out, _ = self.out_proj.tensors()
        assert b_in is not None
        assert b_out is not None
        return ref.AttentionLayer(w_in, b_in, w_out, b_out, self.layer_norm["weight"], self.layer_norm["bias"])


class FittingParameters(nn.Module):
    """The energy net with its input statistics and biases."""

    fparam_avg: Tensor
    fparam_inv_std: Tensor
    aparam_avg: Tensor
    aparam_inv_std: Tensor
    case_embd: Tensor
    bias_atom_e: Tensor

    def __init__(self, config: DPA1Config) -> None:
        super().__init__()
        f = config.fitting
        self.layers = Network(config.dim_fitting_in, f.neuron, f.resnet_dt, outputs=1)
        for name, width in (("fparam", f.numb_fparam), ("aparam", f.numb_aparam)):
            if width:
                self.register_buffer(f"{name}_avg", torch.zeros(width, dtype=torch.float64))
                self.register_buffer(f"{name}_inv_std", torch.ones(width, dtype=torch.float64))
        if f.dim_case_embd:
            self.register_buffer("case_embd", torch.zeros(f.dim_case_embd, dtype=torch.float64))
        self.register_buffer("bias_atom_e", torch.zeros(config.ntypes, dtype=torch.float64))


class Prediction(NamedTuple):
    """What a batch evaluates to: energy (S,) eV, forces (n, 3) eV/Å, virial (S, 3, 3) eV, energies (n,) eV."""

    energy: Tensor
    forces: Tensor
    virial: Tensor
    energies: Tensor


class DPA1(nn.Module):
    """A DPA-1 energy model.

    Statistics (``davg``, ``dstd``, biases) are float64 buffers whatever the dtype of the parameters: the environment
    matrix and the sum of energies are always done in float64.
    """

    davg: Tensor
    dstd: Tensor
    econf: Tensor
    out_bias: Tensor

    def __init__(self, config: DPA1Config) -> None:
        super().__init__()
        self.config = c = config
        if c.use_econf_tebd:
            table = torch.from_numpy(np.ascontiguousarray(econf_table(c.type_map)))
            self.register_buffer("econf", table, persistent=False)
        tebd_in = self.econf.shape[1] if c.use_econf_tebd else c.ntypes
        self.type_embedding = LayerParameters(tebd_in, c.tebd_dim, bias=c.use_tebd_bias)
        strip = c.tebd_input_mode == "strip"
        self.embedding = Network(1 if strip else 1 + c.tebd_inputs, c.neuron, c.resnet_dt)
        self.embedding_strip = Network(c.tebd_inputs, c.neuron, c.resnet_dt) if strip else None
        self.attention = nn.ModuleList(AttentionParameters(c.neuron[-1], c.attn) for _ in range(c.attn_layer))
        self.fitting = FittingParameters(c)
        self.register_buffer("davg", torch.zeros(c.ntypes, 4, dtype=torch.float64))
        self.register_buffer("dstd", torch.ones(c.ntypes, 4, dtype=torch.float64))
        self.register_buffer("out_bias", torch.zeros(c.ntypes, dtype=torch.float64))
        self.uncertainty: Uncertainty | None = None
        """What its training set says of what to trust, where ``dpa1-fast calibrate`` has found that out."""

    def set_dtype(self, dtype: torch.dtype) -> DPA1:
        """Casts the parameters, and only them, in place. Returns self."""
        for parameter in self.parameters():
            parameter.data = parameter.data.to(dtype)
        return self

    @property
    def dtype(self) -> torch.dtype:
        """Arithmetic of the networks."""
        return self.type_embedding.weight.dtype

    @property
    def dim_hidden(self) -> int:
        """Width of the energy net's last hidden layer; of its input where it has none."""
        return self.config.fitting.neuron[-1] if self.config.fitting.neuron else self.config.dim_fitting_in

    @property
    def order_dependent(self) -> bool:
        """Whether energies depend on which atom comes first, a trait of upstream's padding (spec, section 10.3)."""
        c = self.config
        gated = c.tebd_input_mode == "strip" and c.smooth_type_embedding
        return bool(self.davg.any()) and not gated and c.ntypes > 1

    # --- the paper, top to bottom ---------------------------------------------------------------------------------

    def type_table(self) -> Tensor:
        """T = W (+ b): one row per type, resnet rule over the one-hot (or electron configuration). (ntypes, tebd)."""
        weight = self.type_embedding.weight
        one_hot = self.econf.to(weight) if self.config.use_econf_tebd else torch.eye(self.config.ntypes).to(weight)
        return ref.resnet_layer(one_hot, self.type_embedding.tensors(), ref.activation("linear"))

    def embed(self, s: Tensor, tebd_j: Tensor, tebd_i: Tensor, sw: Tensor) -> Tensor:
        """Embedding of a neighbour from its radial entry ``s`` (…, 1) and the two types. (…, M)."""
        c = self.config
        act = ref.activation(c.activation_function)
        if self.embedding_strip is None:
            center = None if c.type_one_side else tebd_i
            return ref.embedding_concat(s, tebd_j, center, self.embedding.tensors(), act)
        types = tebd_j if c.type_one_side else torch.cat([tebd_j, tebd_i], dim=-1)
        g_type = ref.network(types, self.embedding_strip.tensors(), act)
        gate = sw if c.smooth_type_embedding else None
        return ref.embedding_strip(s, g_type, gate, self.embedding.tensors(), act)

    def attend(self, g: Tensor, row: Tensor, tile: Tile, sw: Tensor) -> Tensor:
        """The attention layers one after another. (B, N, M)."""
        c = self.config
        r_hat = ref.unit_rows(row) if c.attn_dotr else None
        gate, n_empty = (sw, tile.n_empty_key) if c.smooth_type_embedding else (None, None)
        for layer in self.attention_tensors():
            g = ref.gated_attention_layer(
                g, r_hat, tile.mask, gate, n_empty, layer, c.attention_scale, c.normalize, c.ln_eps
            )
        return g

    def attention_tensors(self) -> list[ref.AttentionLayer]:
        """Parameters of the attention layers as the reference formulas take them."""
        return [layer.tensors() for layer in self.attention]  # type: ignore[operator]

    def empty_slots(self, tile: Tile, table: Tensor) -> Tensor | None:
        """Σ over the empty slots of g ⊗ row, which davg ≠ 0 leaves behind (spec, section 6.2). (B, M, 4) or None."""
        if not self.davg.any():
            return None
        weight = tile.n_empty_row.to(table.dtype).view(-1, 1, 1)
        return weight * self.empty_slot(tile.first_type, tile.center_type, table)

    def empty_slot(self, first_type: Tensor, center_type: Tensor, table: Tensor) -> Tensor:
        """g ⊗ row of one empty slot for each pair of types (B,), of the structure's first atom and of the centre.
        (B, M, 4)."""
        row = (-self.davg / self.dstd)[center_type].to(table.dtype)
        g = self.embed(row[:, :1], table[first_type], table[center_type], torch.zeros_like(row[:, 0]))
        g = ref.padding_after_attention(g, self.attention_tensors(), self.config.ln_eps)
        return g.unsqueeze(-1) * row.unsqueeze(-2)

    def descriptor(self, tile: Tile) -> Tensor:
        """The descriptor of each centre: environment, embedding, attention, contraction. (B, dim_descrpt)."""
        c, dtype = self.config, self.dtype
        davg, dstd = self.davg[tile.center_type].unsqueeze(1), self.dstd[tile.center_type].unsqueeze(1)
        row, sw = ref.environment_matrix(tile.d, davg, dstd, c.rcut_smth, c.rcut, c.env_protection)
        row = (row * tile.mask.unsqueeze(-1)).to(dtype)
        sw = (sw * tile.mask).to(dtype)
        table = self.type_table()
        tebd_i = table[tile.center_type]
        width = tile.mask.shape[1]
        g = self.embed(row[..., :1], table[tile.neighbor_type], tebd_i.unsqueeze(1).expand(-1, width, -1), sw)
        g = self.attend(g, row, tile, sw)
        return self.contract(ref.moments(g, row, self.empty_slots(tile, table)), tebd_i)

    def contract(self, x: Tensor, tebd_i: Tensor) -> Tensor:
        """The descriptor from the moments x (B, M, 4) of ``reference.moments``. (B, dim_descrpt)."""
        d = ref.contraction(x, self.config.nsel, self.config.axis_neuron)
        return torch.cat([d, tebd_i], dim=-1) if self.config.concat_output_tebd else d

    def parameters_of(self, tile: Tile, dtype: torch.dtype) -> list[Tensor]:
        """What the energy net reads besides the descriptor: fparam and aparam, scaled, and case_embd, as they exist."""
        f, fit = self.config.fitting, self.fitting
        extra = []
        if tile.fparam is not None:
            extra.append((tile.fparam - fit.fparam_avg) * fit.fparam_inv_std)
        if tile.aparam is not None and f.numb_aparam_in:
            extra.append((tile.aparam - fit.aparam_avg) * fit.aparam_inv_std)
        if f.dim_case_embd:
            extra.append(fit.case_embd.expand(len(tile.center_type), -1))
        return [x.to(dtype) for x in extra]

    def hidden(self, descriptor: Tensor, tile: Tile) -> Tensor:
        """The energy net's last hidden layer, of which the energy is a linear function. (B, dim_hidden)."""
        inputs = torch.cat([descriptor, *self.parameters_of(tile, descriptor.dtype)], dim=-1)
        return ref.network(
            inputs, self.fitting.layers.tensors()[:-1], ref.activation(self.config.fitting.activation_function)
        )

    def atomic_energies(self, tile: Tile) -> Tensor:
        """The energies of the tile's centres, eV, float64. (B,)."""
        return self.energies_of(self.descriptor(tile), tile)

    def energies_of(self, descriptor: Tensor, tile: Tile) -> Tensor:
        """E_i = net([D | fparam | aparam | case_embd]) + bias_atom_e + out_bias, eV, float64. (B,)."""
        f, fit = self.config.fitting, self.fitting
        parameters = self.parameters_of(tile, descriptor.dtype)
        layers, act = fit.layers.tensors(), ref.activation(f.activation_function)
        energy = ref.energy_network(torch.cat([descriptor, *parameters], dim=-1), layers, act)
        if f.subtract_vacuum:
            vacuum = torch.zeros_like(descriptor)
            energy = energy - ref.energy_network(torch.cat([vacuum, *parameters], dim=-1), layers, act)
        energy = energy.double() + fit.bias_atom_e[tile.center_type]
        for t in f.exclude_types:
            energy = torch.where(tile.center_type == t, 0.0, energy)
        return energy + self.out_bias[tile.center_type]

    def weights(self) -> Weights:
        """Everything that an inference backend needs, detached."""
        fit, c = self.fitting, self.config

        def layer(x: ref.Layer) -> ref.Layer:
            w, b, idt = x
            return ref.Layer(w.detach(), None if b is None else b.detach(), None if idt is None else idt.detach())

        def pair(name: str) -> tuple[Tensor, Tensor] | None:
            return (
                (getattr(fit, f"{name}_avg"), getattr(fit, f"{name}_inv_std")) if hasattr(fit, f"{name}_avg") else None
            )

        return Weights(
            config=c,
            type_table=self.type_table().detach(),
            davg=self.davg,
            dstd=self.dstd,
            embedding=[layer(x) for x in self.embedding.tensors()],
            strip=None if self.embedding_strip is None else [layer(x) for x in self.embedding_strip.tensors()],
            attention=[ref.AttentionLayer(*(t.detach() for t in x)) for x in self.attention_tensors()],
            fitting=[layer(x) for x in fit.layers.tensors()],
            bias=fit.bias_atom_e,
            out_bias=self.out_bias,
            fparam=pair("fparam"),
            aparam=pair("aparam"),
            case_embd=fit.case_embd if c.fitting.dim_case_embd else None,
        )

    # --- a whole batch, for training ------------------------------------------------------------------------------

    @property
    def cost_per_neighbor(self) -> int:
        """Numbers that a neighbour slot needs while it is evaluated, to size tiles."""
        c = self.config
        return 2 * sum(c.neuron) + (4 * c.attn + 2 * c.neuron[-1]) * (c.attn_layer > 0)

    def forward(self, batch: Batch) -> Prediction:
        """Energies, forces and virials of a batch, differentiable in the parameters.

        Args:
            batch: on the module's device; see ``dpa1_fast.structures.batch.collate``.
        """
        d = batch.vector.detach().requires_grad_()
        energies = torch.zeros(batch.n_atoms, dtype=torch.float64, device=d.device)
        for atoms in batch.tiles(TILE_ELEMENTS, self.cost_per_neighbor):
            edge, mask = batch.slots(atoms)
            vectors = d[edge] if len(d) else d.new_zeros(*edge.shape, 3)
            tile = batch.tile(atoms, edge, mask, vectors, beyond=2 * self.config.rcut)
            energies = energies.index_put((atoms,), self.atomic_energies(tile))
        (g,) = torch.autograd.grad(energies.sum(), d, create_graph=torch.is_grad_enabled(), allow_unused=True)
        g = torch.zeros_like(d) if g is None else g
        return Prediction(batch.sum_structures(energies), batch.forces(g), batch.virials(g), energies)
