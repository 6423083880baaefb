"""One layer of gated attention with its gradient. Formula: ``reference.gated_attention_layer``.

Matrices are merged before they meet a neighbour. With ĝ = [g, 1] and Ŵ = [W; b]:

- q enters only through q kᵀ and |q|: Ŵ_q = L Q (LQ decomposition) turns q into ĝ L of width min(attn, M + 1), and k
  into k Qᵀ, whose first columns are scored and whose others are only measured.
- v enters only through v W_out, which is one matrix, and |v|² = ĝ P ĝᵀ, P = Ŵ_v Ŵ_vᵀ. Of this quadratic form the
  gradient is 2 ĝ P, which the forward has already: no product is needed in the backward.

A *reduced* layer sees g through r coordinates that span all that the embedding net can produce for the types at hand
(see ``basis.py``): keys and values are the coordinates φ̂ themselves, q kᵀ = φ̂ (Ŵ_q Ŵ_kᵀ) φ̂ᵀ, and all three lengths
are quadratic forms.

``g`` carries the output bias b_out of the layer (it was added before), so that no pass is spent on it.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from ..reference import NORM_EPS, AttentionLayer
from . import scores
from .scores import Gate, Lengths, Scores
from .workspace import Workspace

aten = torch.ops.aten


class Normed(NamedTuple):
    """What the LayerNorm's backward needs."""

    x: Tensor
    mean: Tensor
    rstd: Tensor


class Saved(NamedTuple):
    """What the backward needs of one layer: projections by name, weights, and the LayerNorm's input."""

    parts: dict[str, Tensor]
    scores: Scores
    normed: Normed


class LayerGradient(NamedTuple):
    """dE/dg (B·N, M), dE/dφ̂ (B·N, r) for a reduced layer or None, dE/du (B, N, U), dE/dsw (B, N) or None."""

    g: Tensor
    phi: Tensor | None
    u: Tensor
    sw: Tensor | None


def with_bias(w: Tensor, b: Tensor) -> Tensor:
    """[W; b] (M + 1, a)."""
    return torch.cat([w, b.unsqueeze(0)])


def lq(a: Tensor) -> tuple[Tensor, Tensor]:
    """a = L Q with Q (n, n) orthogonal and L (m, min(m, n))."""
    q, r = torch.linalg.qr(a.t(), mode="complete")
    return r[: min(a.shape)].t(), q.t()


class Norm:
    """The LayerNorm after the residual; its bias also carries b_out of the next layer."""

    def __init__(self, layer: AttentionLayer, eps: float, b_next: Tensor | None) -> None:
        dtype = layer.beta.dtype
        self.gamma, self.eps = layer.gamma, eps
        self.beta = layer.beta if b_next is None else (layer.beta.double() + b_next.double()).to(dtype)

    def forward(self, x: Tensor) -> tuple[Tensor, Normed]:
        """LayerNorm over rows of x."""
        out, mean, rstd = torch.native_layer_norm(x, [x.shape[1]], self.gamma, self.beta, self.eps)
        return out, Normed(x, mean, rstd)

    def backward(self, gy: Tensor, saved: Normed) -> Tensor:
        """Gradient of x."""
        keep = [True, False, False]
        grad: Tensor = aten.native_layer_norm_backward(
            gy, saved.x, [gy.shape[1]], saved.mean, saved.rstd, self.gamma, self.beta, keep
        )[0]
        return grad


class FullLayer:
    """A layer that sees all M channels.

    Args:
        layer: the model's parameters. scale, normalize, ln_eps: see the reference.
        b_next: b_out of the next layer, or None.
    """

    def __init__(
        self, layer: AttentionLayer, scale: float, normalize: bool, ln_eps: float, b_next: Tensor | None
    ) -> None:
        w_in, b_in, w_out, b_out, *_ = (t.double() for t in layer)
        self.scale, self.normalize = scale, normalize
        self.norm = Norm(layer, ln_eps, b_next)
        q, k, v = (with_bias(w, b) for w, b in zip(w_in.chunk(3, 1), b_in.chunk(3), strict=True))
        lower, rotation = lq(q)
        keys, width = k @ rotation.t(), lower.shape[1]
        matrices = {"q": lower, "k": keys[:, :width], "v": v @ w_out}
        if normalize and keys.shape[1] > width:
            matrices["k_rest"] = keys[:, width:]
        # g arrives with b_out added: its part is taken off the bias.
        dtype = layer.w_in.dtype
        self.weight = {name: x[:-1].to(dtype).contiguous() for name, x in matrices.items()}
        self.bias = {name: (x[-1] - b_out @ x[:-1]).to(dtype) for name, x in matrices.items()}
        p = v @ v.t()
        shift = torch.eye(len(p), dtype=torch.float64)
        shift[-1, :-1] = -b_out
        p = shift @ p @ shift.t()
        self.p, self.p_row, self.p_one = p[:-1, :-1].to(dtype).contiguous(), p[-1, :-1].to(dtype), float(p[-1, -1])

    def forward(self, g: Tensor, phi: Tensor | None, gate: Gate, ws: Workspace, tag: str) -> tuple[Tensor, Saved]:
        """LayerNorm(g + (w v) W_out). ``g`` (B·N, M) is overwritten with what the LayerNorm reads."""
        b, n = gate.mask.shape
        rows = g.shape[0]
        parts = {}
        for name, weight in self.weight.items():
            out = ws.take(f"{tag}.{name}", rows, weight.shape[1])
            parts[name] = torch.addmm(self.bias[name], g, weight, out=out)
        lengths = self._lengths(g, parts, ws, tag, b, n) if self.normalize else None
        q, k, v = (parts[name].view(b, n, -1) for name in ("q", "k", "v"))
        s = scores.forward(q, k, lengths, gate, self.scale, ws, tag)
        g.view(b, n, -1).baddbmm_(s.w, v)
        out, normed = self.norm.forward(g)
        return out, Saved(parts, s, normed)

    def _lengths(self, g: Tensor, parts: dict[str, Tensor], ws: Workspace, tag: str, b: int, n: int) -> Lengths:
        k = torch.linalg.vector_norm(parts["k"], dim=-1)
        if "k_rest" in parts:
            k = torch.hypot(k, torch.linalg.vector_norm(parts["k_rest"], dim=-1))
        h = torch.addmm(self.p_row, g, self.p, out=ws.take(f"{tag}.h", *g.shape))
        parts["h"] = h
        v2 = torch.mul(h, g, out=ws.take("attention.product", *g.shape)).sum(-1)
        v2 = torch.addmv(v2, g, self.p_row).add_(self.p_one)
        q = torch.linalg.vector_norm(parts["q"], dim=-1)
        return Lengths(*(x.clamp_min_(NORM_EPS).view(b, n) for x in (q, k, v2.clamp_min_(0.0).sqrt_())))

    def backward(self, gy: Tensor, phi: Tensor | None, saved: Saved, gate: Gate, ws: Workspace) -> LayerGradient:
        """From dE/d(output) (B·N, M)."""
        b, n = gate.mask.shape
        s, parts = saved.scores, saved.parts
        dg = self.norm.backward(gy, saved.normed)
        dg3 = dg.view(b, n, -1)
        q, k, v = (parts[name].view(b, n, -1) for name in ("q", "k", "v"))
        dw = torch.bmm(dg3, v.transpose(1, 2), out=ws.take("attention.dw", b, n, n))
        dv = torch.bmm(s.w.transpose(1, 2), dg3, out=ws.take("attention.dv", *v.shape))
        r = scores.backward(dw, s, gate, ws)
        dq, dk = ws.take("attention.dq", *q.shape), ws.take("attention.dk", *k.shape)
        if r.c_q is None:
            torch.bmm(r.logits, k, out=dq)
            torch.bmm(r.logits.transpose(1, 2), q, out=dk)
        else:
            assert r.c_k is not None
            assert r.c_v is not None
            torch.mul(q, r.c_q, out=dq).baddbmm_(r.logits, k)
            torch.mul(k, r.c_k, out=dk).baddbmm_(r.logits.transpose(1, 2), q)
            dg.addcmul_(parts["h"], r.c_v.view(-1, 1))
            if "k_rest" in parts:
                dg.addmm_(parts["k_rest"].mul_(r.c_k.view(-1, 1)), self.weight["k_rest"].t())
        for name, grad in (("q", dq), ("k", dk), ("v", dv)):
            dg.addmm_(grad.flatten(0, 1), self.weight[name].t())
        return LayerGradient(dg, None, r.u, r.sw)


class ReducedLayer:
    """A layer whose input is ĝ = basis·φ̂; see ``FullLayer`` for the other arguments.

    Args:
        basis: (M + 1, r); the last coordinate of φ̂ is 1.
    """

    def __init__(
        self,
        layer: AttentionLayer,
        scale: float,
        normalize: bool,
        ln_eps: float,
        b_next: Tensor | None,
        basis: Tensor,
    ) -> None:
        w_in, b_in, w_out, *_ = (t.double() for t in layer)
        self.scale, self.normalize = scale, normalize
        self.norm = Norm(layer, ln_eps, b_next)
        dtype = layer.w_in.dtype
        q, k, v = (basis.t() @ with_bias(w, b) for w, b in zip(w_in.chunk(3, 1), b_in.chunk(3), strict=True))
        self.a = (q @ k.t()).to(dtype).contiguous()
        self.w_y = (v @ w_out).to(dtype).contiguous()
        self.p = [(x @ x.t()).to(dtype).contiguous() for x in (q, k, v)]

    def forward(self, g: Tensor, phi: Tensor | None, gate: Gate, ws: Workspace, tag: str) -> tuple[Tensor, Saved]:
        """LayerNorm(g + (w v) W_out) from φ̂ (B·N, r). ``g`` is overwritten with what the LayerNorm reads."""
        assert phi is not None
        b, n = gate.mask.shape
        parts = {"q": torch.mm(phi, self.a, out=ws.take(f"{tag}.q", *phi.shape))}
        lengths = None
        if self.normalize:
            found = []
            for name, p in zip(("hq", "hk", "hv"), self.p, strict=True):
                parts[name] = torch.mm(phi, p, out=ws.take(f"{tag}.{name}", *phi.shape))
                product = torch.mul(parts[name], phi, out=ws.take("attention.product", *phi.shape))
                found.append(product.sum(-1).clamp_min_(0.0).sqrt_().clamp_min_(NORM_EPS).view(b, n))
            lengths = Lengths(*found)
        phi3 = phi.view(b, n, -1)
        s = scores.forward(parts["q"].view(b, n, -1), phi3, lengths, gate, self.scale, ws, tag)
        y = torch.bmm(s.w, phi3, out=ws.take(f"{tag}.y", *phi3.shape))
        g.addmm_(y.flatten(0, 1), self.w_y)
        out, normed = self.norm.forward(g)
        return out, Saved(parts, s, normed)

    def backward(self, gy: Tensor, phi: Tensor | None, saved: Saved, gate: Gate, ws: Workspace) -> LayerGradient:
        """From dE/d(output) (B·N, M)."""
        assert phi is not None
        b, n = gate.mask.shape
        s, parts = saved.scores, saved.parts
        dg = self.norm.backward(gy, saved.normed)
        phi3, q = phi.view(b, n, -1), parts["q"].view(b, n, -1)
        dy = torch.mm(dg, self.w_y.t(), out=ws.take("attention.dy", *phi.shape)).view(b, n, -1)
        dw = torch.bmm(dy, phi3.transpose(1, 2), out=ws.take("attention.dw", b, n, n))
        dphi = torch.bmm(s.w.transpose(1, 2), dy, out=ws.take("attention.dphi", *phi3.shape))
        r = scores.backward(dw, s, gate, ws)
        dq = torch.bmm(r.logits, phi3, out=ws.take("attention.dq", *phi3.shape))
        dphi.baddbmm_(r.logits.transpose(1, 2), q)
        out = dphi.flatten(0, 1).addmm_(dq.flatten(0, 1), self.a.t())
        if r.c_q is not None:
            for name, c in (("hq", r.c_q), ("hk", r.c_k), ("hv", r.c_v)):
                assert c is not None
                out.addcmul_(parts[name], c.view(-1, 1))
        return LayerGradient(dg, out, r.u, r.sw)
