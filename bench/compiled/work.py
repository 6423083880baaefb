"""What each kernel has to do for one atom with n neighbours, counted from its loops; ``cost.py`` says how."""

from __future__ import annotations

import math
from collections import Counter
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any

from bench.compiled.executed import Loop
from bench.compiled.launches import Launch
from dpa1_fast.kernels.triton.ops.gated_attention import NORM_ROWS
from dpa1_fast.kernels.triton.packing import FACTOR_STEP


@dataclass
class Work:
    """For one atom: products (m, n, k) → how many, bytes to and from L2, global bytes, and the least of them.

    ``phases``: how often each loop inside the loop over atoms runs, and those inside it. Without them, or where loops
    are others: ``runs``: how often what is outside of loops over products runs, at most. ``least``: how often products
    outside of such loops do, at least; what is left of all products is in loops. Both err towards more instructions.
    """

    dots: Counter[tuple[int, int, int]] = field(default_factory=Counter)
    l2: float = 0.0
    dram: float = 0.0
    minimum: float = 0.0
    runs: float = 1.0
    least: float | None = None
    phases: list[Loop] | None = None

    def product(self, m: int, n: int, k: int, times: float, a: float = 0, b: float = 0) -> None:
        """``times`` products whose operands are a and b bytes an element from memory, 0 where they are on chip."""
        self.dots[m, n, k] += times  # type: ignore[assignment] # of floats
        self.l2 += times * (m * k * a + k * n * b)

    def array(self, elements: float, size: int, needed: float | None = None) -> None:
        """An array that is read or written once; ``needed``: elements that count, all unless told."""
        self.dram += elements * size
        self.minimum += (elements if needed is None else needed) * size


def _embed(work: Work, c: dict[str, Any], rows: int, times: float, size: int, back: bool) -> None:
    for (k_in, n_out), (k_real, n_real) in zip(pairwise(c["WIDTHS"]), pairwise(c["REAL"]), strict=True):
        work.product(rows, n_out, k_in, times)
        if back:
            work.product(rows, k_in, n_out // 2, 2 * times)
        work.l2 += times * k_real * n_real * (2 if back else 1) * size


def _score_rows(c: dict[str, Any]) -> int:
    """How often a loop reads the rows whose products with others it makes: once whole, twice in chunks."""
    return 1 if c["C"] == c["MP"] else 2


def _attend(work: Work, c: dict[str, Any], n: int, size: int, kept: int) -> None:
    """Blocks of queries, all keys passing by."""
    q, k, chunk, m, mp = c["B"], c["K"], c["C"], c["M"], c["MP"]
    blocks, keys = math.ceil(n / q), math.ceil(n / k)
    work.product(k, q, chunk, blocks * keys * (mp // chunk))
    work.product(q, mp, k, blocks * keys)
    work.l2 += n * m * (1 if chunk == mp else keys) * kept  # t
    work.l2 += blocks * n * (m * _score_rows(c) * kept + 6 * size)


def _weights(work: Work, c: dict[str, Any], matrices: int, n: int, operand: int) -> None:
    """Products of all rows with matrices (M, M), a block of rows at a time."""
    blocks = math.ceil(n / c["B"])
    work.product(c["B"], c["MP"], c["W"], matrices * blocks * (c["MP"] // c["W"]))
    work.l2 += matrices * blocks * c["M"] ** 2 * operand


def _layer(work: Work, c: dict[str, Any], n: int, size: int, operand: int) -> None:
    """All rows up to LayerNorm. ``operand``: bytes of a number that is kept for products alone, weights among them."""
    m, filled = c["M"], math.ceil(n / c["B"]) * c["B"]
    _weights(work, c, 2, n, operand)
    _attend(work, c, n, size, operand)
    # g for t and z put down; t and y put down, y taken up, and where operands are narrower, g; numbers of rows.
    work.l2 += 2 * n * m * size + (3 + c["NARROW"]) * n * m * operand + filled * 10 * size


def _phases(c: dict[str, Any], n: int) -> tuple[Loop, Loop, Loop]:
    """The loops of products with weights, of scores, and of what goes row by row, in the forward pass."""
    weights: Loop = (math.ceil(n / c["B"]), [(c["MP"] // c["W"], [])])
    chunks: list[Any] = [] if c["C"] == c["MP"] else [(c["MP"] // c["C"], [])]
    scores: Loop = (math.ceil(n / c["B"]), [(math.ceil(n / c["K"]), chunks)])
    few = 16 if "Q" in c and c["PREC"] == "tf32x3" else min(NORM_ROWS.value, c["B"])
    return weights, scores, (math.ceil(n / few), [])


def _attention_fwd(work: Work, c: dict[str, Any], n: int, size: int, operand: int) -> None:
    m, mp, blocks = c["M"], c["MP"], math.ceil(n / c["B"])
    work.runs, work.least = math.ceil(n / min(NORM_ROWS.value, c["B"])), blocks
    weights, scores, rows = _phases(c, n)
    work.phases = [weights, scores, weights, rows]
    work.l2 -= n * m * size  # g, which its loops count
    _layer(work, c, n, size, operand)
    work.l2 += 2 * n * m * size  # z and g
    if c["NORMALIZE"]:
        parts = range(0, c["LW"], FACTOR_STEP)
        steps = [(mp - part) // c["W"] for part in parts]
        work.phases = [(blocks, [(len(parts), [(sum(steps) / len(parts), [])])]), *work.phases]
        work.product(c["B"], FACTOR_STEP, c["W"], blocks * 3 * sum(steps))
        for part in parts:
            work.l2 += n * (m - part) * size + blocks * 3 * (m - part) * min(FACTOR_STEP, c["LM"] - part) * operand
        work.array(n * 3, size)
    work.array(n * (m + 4) + 1, size)
    work.array(3, 4)
    if c["LAST"]:
        work.array(n * 4, size)
        work.array(4 * mp, size, 4 * m)
    else:
        work.array(n * m, size)


def _attention_bwd(work: Work, c: dict[str, Any], n: int, size: int, operand: int) -> None:
    q, k, chunk, m, mp = c["Q"], c["K"], c["C"], c["M"], c["MP"]
    blocks, passing = math.ceil(n / q), math.ceil(n / k)
    work.runs, work.least = max(blocks, math.ceil(n / c["E"]) if c["FIRST"] else 0), math.ceil(n / c["B"])
    pairs, twice = blocks * passing, _score_rows(c)
    work.l2 -= n * m * size  # g, which its loops count
    weights, scores, rows = _phases(c, n)
    squares: list[Any] = [(weights[1][0][0], [(3, [])])] if c["NORMALIZE"] else []
    last: Loop = (weights[0], weights[1] + squares)
    work.phases = [weights, scores, weights, rows, weights, (blocks, scores[1]), (weights[0], []), last]
    if c["FIRST"]:
        work.phases.append((math.ceil(n / c["E"]), []))
    _layer(work, c, n, size, operand)
    _weights(work, c, 2 + (3 if c["NORMALIZE"] else 0), n, operand)
    # Blocks of keys, queries passing by: scores and w̄; Sᵀ t and wᵀ ȳ; S g.
    work.product(k, q, chunk, 2 * pairs * (mp // chunk))
    work.product(q, mp, k, 2 * pairs)
    work.product(k, mp, q, pairs)
    # Rows of scratch: z taken, z̄ put, and taken; keys' taken and put; S g and dE/dg taken (and that put); ȳ put.
    work.l2 += (7 + c["FIRST"]) * n * m * size + n * m * operand
    # t and ȳ passing by, and S g that they collect; g of keys.
    work.l2 += blocks * n * m * 2 * twice * operand + (2 * blocks - 1) * n * m * size
    work.l2 += n * m * (1 if chunk == mp else 2 * passing) * operand
    # g: for z, and for the lengths.
    work.l2 += n * m * (1 + c["NORMALIZE"]) * size
    work.l2 += (blocks * n * (12 + 11) + n * 50) * size  # numbers of rows
    work.array(n * (m + 4 + 3) + 1, size)
    work.array(3, 4)
    if c["LAST"]:
        work.array(n * 4 + 4 * mp, size, n * 4 + 4 * m)
        work.array(n * 4, size)
    else:
        work.array(n * m + n * 4, size)
    if c["FIRST"]:
        edges = math.ceil(n / c["E"])
        _embed(work, c, c["E"], edges, size, back=True)
        work.l2 += n * m * size  # dE/dg
        work.array(n * (0 if c["LAST"] else 4) + n * 4, size)
        work.array(n * 4, size)
        work.array(n * 4, size, n)
        work.array(n + 3, 4)
    else:
        work.array(n * m + n * 4, size)


def _embedding_fwd(work: Work, c: dict[str, Any], n: int, size: int, operand: int) -> None:
    blocks = work.runs = math.ceil(n / c["R"])
    _embed(work, c, c["R"], blocks, size, back=False)
    work.array(n * 3, 8)
    work.array(n + 6, 4)
    if c["ATTENTION"]:
        work.array(n * (c["M"] + 4 + 4), size)
    else:
        work.array(blocks * 4 * c["MP"], size, 4 * c["M"])


def _series(work: Work, c: dict[str, Any], rows: int, times: float, size: int) -> None:
    """Products of polynomials with coefficients, once for each type of neighbours; there or back."""
    every = c["TYPES"] * c["SETS"]
    work.product(rows, c["M"], c["TERMS"], every * times)
    work.l2 += times * every * c["TERMS"] * c["M"] * size


def _coordinates(work: Work, c: dict[str, Any], n: int, size: int, operand: int) -> None:
    blocks = work.runs = math.ceil(n / c["R"])
    _series(work, c, c["R"], blocks, size)
    work.array(n * 3, 8)
    work.array(n + 6, 4)
    work.array(n * 8, size)
    work.array(n * c["M"], operand)


def _reduced_scores(work: Work, c: dict[str, Any], n: int, size: int, operand: int) -> None:
    """t, scores and y in coordinates."""
    m, b, k = c["M"], c["B"], c["K"]
    blocks, keys = math.ceil(n / b), math.ceil(n / k)
    work.product(b, m, m, blocks)
    work.l2 += blocks * m * m * operand + n * m * operand * 2  # φ read, t put down
    work.product(k, b, m, blocks * keys)
    work.product(b, m, k, blocks * keys)
    work.l2 += n * m * operand * 2 + blocks * n * (m * operand + 6 * size) + blocks * b * 10 * size


def _reduced_rows(work: Work, c: dict[str, Any], n: int, operand: int, back: bool) -> None:
    """From y and φ to N channels, and back."""
    r, m, wide = c["R"], c["M"], c["NP"]
    blocks = math.ceil(n / r)
    work.product(r, wide, m, 2 * blocks)
    work.l2 += blocks * 2 * m * wide * operand + 2 * n * m * operand
    if back:
        many = math.ceil(n / c["B"])
        work.product(c["B"], m, c["W"], 2 * many * (wide // c["W"]))
        work.l2 += many * 2 * m * wide * operand + 2 * n * c["N"] * operand  # z̄ put and taken


def _reduced_fwd(work: Work, c: dict[str, Any], n: int, size: int, operand: int) -> None:
    m, b = c["M"], c["B"]
    blocks = math.ceil(n / b)
    scores: Loop = (blocks, [(math.ceil(n / c["K"]), [])])
    work.runs, work.least = math.ceil(n / c["R"]), blocks
    work.phases = [(blocks, []), scores, (math.ceil(n / c["R"]), [])]
    if c["NORMALIZE"]:
        work.phases = [(blocks, []), *work.phases]
        work.product(b, min(FACTOR_STEP, c["LW"]), m, 3 * blocks * math.ceil(c["LW"] / FACTOR_STEP))
        work.l2 += n * m * operand + blocks * 3 * m * c["LW"] * operand
        work.array(n * 3, size)
    _reduced_scores(work, c, n, size, operand)
    _reduced_rows(work, c, n, operand, back=False)
    work.array(n * m, operand)
    work.array(n * 4 + 1, size)
    work.array(4, 4)
    if c["LAST"]:
        work.array(n * 4, size)
        work.array(4 * c["NP"], size, 4 * c["N"])
    else:
        work.array(n * c["N"], size)


def _reduced_bwd(work: Work, c: dict[str, Any], n: int, size: int, operand: int) -> None:
    m, q, k, b, e = c["M"], c["Q"], c["K"], c["B"], c["E"]
    blocks, passing, edges = math.ceil(n / q), math.ceil(n / k), math.ceil(n / e)
    rows = math.ceil(n / b)
    work.runs, work.least = max(math.ceil(n / c["R"]), edges), rows
    work.phases = [
        (rows, []), (rows, [(passing, [])]), (math.ceil(n / c["R"]), []), (rows, [(c["NP"] // c["W"], [])]),
        (blocks, [(passing, [])]), (rows, []),
        (edges, [(3, [])] if c["NORMALIZE"] else []),
    ]  # fmt: skip
    _reduced_scores(work, c, n, size, operand)
    _reduced_rows(work, c, n, operand, back=True)
    work.l2 += n * m * (size + operand)  # φ̄ and ȳ put down
    pairs = blocks * passing
    work.product(k, q, m, 2 * pairs)
    work.product(q, m, k, 2 * pairs)
    work.product(k, m, q, pairs)
    # t and ȳ passing by, and S φ that they collect; φ of keys, φ̄ taken and put.
    work.l2 += blocks * n * m * 2 * operand + (2 * blocks - 1) * n * m * size + n * m * (operand + 2 * size)
    work.l2 += (blocks * n * (12 + 11) + n * 50) * size  # numbers of rows
    work.product(e, m, m, (1 + (3 if c["NORMALIZE"] else 0)) * edges)
    work.l2 += edges * 4 * m * m * operand + n * m * (2 * size + operand)
    work.product(e, c["TERMS"], m, c["TYPES"] * c["SETS"] * edges)
    work.l2 += edges * c["TYPES"] * c["SETS"] * c["TERMS"] * m * size
    work.array(n * m, operand)
    work.array(n * (4 + 4 + 3) + 1, size)
    work.array(n + 5, 4)
    if c["LAST"]:
        work.array(4 * c["NP"], size, 4 * c["N"])
        work.array(n * 4, size)
    else:
        work.array(n * c["N"] + n * 8, size)
    work.array(n * 5, size)


def _embedding_bwd(work: Work, c: dict[str, Any], n: int, size: int, operand: int) -> None:
    blocks = work.runs = math.ceil(n / c["R"])
    _embed(work, c, c["R"], blocks, size, back=False)
    _embed(work, c, c["R"], blocks, size, back=True)
    work.array(2 * n * 3, 8)
    work.array(n + 4, 4)
    work.array(4 * c["MP"], size, 4 * c["MP"])


def _energy_layer_fwd(work: Work, c: dict[str, Any], n: int, size: int, operand: int) -> None:
    """Between two products, which are torch's: all that it reads and writes one kernel for the whole net would not."""
    work.runs = math.ceil(c["N"] / c["W"]) / c["R"]
    work.array((4 if c["RESIDUAL"] else 3) * c["N"], size, 0)
    work.array(c["N"] * c["NARROW"], operand, 0)


def _energy_last(work: Work, c: dict[str, Any], n: int, size: int, operand: int) -> None:
    work.runs = math.ceil(c["N"] / c["W"]) / c["R"]
    work.array(c["N"] * (1 + c["BACKWARD"] * (1 + c["HIDDEN"])), size, 0)
    work.array(c["N"] * c["BACKWARD"] * c["HIDDEN"], operand, 0)
    work.array(1, 8)
    work.array(1, 4)


def _energy_layer_bwd(work: Work, c: dict[str, Any], n: int, size: int, operand: int) -> None:
    work.runs = math.ceil(c["K"] / c["W"]) / c["R"]
    work.array((1 + c["HIDDEN"]) * c["K"] + (c["K"] + c["N"] if c["RESIDUAL"] else 0), size, 0)
    work.array(c["K"] * c["HIDDEN"], operand, 0)


def _contraction_fwd(work: Work, c: dict[str, Any], n: int, size: int, operand: int) -> None:
    blocks = math.ceil(n / c["R"])
    work.array((blocks + 1) * 4 * c["MP"], size, 8 * c["M"])
    work.array(c["M"] * c["A"] + c["EXTRA"], operand)
    work.array(c["EXTRA"] + 1, size)
    work.array(3, 4)
    work.l2 += c["M"] * c["A"] * 4


def _contraction_bwd(work: Work, c: dict[str, Any], n: int, size: int, operand: int) -> None:
    work.array(2 * 4 * c["MP"], size, 8 * c["M"])
    work.array(c["M"] * c["A"], size)
    work.l2 += c["M"] * c["A"] * 4


def _environment_bwd(work: Work, c: dict[str, Any], n: int, size: int, operand: int) -> None:
    work.array(n * 6, 8)
    work.array(n * 8, size, n * 5)
    work.array(6, 4)
    work.runs = math.ceil(n / c["R"])


def _forces(work: Work, c: dict[str, Any], n: int, size: int, operand: int) -> None:
    work.array(2 * n * 3, 8, n * 3)
    work.array(n * 3 + 12, 8)
    work.array(n + 4, 8)
    work.runs = math.ceil(n / c["R"])


WORK = {
    "_embedding_fwd_kernel": _embedding_fwd,
    "_coordinates_kernel": _coordinates,
    "_reduced_attention_fwd_kernel": _reduced_fwd,
    "_reduced_attention_bwd_kernel": _reduced_bwd,
    "_gated_attention_fwd_kernel": _attention_fwd,
    "_gated_attention_bwd_kernel": _attention_bwd,
    "_embedding_bwd_kernel": _embedding_bwd,
    "_energy_layer_fwd_kernel": _energy_layer_fwd,
    "_energy_last_kernel": _energy_last,
    "_energy_layer_bwd_kernel": _energy_layer_bwd,
    "_contraction_fwd_kernel": _contraction_fwd,
    "_contraction_bwd_kernel": _contraction_bwd,
    "_environment_bwd_kernel": _environment_bwd,
    "_forces_kernel": _forces,
}


def work_of(launch: Launch, neighbors: int) -> Work:
    """What a kernel does for one atom with that many neighbours."""
    work, operands = Work(), {"*bf16": 2, "*fp16": 2}
    narrow = ("matrices", "phi", "narrow", "d_p", "d_out")
    operand = max((operands.get(launch.signature.get(k, ""), 0) for k in narrow), default=0)
    kept = {launch.signature.get(k) for k in ("g", "row", "d_row", "x", "d_x", "z", "h")}
    size = 8 if "*fp64" in kept else 4
    WORK[launch.kernel](work, launch.constants, neighbors, size, operand or size)
    # What comes from DRAM goes through L2 as well; arrays that loops read are counted there already.
    work.l2 = max(work.l2, 0.0) + work.dram
    return work
