"""How many floating-point operations one evaluation needs, counted as the paper writes it.

Only real neighbours count, nothing is counted twice for being computed twice, and products merged away still count:
this is the work that a user asked for, not the work that an implementation chose to do.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Sequence

from ..config import DPA1Config


def net(widths: Sequence[int]) -> int:
    """One pass through the matrices of a net."""
    return 2 * sum(a * b for a, b in itertools.pairwise(widths))


def atom(c: DPA1Config, n: int) -> int:
    """Energy and gradient of one atom with n neighbours: every product once forward and its adjoint once back.

    A product with weights has one adjoint (dE/dweights is not wanted), one of two activations has two.
    """
    m, a = c.neuron[-1], c.attn
    embedding = n * net([1 if c.tebd_input_mode == "strip" else 1 + c.tebd_inputs, *c.neuron])
    projections = 2 * n * m * 3 * a + 2 * n * a * m
    pairs = 2 * (2 * n * n * a)
    contraction = 2 * n * m * 4 + 2 * m * c.axis_neuron * 4
    fitting = net([c.dim_fitting_in, *c.fitting.neuron, 1])
    return 2 * (embedding + fitting) + 3 * contraction + c.attn_layer * (2 * projections + 3 * pairs)


def total(c: DPA1Config, counts: Iterable[int]) -> int:
    """All atoms of a system by their neighbour counts."""
    return sum(atom(c, int(n)) for n in counts)
