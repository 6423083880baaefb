"""Every formula of DPA-1 once, in plain torch, in the order of the paper (arXiv 2208.08236).

This file is the judge: each fast path is compared with it, training differentiates it (twice, for a loss on
forces), and the CPU engine and the Triton kernels have no formula of their own that is not derived from here.

The functions work on a *tile*: B centre atoms with up to N neighbours each, where N is the largest count in the
tile and never ``sel``. ``mask`` (B, N) says which slots hold a neighbour; masked slots must hold a finite ``d``
longer than ``rcut`` and contribute exactly nothing. What DeePMD-kit's padding to ``sel`` adds to the result is
added here in closed form (``n_empty`` below), so that nothing is ever padded to ``sel``.

Shapes: B centres, N neighbours, M = neuron[-1], A = axis_neuron, a = attn. Lengths in Å, energies in eV.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

ATTENTION_SHIFT = 20.0
"""Smooth attention moves every logit to -20 where the switch is zero (DeePMD-kit's ``attnw_shift``)."""

NORM_EPS = 1e-12
"""Smallest length by which a vector is divided when it is normalised (torch's own default)."""


class Layer(NamedTuple):
    """One resnet layer: ``weight`` (in, out), ``bias`` (out) or None, ``idt`` (out) or None."""

    weight: Tensor
    bias: Tensor | None
    idt: Tensor | None


class AttentionLayer(NamedTuple):
    """``w_in`` (M, 3a), ``b_in`` (3a), ``w_out`` (a, M), ``b_out`` (M), LayerNorm's ``gamma`` and ``beta`` (M)."""

    w_in: Tensor
    b_in: Tensor
    w_out: Tensor
    b_out: Tensor
    gamma: Tensor
    beta: Tensor


# --- environment matrix -------------------------------------------------------------------------------------------


def switch(distance: Tensor, rcut_smth: float, rcut: float) -> Tensor:
    """Smooth switch: 1 below ``rcut_smth``, 0 beyond ``rcut``, twice differentiable between.

    sw = 1 + u³(−6u² + 15u − 10), u = clip((L − rcut_smth)/(rcut − rcut_smth), 0, 1)

    The polynomial cancels near ``rcut``: within about 3e-4 Å of it only a few digits of sw are left. A hard softmax
    with ``attn_dotr`` magnifies what is left to 1e-7 eV, so the operations here stand in DeePMD-kit's order.
    """
    u = (distance.clamp(rcut_smth, rcut) - rcut_smth) / (rcut - rcut_smth)
    u2 = u * u
    return u2 * u * (-6.0 * u2 + 15.0 * u - 10.0) + 1.0


def environment_matrix(
    d: Tensor, davg: Tensor, dstd: Tensor, rcut_smth: float, rcut: float, protection: float
) -> tuple[Tensor, Tensor]:
    """Rows of the normalised environment matrix (paper, eq. 3) and the switch.

    row = (sw·[1/q, d/q²] − davg) / dstd with q = |d| + protection.

    Args:
        d: (B, N, 3) r_j − r_i in Å, never zero.
        davg, dstd: (B, 1, 4) statistics of the centre's type.

    Returns:
        row (B, N, 4) and sw (B, N).
    """
    distance = torch.linalg.vector_norm(d, dim=-1, keepdim=True)
    sw = switch(distance, rcut_smth, rcut)
    q = distance + protection
    row = (torch.cat([1.0 / q, d / q**2], dim=-1) * sw - davg) / dstd
    return row, sw.squeeze(-1)


# --- networks -----------------------------------------------------------------------------------------------------


def silut(threshold: float) -> Callable[[Tensor], Tensor]:
    """SiLU that turns into a tanh beyond ``threshold``, value and slope continuous (DeePMD-kit's ``silut:T``)."""
    sigmoid = 1.0 / (1.0 + math.exp(-threshold))
    slope = sigmoid + threshold * sigmoid * (1.0 - sigmoid)

    def activation(x: Tensor) -> Tensor:
        saturated = torch.tanh(slope * (x - threshold)) + threshold * sigmoid
        return torch.where(x >= threshold, saturated, F.silu(x))

    return activation


ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "tanh": torch.tanh,
    "relu": F.relu,
    "relu6": F.relu6,
    "softplus": F.softplus,
    "sigmoid": torch.sigmoid,
    "silu": F.silu,
    "gelu": lambda x: F.gelu(x, approximate="tanh"),
    "linear": lambda x: x,
}


SILUT_THRESHOLDS = (-100.0, 1e6)
"""Between these every backend can compute ``silut``; below, its sigmoid underflows, and beyond, it is ``silu``."""

SAME_ACTIVATIONS = {"gelu_tf": "gelu", "none": "linear", "custom_silu": "silut"}
"""DeePMD-kit's second names."""


def parse_activation(name: str) -> tuple[str, float]:
    """The function that DeePMD-kit calls ``name``, by one name each, and the threshold of ``silut`` (0 for others).

    Raises:
        ValueError: for a name that is none of DeePMD-kit's, or a threshold that is no usable number.
    """
    key, colon, number = name.lower().partition(":") if isinstance(name, str) else ("", "", "")
    key = SAME_ACTIVATIONS.get(key, key)
    if key == "silut":
        low, high = SILUT_THRESHOLDS
        try:
            threshold = float(number) if colon else 3.0
        except ValueError:
            threshold = math.nan
        if not low <= threshold <= high:
            raise ValueError(f"activation_function {name!r}: the threshold must be a number from {low:g} to {high:g}")
        return key, threshold
    if colon or key not in ACTIVATIONS:
        raise ValueError(f"activation_function {name!r} is not known; known are {', '.join(ACTIVATIONS)}, silut")
    return key, 0.0


def activation(name: str) -> Callable[[Tensor], Tensor]:
    """The activation function that DeePMD-kit calls ``name``.

    Raises:
        ValueError: see ``parse_activation``.
    """
    key, threshold = parse_activation(name)
    return silut(threshold) if key == "silut" else ACTIVATIONS[key]


def resnet_layer(x: Tensor, layer: Layer, act: Callable[[Tensor], Tensor]) -> Tensor:
    """y = act(x W + b)·idt, then + x where the widths match, + [x, x] where the width doubles."""
    y = x @ layer.weight
    if layer.bias is not None:
        y = y + layer.bias
    y = act(y)
    if layer.idt is not None:
        y = y * layer.idt
    if y.shape[-1] == x.shape[-1]:
        return y + x
    if y.shape[-1] == 2 * x.shape[-1]:
        return y + torch.cat([x, x], dim=-1)
    return y


def network(x: Tensor, layers: Sequence[Layer], act: Callable[[Tensor], Tensor]) -> Tensor:
    """Resnet layers one after another."""
    for layer in layers:
        x = resnet_layer(x, layer, act)
    return x


def energy_network(x: Tensor, layers: Sequence[Layer], act: Callable[[Tensor], Tensor]) -> Tensor:
    """The fitting net: resnet layers, then one linear output. x (B, D) → (B,)."""
    x = network(x, layers[:-1], act)
    last = layers[-1]
    y = x @ last.weight
    return (y if last.bias is None else y + last.bias).squeeze(-1)


# --- embedding of one neighbour -----------------------------------------------------------------------------------


def embedding_concat(
    s: Tensor, tebd_j: Tensor, tebd_i: Tensor | None, layers: Sequence[Layer], act: Callable[[Tensor], Tensor]
) -> Tensor:
    """g = net([s, T_j, T_i]), neighbour first; without T_i for ``type_one_side``. s (…, 1) → (…, M)."""
    return network(torch.cat([s, tebd_j] if tebd_i is None else [s, tebd_j, tebd_i], dim=-1), layers, act)


def embedding_strip(
    s: Tensor, g_type: Tensor, sw: Tensor | None, layers: Sequence[Layer], act: Callable[[Tensor], Tensor]
) -> Tensor:
    """g = g_s(s)·(g_t·sw) + g_s(s): radial net times the type factor, which is switched off smoothly where ``sw``."""
    g_s = network(s, layers, act)
    factor = g_type if sw is None else g_type * sw.unsqueeze(-1)
    return g_s * factor + g_s


# --- neighbour-wise gated attention -------------------------------------------------------------------------------


def unit_rows(row: Tensor) -> Tensor:
    """r̂ = row[1:4] / max(|row[1:4]|, 1e-12), the directions that gate the attention. (…, 4) → (…, 3)."""
    return F.normalize(row[..., 1:4], dim=-1, eps=NORM_EPS)


def attention_weights(q: Tensor, k: Tensor, mask: Tensor, sw: Tensor | None, n_empty: Tensor | None) -> Tensor:
    """Softmax over the neighbours of one centre, before the angular gate.

    Hard: w = softmax(q kᵀ) over real neighbours.
    Smooth: l = (q kᵀ + 20)·sw_q·sw_k − 20, w = softmax(l)·sw_q·sw_k. DeePMD-kit's softmax runs over all ``sel``
    slots, and an empty slot has l = −20 exactly; one extra column of logit −20 + ln(n_empty) stands for them all.

    Args:
        q, k: (B, N, a), q already scaled.
        mask: (B, N) real neighbours.
        sw: (B, N) for smooth attention, else None.
        n_empty: (B,) number of empty slots, with ``sw`` only.

    Returns:
        (B, N, N), row = query; zero in every masked column.
    """
    logits = q @ k.transpose(-1, -2)
    real = mask.unsqueeze(-2)
    if sw is None:
        # A finite floor keeps centres without neighbours free of NaN; the mask below removes what it leaves.
        logits = logits.masked_fill(~real, torch.finfo(logits.dtype).min)
        return torch.softmax(logits, dim=-1) * real
    assert n_empty is not None
    gate = sw.unsqueeze(-1) * sw.unsqueeze(-2)
    logits = (logits + ATTENTION_SHIFT) * gate - ATTENTION_SHIFT
    logits = logits.masked_fill(~real, -math.inf)
    empty = (torch.log(n_empty.to(logits)) - ATTENTION_SHIFT).view(-1, 1, 1).expand(-1, logits.shape[-2], 1)
    return torch.softmax(torch.cat([logits, empty], dim=-1), dim=-1)[..., :-1] * gate


def gated_attention_layer(
    g: Tensor,
    r_hat: Tensor | None,
    mask: Tensor,
    sw: Tensor | None,
    n_empty: Tensor | None,
    layer: AttentionLayer,
    scale: float,
    normalize: bool,
    ln_eps: float,
) -> Tensor:
    """One layer of neighbour-wise gated self-attention (paper, eqs. 7–10): g ← LayerNorm(g + (w v) W_out + b_out).

    Args:
        g: (B, N, M). r_hat: (B, N, 3) multiplies w by r̂_q·r̂_k, or None (``attn_dotr`` off).
        scale: (attn·scaling_factor)^(−1/2) or ``temperature``. normalize: L2-normalise q, k and v.
    """
    q, k, v = (g @ layer.w_in + layer.b_in).chunk(3, dim=-1)
    if normalize:
        q, k, v = (F.normalize(x, dim=-1, eps=NORM_EPS) for x in (q, k, v))
    w = attention_weights(q * scale, k, mask, sw, n_empty)
    if r_hat is not None:
        w = w * (r_hat @ r_hat.transpose(-1, -2))
    return layer_norm(g + (w @ v) @ layer.w_out + layer.b_out, layer, ln_eps)


def layer_norm(x: Tensor, layer: AttentionLayer, eps: float) -> Tensor:
    """LayerNorm with biased variance over the last dimension."""
    return F.layer_norm(x, x.shape[-1:], layer.gamma, layer.beta, eps)


def padding_after_attention(g_empty: Tensor, layers: Sequence[AttentionLayer], eps: float) -> Tensor:
    """What the attention makes of an empty slot: it attends to nothing, so g_p ← LayerNorm(g_p + b_out) per layer."""
    for layer in layers:
        g_empty = layer_norm(g_empty + layer.b_out, layer, eps)
    return g_empty


# --- contraction --------------------------------------------------------------------------------------------------


def moments(g: Tensor, row: Tensor, empty: Tensor | None) -> Tensor:
    """X = Σ_j g_j ⊗ row_j, what a neighbourhood comes to (paper, eq. 5, before its division by ``nsel``).

    Args:
        g: (B, N, M). row: (B, N, 4). empty: (B, M, 4) Σ over the empty slots, where davg ≠ 0 leaves something.

    Returns:
        (B, M, 4)
    """
    x = g.transpose(-1, -2) @ row
    return x if empty is None else x + empty


def contraction(x: Tensor, nsel: int, axis_neuron: int) -> Tensor:
    """D = X · X[:A]ᵀ / nsel² (paper, eq. 5), flattened row-major. x (B, M, 4) → (B, M·A)."""
    x = x / nsel
    return (x @ x[:, :axis_neuron].transpose(-1, -2)).flatten(1)
