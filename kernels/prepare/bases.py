"""The coordinates in which the first attention layer sees its neighbours.

The embedding g of a neighbour depends on one number s and two types. For a given centre type and the types that are
around it, the curves g(s) span far fewer dimensions than M to any useful precision (water, M = 100: 30 to 1e-8, 51 to
1e-13). An orthonormal basis C of that span, cut where singular values fall below ``TOLERANCE`` of the largest, gives
φ = Cᵀ g with g = C φ to the same precision, and every product over pairs of neighbours shrinks from M + 1 to r + 1.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from ..reference import environment_matrix
from . import chebyshev, merging
from .weights import Weights

TOLERANCE = {torch.float64: 1e-13, torch.float32: 1e-8, torch.bfloat16: 1e-5}
"""Singular values below this part of the largest are rounding."""

NEAREST = 0.4
"""Å. Series and bases were not sampled for neighbours closer than this: their atom takes the net and the full layer."""

MOST_TYPES_AROUND = 4
"""A basis is looked for where at most so many types are around; with more it is rarely worth it."""

FEW_TYPES = 4
"""Models of at most so many types have bases for structures of any size: there are few, and they are soon made."""

ATOMS_PER_TYPE = {True: 32, False: 256}
"""With more types a structure of so many atoms a type that it is made of has them, with and without attention: one
takes about 10 ms to make, and screening a hundred thousand compounds would make one for every few atoms. By the
structure alone, so that results do not depend on what was evaluated before."""

SAMPLES = 512
WORTH = 0.75
"""A basis is used where r + 1 is at most this part of M + 1."""


def sample_distances(rcut: float) -> Tensor:
    """Distances between ``NEAREST`` and the cut-off, denser towards both ends. (SAMPLES,) float64."""
    x = torch.linspace(0.0, torch.pi, SAMPLES, dtype=torch.float64)
    return NEAREST + (rcut - NEAREST) * (1.0 - torch.cos(x)) / 2.0


def radial_entries(w: Weights, center: int, distance: Tensor) -> tuple[Tensor, Tensor]:
    """s and sw (n,) of neighbours at ``distance`` (n,) of a centre type."""
    c = w.config
    davg, dstd = w.davg[center].view(1, 1, 4), w.dstd[center].view(1, 1, 4)
    d = torch.nn.functional.pad(distance.unsqueeze(-1), (0, 2)).unsqueeze(0)
    row, sw = environment_matrix(d, davg, dstd, c.rcut_smth, c.rcut, c.env_protection)
    return row[0, :, 0], sw[0]


def series_of_pair(w: Weights, pair: int, tolerance: float, most: int) -> chebyshev.Series | None:
    """The embedding of a pair of types as polynomials of s, or None where ``most`` terms are not enough."""
    ends, _ = radial_entries(w, pair // w.config.ntypes, torch.tensor([NEAREST, w.config.rcut]).double())
    return chebyshev.fit(
        lambda s: merging.embed_sets(w, pair, s), float(ends.min()), float(ends.max()), tolerance, most
    )  # fmt: skip


def most_terms(w: Weights) -> int:
    """How long a series of this model may be before the net is faster."""
    shapes = [(int(x.weight.shape[0]), int(x.weight.shape[1])) for x in w.embedding]
    return chebyshev.most_terms(shapes) if w.config.attn_layer else chebyshev.MOST_TERMS


def least_atoms(w: Weights, types: int) -> int:
    """How many atoms a structure made of so many types must have for bases to be worth their making."""
    return 0 if w.config.ntypes <= FEW_TYPES else types * ATOMS_PER_TYPE[bool(w.attention)]


def layer_numbers(
    w: Weights, center: int, around: Sequence[int], series: Sequence[chebyshev.Series], precision: torch.dtype
) -> merging.Numbers | None:
    """The first attention layer, or without attention the energy net's first layer, in the coordinates of a centre type
    with the types around it; None: not worth it.

    Args:
        series: of the embedding of each of these pairs, in the order of ``around``.
    """
    if not w.attention and not has_head(w):
        return None
    span = of_pairs(w, center, [center * w.config.ntypes + t for t in around], TOLERANCE[precision])
    if span is None:
        return None
    span = span if w.attention else merging.along_axis(w, span)
    terms = max(x.c.shape[1] for x in series)
    c = torch.stack([torch.nn.functional.pad(x.c, (0, 0, 0, terms - x.c.shape[1])) for x in series])
    about = torch.tensor([series[0].lo, series[0].hi, c.shape[1], terms], dtype=torch.float64)
    slope = torch.stack([chebyshev.Series(series[0].lo, series[0].hi, x).slope for x in c])
    own = merging.reduced_layer(w.attention[0], w.config.normalize, span) if w.attention else merging.head(w, span)
    shared = {"types": torch.tensor(around).double(), "series": about, "c": c @ span, "slope": slope @ span}
    return shared | {"span": span.t()} | own


def has_head(w: Weights) -> bool:
    """Whether the energy net's first layer can read a smaller descriptor: it is hidden, returns no input, and empty
    slots add nothing to the moments."""
    if len(w.fitting) < 2 or bool(w.davg.any()):
        return False
    n_in, n_out = w.fitting[0].weight.shape
    return n_out not in (n_in, 2 * n_in)


def of_pairs(w: Weights, center: int, pairs: Sequence[int], tolerance: float) -> Tensor | None:
    """The basis (M, r) for a centre type and pairs of it with others, or None where it is not worth it."""
    s, sw = radial_entries(w, center, sample_distances(w.config.rcut))
    return find(torch.cat([merging.embed(w, pair, s, sw) for pair in pairs]), tolerance)


def find(samples: Tensor, tolerance: float) -> Tensor | None:
    """C (M, r) in float64 spanning the rows of ``samples`` (n, M), or None where it is not worth it.

    From the triangular factor of the samples, which has their singular values and is small.
    """
    u, size, _ = torch.linalg.svd(torch.linalg.qr(samples, mode="r")[1].t(), full_matrices=False)
    r = int((size > tolerance * size[0]).sum())
    return u[:, :r].contiguous() if r > 0 and r + 1 <= WORTH * (samples.shape[1] + 1) else None
