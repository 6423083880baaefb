"""One layer of gated attention with its gradient. Formula: ``reference.gated_attention_layer``.

Matrices are merged before they meet a neighbour. With ĝ = [g, 1] and Ŵ = [W; b]:

- q enters only through q kᵀ and |q|: Ŵ_q = L Q (LQ decomposition) turns q into ĝ L of width min(attn, M + 1), and k
  into k Qᵀ, of which the first columns are scored and all are measured.
- v enters only through v W_out and |v|: ĝ (Ŵ_v W_out) and ĝ L_v.
- A *reduced* layer sees g through r coordinates that span all that the embedding net can produce for the types at hand
  (see ``basis.py``): keys and values are the coordinates themselves, q kᵀ = φ̂ (Ŵ_q Ŵ_kᵀ) φ̂ᵀ.

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


class Saved(NamedTuple):
    """What the backward needs of one layer."""

    cat: Tensor
    scores: Scores
    before_norm: Tensor
    mean: Tensor
    rstd: Tensor
    y: Tensor | None


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
    """a = L Q with Q (n, n) orthogonal and L (m, min(m, n)), in float64."""
    q, r = torch.linalg.qr(a.double().t(), mode="complete")
    width = min(a.shape)
    return r[:width].t(), q.t()


class GatedAttention:
    """Merged matrices of one layer.

    Args:
        layer: the model's parameters.
        scale, normalize, ln_eps: see the reference.
        b_next: b_out of the next layer, which this layer's LayerNorm adds to its output, or None.
        basis: (M + 1, r) for a reduced layer: ĝ = basis·φ̂, whose last coordinate is 1.
        dtype: of the products.
    """

    def __init__(
        self,
        layer: AttentionLayer,
        scale: float,
        normalize: bool,
        ln_eps: float,
        b_next: Tensor | None,
        basis: Tensor | None,
        dtype: torch.dtype,
    ) -> None:
        w_in, b_in, w_out, b_out, gamma, beta = (t.double() for t in layer)
        self.scale, self.normalize, self.eps = scale, normalize, ln_eps
        self.gamma, self.beta = gamma.to(dtype), (beta if b_next is None else beta + b_next.double()).to(dtype)
        self.reduced = basis is not None
        q, k, v = (with_bias(w, b) for w, b in zip(w_in.chunk(3, 1), b_in.chunk(3), strict=True))
        out = v @ w_out
        if basis is None:
            # g arrives with b_out added: ĝ·X = [g + b_out, 1]·(X with b_out·X taken off its last row).
            lower, rotation = lq(q)
            width = lower.shape[1]
            keys = k @ rotation.t()
            parts = [lower, keys if normalize else keys[:, :width], out] + ([lq(v)[0]] if normalize else [])
            cat = torch.cat(parts, dim=1)
            self.bias: Tensor | None = (cat[-1] - b_out @ cat[:-1]).to(dtype)
            self.w_cat = cat[:-1].to(dtype).contiguous()
            self.w_y: Tensor | None = None
        else:
            q, k, v, out = (basis.double().t() @ x for x in (q, k, v, out))
            width = basis.shape[1]
            parts = [q @ k.t()] + ([lq(x)[0] for x in (q, k, v)] if normalize else [])
            self.bias, self.w_cat = None, torch.cat(parts, dim=1).to(dtype).contiguous()
            self.w_y = out.to(dtype).contiguous()
        widths = [p.shape[1] for p in parts]
        self.starts = [sum(widths[:n]) for n in range(len(widths))]
        self.widths, self.width = widths, width
        self.w_back = self.w_cat.t().contiguous().t()

    # --- views into the concatenated projections ------------------------------------------------------------------

    def _part(self, cat: Tensor, k: int, width: int | None = None) -> Tensor:
        return cat.narrow(-1, self.starts[k], self.widths[k] if width is None else width)

    def _measured(self, cat: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """The parts whose lengths are |q|, |k|, |v|."""
        first = 1 if self.reduced else 0
        return tuple(self._part(cat, k) for k in ((1, 2, 3) if first else (0, 1, 3)))  # type: ignore[return-value]

    # --- forward --------------------------------------------------------------------------------------------------

    def forward(self, g: Tensor, phi: Tensor | None, gate: Gate, ws: Workspace, tag: str) -> tuple[Tensor, Saved]:
        """LayerNorm(g + (w v) W_out); φ̂ (B·N, r) for a reduced layer.

        ``g`` (B·N, M) already carries b_out and is overwritten with what the LayerNorm reads.
        """
        b, n = gate.mask.shape
        x = g if phi is None else phi
        cat = ws.take(f"{tag}.cat", len(x), self.w_cat.shape[1])
        if self.bias is None:
            torch.mm(x, self.w_cat, out=cat)
        else:
            torch.addmm(self.bias, x, self.w_cat, out=cat)
        cat = cat.view(b, n, -1)
        lengths = None
        if self.normalize:
            parts = (torch.linalg.vector_norm(p, dim=-1).clamp_min_(NORM_EPS) for p in self._measured(cat))
            lengths = Lengths(*parts)
        q = self._part(cat, 0, self.width)
        k = self._part(cat, 1, self.width) if phi is None else phi.view(b, n, -1)
        s = scores.forward(q, k, lengths, gate, self.scale, ws, tag)
        before, y = g, None
        if phi is None:
            before.view(b, n, -1).baddbmm_(s.w, self._part(cat, 2))
        else:
            y = torch.bmm(s.w, phi.view(b, n, -1), out=ws.take(f"{tag}.y", b, n, phi.shape[1])).flatten(0, 1)
            before.addmm_(y, self.w_y)
        out, mean, rstd = torch.native_layer_norm(before, [before.shape[1]], self.gamma, self.beta, self.eps)
        return out, Saved(cat, s, before, mean, rstd, y)

    # --- backward -------------------------------------------------------------------------------------------------

    def backward(self, gy: Tensor, phi: Tensor | None, saved: Saved, gate: Gate, ws: Workspace) -> LayerGradient:
        """From dE/d(output) (B·N, M)."""
        b, n = gate.mask.shape
        s, cat = saved.scores, saved.cat
        m = [gy.shape[1]]
        keep = [True, False, False]
        dg = aten.native_layer_norm_backward(
            gy, saved.before_norm, m, saved.mean, saved.rstd, self.gamma, self.beta, keep
        )[0]
        dcat = ws.take("attention.dcat", *cat.shape)
        dphi = None
        dg3 = dg.view(b, n, -1)
        dw = ws.take("attention.dw", b, n, n)
        if phi is None:
            torch.bmm(dg3, self._part(cat, 2).transpose(1, 2), out=dw)
            _bmm_into(self._part(dcat, 2), s.w.transpose(1, 2), dg3)
        else:
            phi3 = phi.view(b, n, -1)
            dy = (dg @ self.w_y.t()).view(b, n, -1)  # type: ignore[union-attr]
            torch.bmm(dy, phi3.transpose(1, 2), out=dw)
            dphi3 = torch.bmm(s.w.transpose(1, 2), dy)
        r = scores.backward(dw, s, gate, ws)
        if self.normalize:
            assert r.c_q is not None and r.c_k is not None and r.c_v is not None
            for source, target, c in zip(self._measured(cat), self._measured(dcat), (r.c_q, r.c_k, r.c_v), strict=True):
                torch.mul(source, c, out=target)
        q, dq = self._part(cat, 0, self.width), self._part(dcat, 0, self.width)
        if phi is None:
            k, dk = self._part(cat, 1, self.width), self._part(dcat, 1, self.width)
            into = _baddbmm if self.normalize else _bmm_into
            into(dq, r.logits, k)
            into(dk, r.logits.transpose(1, 2), q)
            dg.addmm_(dcat.flatten(0, 1), self.w_back.t())
        else:
            _bmm_into(dq, r.logits, phi3)
            dphi3.baddbmm_(r.logits.transpose(1, 2), q)
            dphi = dphi3.flatten(0, 1).addmm_(dcat.flatten(0, 1), self.w_back.t())
        return LayerGradient(dg, dphi, r.u, r.sw)


def _bmm_into(out: Tensor, a: Tensor, b: Tensor) -> None:
    out.zero_()
    out.baddbmm_(a, b)


def _baddbmm(out: Tensor, a: Tensor, b: Tensor) -> None:
    out.baddbmm_(a, b)
