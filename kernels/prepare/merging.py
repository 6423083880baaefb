"""A model's weights as the compiled engine wants them: tables over types, and matrices merged before they meet an atom.

``kernels/README.md`` derives every merge. All in float64; the engine rounds once, at the end.
"""

from __future__ import annotations

import torch
from torch import Tensor

from ..reference import (
    AttentionLayer,
    Layer,
    activation,
    embedding_strip,
    network,
    padding_after_attention,
    parse_activation,
)
from .weights import Weights

Numbers = dict[str, Tensor]

ACTIVATIONS = ("tanh", "relu", "relu6", "softplus", "sigmoid", "silu", "gelu", "silut", "linear")
"""In the order of ``Activation::Kind`` of native/network.h."""


def scalar(x: float | Tensor) -> Tensor:
    """One number as a tensor."""
    return torch.tensor([float(x)], dtype=torch.float64)


def activation_code(name: str) -> Tensor:
    """[kind, threshold] of an activation function by DeePMD-kit's name.

    Raises:
        ValueError: for one that the reference may have, but neither the compiled engine nor the Triton kernels.
    """
    key, threshold = parse_activation(name)
    if key not in ACTIVATIONS:
        raise ValueError(f"activation_function {name!r} is not known to this backend; backend='reference' has it")
    return torch.tensor([ACTIVATIONS.index(key), threshold], dtype=torch.float64)


def layers(name: str, stack: list[Layer], function: str) -> Numbers:
    """A network's layers."""
    out = {f"{name}.activation": activation_code(function)}
    for k, layer in enumerate(stack):
        out[f"{name}.{k}.weight"] = layer.weight
        out[f"{name}.{k}.bias"] = torch.zeros_like(layer.weight[0]) if layer.bias is None else layer.bias
        if layer.idt is not None:
            out[f"{name}.{k}.idt"] = layer.idt
    return out


def pairs_of_types(w: Weights) -> Tensor:
    """The type part of the embedding's input, [T_j, T_i] or T_j, for each pair t_i·ntypes + t_j."""
    n, table = w.config.ntypes, w.type_table
    j = table.repeat(n, 1)
    return j if w.config.type_one_side else torch.cat([j, table.repeat_interleave(n, 0)], dim=-1)


def first_layer(w: Weights) -> Numbers:
    """The first embedding layer as a function of s and a pair of types; linear in s before the activation."""
    layer, strip = w.embedding[0], w.strip is not None
    n_in, width = layer.weight.shape
    types = torch.zeros(w.config.ntypes**2, 0, dtype=torch.float64) if strip else pairs_of_types(w)
    bias = torch.zeros(width, dtype=torch.float64) if layer.bias is None else layer.bias
    out = {"first.w_s": layer.weight[0], "first.pre": types @ layer.weight[1:] + bias}
    if layer.idt is not None:
        out["first.idt"] = layer.idt
    copies = 1 if width == n_in else 2 if width == 2 * n_in else 0
    if copies:
        unit = torch.zeros(n_in, dtype=torch.float64)
        unit[0] = 1.0
        inputs = torch.cat([torch.zeros(types.shape[0], 1, dtype=torch.float64), types], dim=-1)
        out["first.r_s"], out["first.r_types"] = unit.repeat(copies), inputs.repeat(1, copies)
    return out


def embed(w: Weights, pair: int, s: Tensor, sw: Tensor) -> Tensor:
    """g (n, M) of one pair of types at s and sw (n,)."""
    act = activation(w.config.activation_function)
    types = pairs_of_types(w)[pair].expand(s.shape[0], -1)
    if w.strip is None:
        return network(torch.cat([s.unsqueeze(-1), types], dim=-1), w.embedding, act)
    gate = sw if w.config.smooth_type_embedding else None
    return embedding_strip(s.unsqueeze(-1), network(types, w.strip, act), gate, w.embedding, act)


def embed_sets(w: Weights, pair: int, s: Tensor) -> Tensor:
    """g as parts that depend on s alone, (sets, n, M): one, or in smooth strip mode the second times the switch."""
    if w.strip is None or not w.config.smooth_type_embedding:
        return embed(w, pair, s, torch.ones_like(s)).unsqueeze(0)
    act = activation(w.config.activation_function)
    g_s = network(s.unsqueeze(-1), w.embedding, act)
    return torch.stack([g_s, g_s * network(pairs_of_types(w)[pair : pair + 1], w.strip, act)])


def empty_slots(w: Weights) -> Tensor:
    """What one empty slot adds to X for each (type of the first atom, type of the centre). (T, T, 4, M)."""
    n = w.config.ntypes
    row = -w.davg / w.dstd
    out = torch.zeros(n, n, 4, w.config.neuron[-1], dtype=torch.float64)
    for center in range(n):
        for first in range(n):
            g = embed(w, center * n + first, row[center, :1], torch.zeros(1, dtype=torch.float64))
            g = padding_after_attention(g, w.attention, w.config.ln_eps)
            out[first, center] = row[center].unsqueeze(-1) * g
    return out


# --- attention ----------------------------------------------------------------------------------------------------


def with_bias(layer: AttentionLayer) -> tuple[Tensor, Tensor, Tensor]:
    """Ŵ = [W; b] (M + 1, a) of q, k and v."""
    q, k, v = (torch.cat([w, b.unsqueeze(0)]) for w, b in zip(layer.w_in.chunk(3, 1), layer.b_in.chunk(3), strict=True))
    return q, k, v


def lq(a: Tensor) -> tuple[Tensor, Tensor]:
    """a = L Q with Q (n, n) orthogonal and L (m, min(m, n))."""
    q, r = torch.linalg.qr(a.t(), mode="complete")
    return r[: min(a.shape)].t(), q.t()


def full_layer(layer: AttentionLayer, normalize: bool, b_next: Tensor | None) -> Numbers:
    """One attention layer on all channels; g arrives with b_out added, so its part is taken off every bias."""
    q, k, v = with_bias(layer)
    lower, rotation = lq(q)
    keys, depth = k @ rotation.t(), lower.shape[1]
    # Channels of q and k in reverse: then the zeros of L come first, both for a channel of q and for one of g, and
    # native/attention.h leaves them out.
    lower, scored = lower.flip(1), keys[:, :depth].flip(1)
    # The rest of k is orthogonal to every q: it counts for the length of k alone.
    rest = keys[:, depth:] if normalize else keys[:, :0]
    p = v @ v.t()
    shift = torch.eye(p.shape[0], dtype=torch.float64)
    shift[-1, :-1] = -layer.b_out
    p = shift @ p @ shift.t()
    merged = shift @ torch.cat([lower, scored, rest, v @ layer.w_out], dim=1)
    if normalize:
        merged = torch.cat([merged, p[:, :-1]], dim=1)
    return {
        "depth": scalar(depth),
        "rest": scalar(rest.shape[1]),
        "weight": merged[:-1],
        "bias": merged[-1],
        "p_row": p[-1, :-1],
        "p_one": scalar(p[-1, -1]),
        "gamma": layer.gamma,
        "beta": layer.beta if b_next is None else layer.beta + b_next,
    }


def reduced_layer(layer: AttentionLayer, normalize: bool, span: Tensor) -> Numbers:
    """The first attention layer in coordinates φ̂ = [φ, 1], g = span φ with span (M, r)."""
    basis = torch.nn.functional.pad(span, (0, 1, 0, 1))
    basis[-1, -1] = 1.0
    q, k, v = (basis.t() @ x for x in with_bias(layer))
    products = [q @ k.t()] + ([x @ x.t() for x in (q, k, v)] if normalize else [])
    return {"a": torch.cat(products, dim=1), "w_y": v @ layer.w_out}


def along_axis(w: Weights, span: Tensor) -> Tensor:
    """A basis of the same span (M, r), turned such that only its first coordinates reach the first A channels."""
    turn: Tensor = torch.linalg.qr(span[: w.config.axis_neuron].t(), mode="complete")[0]
    return span @ turn


def head(w: Weights, span: Tensor) -> Numbers:
    """The energy net's first layer on the descriptor in coordinates; span (M, r) by ``along_axis``.

    With X = Y spanᵀ and S_pq = Σ_c Y_cp Y_cq the descriptor is D_ka = Σ_pq span_kp span_aq S_pq, where
    q < A' = min(A, r) is enough. So W_(pq),h = Σ_ka span_kp span_aq W_(ka),h; S is symmetric, and W_(pq) + W_(qp)
    serves both for q < p < A'. What follows the descriptor stays.
    """
    (m, r), a, weight = span.shape, w.config.axis_neuron, w.fitting[0].weight
    n_out, axis = weight.shape[1], min(a, r)
    full = torch.einsum("kp,aq,kah->pqh", span, span[:a, :axis], weight[: m * a].view(m, a, n_out))
    square = full[:axis]
    full[:axis] = square + square.transpose(0, 1)
    diagonal = torch.arange(axis)
    full[diagonal, diagonal] /= 2
    kept = torch.arange(axis).unsqueeze(0) <= torch.arange(r).unsqueeze(1)
    return {"head": torch.cat([full[kept], weight[m * a :]])}


def of_model(w: Weights, nearest: float, extras: int) -> Numbers:
    """Everything but series and bases; ``extras`` inputs of the energy net are given with each atom."""
    c = w.config
    *hidden, last = w.fitting
    single = torch.zeros(c.ntypes, dtype=torch.float64)
    single[[t for t in c.fitting.exclude_types if 0 <= t < c.ntypes]] = 1.0
    flags = {
        "ntypes": c.ntypes, "m": c.neuron[-1], "axis": c.axis_neuron, "nsel": c.nsel, "extras": extras,
        "smooth": c.smooth_type_embedding, "dotr": c.attn_dotr, "strip": w.strip is not None,
        "vacuum": c.fitting.subtract_vacuum, "nearest": nearest, "rcut": c.rcut, "rcut_smth": c.rcut_smth,
        "protection": c.env_protection, "normalize": c.normalize, "scale": c.attention_scale, "ln_eps": c.ln_eps,
    }  # fmt: skip
    out: Numbers = {name: scalar(x) for name, x in flags.items()}
    out |= {"davg": w.davg, "dstd": w.dstd, "bias": w.bias, "out_bias": w.out_bias, "silent": single}
    out |= first_layer(w) | layers("embedding", w.embedding[1:], c.activation_function)
    out |= layers("fitting", hidden, c.fitting.activation_function)
    out |= {"last.weight": last.weight, "last.bias": scalar(0.0) if last.bias is None else last.bias}
    if c.concat_output_tebd:
        out["tebd"] = w.type_table
    if w.strip is not None:
        out["g_type"] = network(pairs_of_types(w), w.strip, activation(c.activation_function))
    if bool(w.davg.any()):
        out["empty"] = empty_slots(w)
    for k, layer in enumerate(w.attention):
        b_next = w.attention[k + 1].b_out if k + 1 < len(w.attention) else None
        out |= {f"attention.{k}.{name}": x for name, x in full_layer(layer, c.normalize, b_next).items()}
    if w.attention:
        out["b_out"] = w.attention[0].b_out
    return out
