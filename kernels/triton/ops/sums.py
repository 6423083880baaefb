"""From dE/dd of the edges to forces and virials, by lists and not by atomics: the same bits every time.

F_i = Σ_(edges from i) ḡ − Σ_(edges to i) ḡ in eV/Å;  W_i = −Σ_(edges from i) ḡ ⊗ d in eV, whose sum is the virial.
"""

from __future__ import annotations

import triton
import triton.language as tl


@triton.jit
def _forces_kernel(
    gradient, vector,  # (edges, 3) eV/Å and Å, float64
    first_edge,  # (n + 1,) edges from each atom
    arriving, first_arriving,  # (edges,) edges sorted by neighbour, (n + 1,) where each atom's begin
    forces,  # (n, 3) out
    virials,  # (n, 3, 3) out
    BLOCK_ROWS: tl.constexpr,
):  # fmt: skip
    """One program an atom."""
    i = tl.program_id(0).to(tl.int64)
    xyz = tl.arange(0, 4)
    force = tl.zeros([BLOCK_ROWS, 4], tl.float64)
    w_x, w_y, w_z = tl.zeros_like(force), tl.zeros_like(force), tl.zeros_like(force)
    stop = tl.load(first_edge + i + 1)
    for e in range(tl.load(first_edge + i), stop, BLOCK_ROWS):
        edges = e + tl.arange(0, BLOCK_ROWS)
        real = edges < stop
        keep = real[:, None] & (xyz < 3)[None, :]
        at = edges[:, None] * 3 + xyz[None, :]
        g = tl.load(gradient + at, mask=keep, other=0.0)
        force += g
        w_x -= g * tl.load(vector + edges * 3, mask=real, other=0.0)[:, None]
        w_y -= g * tl.load(vector + edges * 3 + 1, mask=real, other=0.0)[:, None]
        w_z -= g * tl.load(vector + edges * 3 + 2, mask=real, other=0.0)[:, None]
    stop = tl.load(first_arriving + i + 1)
    for e in range(tl.load(first_arriving + i), stop, BLOCK_ROWS):
        real = e + tl.arange(0, BLOCK_ROWS) < stop
        edges = tl.load(arriving + e + tl.arange(0, BLOCK_ROWS), mask=real, other=0)
        keep = real[:, None] & (xyz < 3)[None, :]
        force -= tl.load(gradient + (edges[:, None] * 3 + xyz[None, :]), mask=keep, other=0.0)
    tl.store(forces + i * 3 + xyz, tl.sum(force, axis=0), mask=xyz < 3)
    own = virials + i * 9 + xyz * 3
    tl.store(own, tl.sum(w_x, axis=0), mask=xyz < 3)
    tl.store(own + 1, tl.sum(w_y, axis=0), mask=xyz < 3)
    tl.store(own + 2, tl.sum(w_z, axis=0), mask=xyz < 3)


@triton.jit
def _virials_kernel(
    virials,  # (n, 3, 3) eV, of each atom, float64
    offsets,  # (S + 1,) where structures begin
    out,  # (S, 3, 3) out
    BLOCK_ROWS: tl.constexpr,
):  # fmt: skip
    """One program a structure."""
    k = tl.program_id(0).to(tl.int64)
    cols = tl.arange(0, 16)
    total = tl.zeros([BLOCK_ROWS, 16], tl.float64)
    stop = tl.load(offsets + k + 1)
    for i in range(tl.load(offsets + k), stop, BLOCK_ROWS):
        rows = i + tl.arange(0, BLOCK_ROWS)
        keep = (rows < stop)[:, None] & (cols < 9)[None, :]
        total += tl.load(virials + (rows[:, None] * 9 + cols[None, :]), mask=keep, other=0.0)
    tl.store(out + k * 9 + cols, tl.sum(total, axis=0), mask=cols < 9)
