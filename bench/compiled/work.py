"""What each kernel has to do for one atom with n neighbours, counted from its loops; ``cost.py`` says how."""

from __future__ import annotations

import math
from itertools import pairwise
from typing import Any

from bench.compiled.counted import Sizes, Work
from bench.compiled.estimate_instructions import Loop
from bench.compiled.launches import Launch
from dpa1_fast.kernels.triton.packing import FACTOR_STEP


def _embed(work: Work, c: dict[str, Any], rows: int, times: float, size: int, back: bool) -> None:
    for (k_in, n_out), (k_real, n_real) in zip(pairwise(c["WIDTHS"]), pairwise(c["REAL"]), strict=True):
        work.product(rows, n_out, k_in, times)
        if back:
            work.product(rows, k_in, n_out // 2, 2 * times)
        work.l2 += times * k_real * n_real * (2 if back else 1) * size


def _score_rows(c: dict[str, Any]) -> int:
    """How often a loop reads the rows whose products with others it makes: once whole, twice in chunks."""
    return 1 if c["BLOCK_INNER"] == c["MP"] else 2


def _chunks(c: dict[str, Any]) -> list[Loop]:
    """The loop over chunks of the inner dimension, where there is more than one."""
    return [] if c["BLOCK_INNER"] >= c["MP"] else [(c["MP"] // c["BLOCK_INNER"], [])]


def _weights(work: Work, c: dict[str, Any], matrices: int, n: int, operand: int) -> None:
    """Products of all rows with matrices (M, M), a block of rows at a time."""
    blocks = work.runs = math.ceil(n / c["BLOCK_ROWS"])
    work.product(c["BLOCK_ROWS"], c["MP"], c["BLOCK_INNER"], matrices * blocks * (c["MP"] // c["BLOCK_INNER"]))
    work.l2 += matrices * blocks * c["M"] ** 2 * operand


def _project(work: Work, c: dict[str, Any], n: int, size: Sizes) -> None:
    m, mp = c["M"], c["MP"]
    _weights(work, c, 1, n, size.operand)
    work.phases, blocks = _chunks(c), work.runs
    if c["NORMALIZE"]:
        width = min(FACTOR_STEP, c["FACTOR_WIDTH"])
        parts = range(0, c["FACTOR_WIDTH"], width)
        steps = [(mp - part) // c["BLOCK_INNER"] for part in parts]
        inside: list[Loop] = [(sum(steps) / len(parts), [])] if max(steps) > 1 else []
        work.phases = [*([(len(parts), inside)] if len(parts) > 1 else inside), *work.phases]
        work.product(c["BLOCK_ROWS"], width, c["BLOCK_INNER"], blocks * 3 * sum(steps))
        for part in parts:
            work.l2 += (
                n * (m - part) * size.g + blocks * 3 * (m - part) * min(width, c["FACTOR_REAL"] - part) * size.operand
            )
        work.array(n * 3, size.work)
    work.array(n * m, size.g)
    work.array(n * 4 + 1, size.work)
    work.array(n * m * (1 + c["NARROW"]), size.operand, 0)  # t, and g for products
    work.array(n * 6, size.work, 0)
    work.array(3, 4)


def _scores(work: Work, c: dict[str, Any], n: int, size: Sizes) -> None:
    """Blocks of queries, all keys passing by."""
    q, k, chunk, m, mp = c["BLOCK_QUERIES"], c["BLOCK_KEYS"], c["BLOCK_INNER"], c["M"], c["MP"]
    blocks, keys = math.ceil(n / q), math.ceil(n / k)
    work.runs, work.phases = blocks, [(keys, _chunks(c))]
    work.product(k, q, chunk, blocks * keys * (mp // chunk))
    work.product(q, mp, k, blocks * keys)
    work.l2 += n * m * (0 if chunk == mp else keys - 1) * size.operand  # t
    work.l2 += n * (blocks * _score_rows(c) - 1) * m * size.key + (blocks - 1) * n * 8 * size.work
    work.array(n * m, size.key, 0)
    work.array(2 * n * m, size.operand, 0)  # t and y
    work.array(n * 4 + 1, size.work, 0)
    work.array(n * 8, size.work, 0)
    work.array(2, 4)


def _output(work: Work, c: dict[str, Any], n: int, size: Sizes) -> None:
    m = c["M"]
    _weights(work, c, 1, n, size.operand)
    work.phases = _chunks(c)
    work.array(n * m, size.operand, 0)  # y
    work.array(n * m, size.g, 0)
    work.array(n, size.work, 0)
    work.array(n * m, size.work, 0)  # what attention added
    work.array(2, 4)
    _after(work, c, n, m, c["MP"], size)


def _after(work: Work, c: dict[str, Any], n: int, m: int, mp: int, size: Sizes) -> None:
    """What a layer gives: the next one's input, or moments."""
    if c["LAST"]:
        work.array(n * 4, size.work)
        work.array(math.ceil(n / c["BLOCK_ROWS"]) * 4 * mp, size.work, 4 * m)
    else:
        work.array(n * m, size.work)


def _before(work: Work, c: dict[str, Any], n: int, m: int, mp: int, size: Sizes) -> None:
    """Where its backward pass begins."""
    if c["LAST"]:
        work.array(n * 8 + 4 * mp, size.work, n * 8 + 4 * m)
    else:
        work.array(n * m, size.work)


def _norm_bwd(work: Work, c: dict[str, Any], n: int, size: Sizes) -> None:
    m = c["M"]
    work.runs, work.phases = math.ceil(n / c["BLOCK_ROWS"]), []
    work.l2 += work.runs * (5 + 8 * c["LAST"]) * m * size.work
    work.array(n * m, size.g)
    work.array(2 * n * m, size.work, 0)  # what attention added, z̄
    work.array(2 * n, size.work, 0)
    work.array(2, 4)
    _before(work, c, n, m, c["MP"], size)


def _output_bwd(work: Work, c: dict[str, Any], n: int, size: Sizes) -> None:
    _weights(work, c, 1, n, size.operand)
    work.phases = _chunks(c)
    work.array(n * c["M"], size.work, 0)
    work.array(n * c["M"], size.operand, 0)
    work.array(2, 4)


def _scores_bwd(work: Work, c: dict[str, Any], n: int, size: Sizes) -> None:
    """Blocks of keys, all queries passing by: scores and w̄; Sᵀ t and wᵀ ȳ; S g."""
    q, k, chunk, m, mp = c["BLOCK_KEYS"], c["BLOCK_QUERIES"], c["BLOCK_INNER"], c["M"], c["MP"]
    blocks, passing = math.ceil(n / q), math.ceil(n / k)
    pairs, twice = blocks * passing, _score_rows(c)
    work.phases = [(blocks, [(passing, _chunks(c))])]
    work.product(k, q, chunk, 2 * pairs * (mp // chunk))
    work.product(q, mp, k, 2 * pairs)
    work.product(k, mp, q, pairs)
    # t and ȳ passing by, and S g that they collect; keys again for each chunk; numbers of rows.
    work.l2 += n * m * 2 * (blocks * twice - 1) * size.operand + 2 * (blocks - 1) * n * m * size.work
    work.l2 += n * m * (0 if chunk == mp else 2 * passing - 1) * size.key + (blocks - 1) * n * 24 * size.work
    work.array(n * m, size.key, 0)
    work.array(2 * n * m, size.operand, 0)
    work.array(3 * n * m, size.work, 0)  # z̄ taken, and put with what came to it; S g
    work.array(n * (4 + 24), size.work, 0)
    work.array(2, 4)


def _rows_bwd(work: Work, c: dict[str, Any], n: int, size: Sizes) -> None:
    """dE/d(row) and dE/d(gate)."""
    first, last = c.get("FIRST", True), c["LAST"]
    work.array(n * 24, size.work, 0)  # numbers of rows
    work.array(n * (8 + 3), size.work, n * 8)
    work.array(n * (8 * first + 4 * (not last) + (1 if first else 4)), size.work)


def _project_bwd(work: Work, c: dict[str, Any], n: int, size: Sizes) -> None:
    m = c["M"]
    _weights(work, c, 1 + 3 * c["NORMALIZE"], n, size.operand)
    work.phases = _chunks(c)
    if c["NORMALIZE"]:
        work.phases = [*work.phases, *([(c["MP"] // c["BLOCK_INNER"], [(3, [])])] if work.phases else [(3, [])])]
        work.l2 += 2 * n * m * size.g
    work.array(2 * n * m, size.work, 0)
    work.array(n * m, size.g, 0)
    work.array(n * m, size.work, n * m)
    work.array(2, 4)
    _rows_bwd(work, c, n, size)


def _embedding_edges_bwd(work: Work, c: dict[str, Any], n: int, size: Sizes) -> None:
    blocks = work.runs = math.ceil(n / c["BLOCK_ROWS"])
    work.phases = []
    _embed(work, c, c["BLOCK_ROWS"], blocks, size.work, back=True)
    work.array(n * c["M"], size.work)
    work.array(n * 4, size.work)
    work.array(n + 4, 4)


def _embedding_fwd(work: Work, c: dict[str, Any], n: int, size: Sizes) -> None:
    blocks = work.runs = math.ceil(n / c["BLOCK_ROWS"])
    _embed(work, c, c["BLOCK_ROWS"], blocks, size.work, back=False)
    work.array(n * 3, 8)
    work.array(n + 6, 4)
    if c["ATTENTION"]:
        work.array(n * (c["M"] + 4 + 4), size.work)
    else:
        work.array(blocks * 4 * c["MP"], size.work, 4 * c["M"])


def _series(work: Work, c: dict[str, Any], rows: int, times: float, size: int) -> None:
    """Products of polynomials with coefficients, once for each type of neighbours; there or back."""
    every = c["TYPES"] * c["SETS"]
    work.product(rows, c["M"], c["TERMS"], every * times)
    work.l2 += times * every * c["TERMS"] * c["M"] * size


def _coordinates(work: Work, c: dict[str, Any], n: int, size: Sizes) -> None:
    blocks = work.runs = math.ceil(n / c["BLOCK_ROWS"])
    _series(work, c, c["BLOCK_ROWS"], blocks, size.work)
    work.array(n * 3, 8)
    work.array(n + 6, 4)
    work.array(n * 8, size.work)
    work.array(n * c["M"], size.operand)


def _reduced_output(work: Work, c: dict[str, Any], n: int, size: Sizes) -> None:
    """From y and φ to N channels."""
    m, wide = c["M"], c["NP"]
    blocks = work.runs = math.ceil(n / c["BLOCK_ROWS"])
    work.phases = []
    work.product(c["BLOCK_ROWS"], wide, m, 2 * blocks)
    work.l2 += blocks * 2 * m * c["N"] * size.operand
    work.array(2 * n * m, size.operand, 0)
    work.array(n, size.work, 0)
    work.array(3, 4)
    _after(work, c, n, c["N"], wide, size)


def _reduced_output_bwd(work: Work, c: dict[str, Any], n: int, size: Sizes) -> None:
    m, wide, b = c["M"], c["NP"], c["BLOCK_ROWS"]
    blocks = work.runs = math.ceil(n / b)
    work.phases = [(wide // c["BLOCK_INNER"], [])] if c["BLOCK_INNER"] < wide else []
    work.product(b, wide, m, 2 * blocks)
    work.product(b, m, c["BLOCK_INNER"], 2 * blocks * (wide // c["BLOCK_INNER"]))
    work.l2 += blocks * 4 * m * c["N"] * size.operand + n * c["N"] * size.operand
    work.array(n * m, size.operand)
    work.array(2 * n * m + n * c["N"], size.operand, 0)  # y, ȳ, z̄
    work.array(n * m + 3 * n, size.work, 0)
    work.array(3, 4)
    _before(work, c, n, c["N"], wide, size)


def _reduced_project_bwd(work: Work, c: dict[str, Any], n: int, size: Sizes) -> None:
    m, b = c["M"], c["BLOCK_ROWS"]
    blocks = work.runs = math.ceil(n / b)
    work.phases = [(3, [])] if c["NORMALIZE"] else []
    work.product(b, m, m, (1 + 3 * c["NORMALIZE"]) * blocks)
    work.product(b, c["TERMS"], m, c["TYPES"] * c["SETS"] * blocks)
    work.l2 += blocks * 4 * m * m * size.operand + 2 * n * m * size.operand
    work.l2 += blocks * c["TYPES"] * c["SETS"] * c["TERMS"] * m * size.work
    work.array(n * m, size.operand)
    work.array(2 * n * m, size.work, 0)
    work.array(n + 4, 4)
    _rows_bwd(work, c, n, size)


def _embedding_bwd(work: Work, c: dict[str, Any], n: int, size: Sizes) -> None:
    blocks = work.runs = math.ceil(n / c["BLOCK_ROWS"])
    _embed(work, c, c["BLOCK_ROWS"], blocks, size.work, back=False)
    _embed(work, c, c["BLOCK_ROWS"], blocks, size.work, back=True)
    work.array(2 * n * 3, 8)
    work.array(n + 4, 4)
    work.array(4 * c["MP"], size.work, 4 * c["MP"])


def _series_moments(work: Work, c: dict[str, Any], n: int, size: Sizes) -> None:
    """Sums over neighbours, then coefficients."""
    blocks, inner = math.ceil(n / c["BLOCK_ROWS"]), c["MP"] // c["BLOCK_INNER"]
    work.phases = _around(blocks, inner)
    work.product(c["COLUMNS"], c["TERMS"], c["BLOCK_ROWS"], blocks)
    work.product(c["COLUMNS"], c["BLOCK_INNER"], c["TERMS"], inner * c["TYPES"] * c["SETS"])
    _series_table(work, c, n, size)
    work.array(n * 3, 8)


def _series_moments_bwd(work: Work, c: dict[str, Any], n: int, size: Sizes) -> None:
    blocks, inner = math.ceil(n / c["BLOCK_ROWS"]), c["MP"] // c["BLOCK_INNER"]
    work.phases = _around(inner, blocks)
    work.product(c["COLUMNS"], c["TERMS"], c["BLOCK_INNER"], inner * c["TYPES"] * c["SETS"])
    work.product(c["BLOCK_ROWS"], c["COLUMNS"], c["TERMS"], 2 * blocks)
    _series_table(work, c, n, size)
    work.array(n * 6, 8)


def _around(*times: int) -> list[Loop]:
    """Loops one after another, of which those that run once are none."""
    return [(x, []) for x in times if x > 1]


def _series_table(work: Work, c: dict[str, Any], n: int, size: Sizes) -> None:
    """Coefficients, types, and moments or their gradient."""
    work.l2 += c["TYPES"] * c["SETS"] * c["TERMS"] * c["MP"] * size.work
    work.array(4 * c["MP"], size.work)
    work.array(n + 6, 4)


def _energy_layer_fwd(work: Work, c: dict[str, Any], n: int, size: Sizes) -> None:
    """Between two products, which are torch's: all that it reads and writes one kernel for the whole net would not."""
    work.runs = math.ceil(c["N_OUT"] / c["BLOCK_COLUMNS"]) / c["BLOCK_ROWS"]
    work.array((4 if c["RESIDUAL"] else 3) * c["N_OUT"], size.work, 0)
    work.array(c["N_OUT"] * c["NARROW"], size.operand, 0)


def _energy_last(work: Work, c: dict[str, Any], n: int, size: Sizes) -> None:
    work.runs = math.ceil(c["N_OUT"] / c["BLOCK_COLUMNS"]) / c["BLOCK_ROWS"]
    work.array(c["N_OUT"] * (1 + c["BACKWARD"] * (1 + c["HIDDEN"])), size.work, 0)
    work.array(c["N_OUT"] * c["BACKWARD"] * c["HIDDEN"], size.operand, 0)
    work.array(1, 8)
    work.array(1, 4)


def _energy_layer_bwd(work: Work, c: dict[str, Any], n: int, size: Sizes) -> None:
    work.runs = math.ceil(c["N_IN"] / c["BLOCK_COLUMNS"]) / c["BLOCK_ROWS"]
    work.array((1 + c["HIDDEN"]) * c["N_IN"] + (c["N_IN"] + c["N_OUT"] if c["RESIDUAL"] else 0), size.work, 0)
    work.array(c["N_IN"] * c["HIDDEN"], size.operand, 0)


def _contraction_fwd(work: Work, c: dict[str, Any], n: int, size: Sizes) -> None:
    blocks = math.ceil(n / c["BLOCK_ROWS"])
    work.array((blocks + 1) * 4 * c["MP"], size.work, 8 * c["M"])
    work.array(c["M"] * c["AXIS"] + c["EXTRA"], size.operand)
    work.array(c["EXTRA"] + 1, size.work)
    work.array(3, 4)
    work.l2 += c["M"] * c["AXIS"] * 4


def _contraction_bwd(work: Work, c: dict[str, Any], n: int, size: Sizes) -> None:
    work.array(2 * 4 * c["MP"], size.work, 8 * c["M"])
    work.array(c["M"] * c["AXIS"], size.work)
    work.l2 += c["M"] * c["AXIS"] * 4


def _environment_bwd(work: Work, c: dict[str, Any], n: int, size: Sizes) -> None:
    work.array(n * 6, 8)
    work.array(n * 8, size.work, n * 5)
    work.array(6, 4)
    work.runs = math.ceil(n / c["BLOCK_ROWS"])


def _forces(work: Work, c: dict[str, Any], n: int, size: Sizes) -> None:
    work.array(2 * n * 3, 8, n * 3)
    work.array(n * 3 + 12, 8)
    work.array(n + 4, 8)
    work.runs = math.ceil(n / c["BLOCK_ROWS"])


WORK = {
    "_embedding_fwd_kernel": _embedding_fwd,
    "_coordinates_kernel": _coordinates,
    "_attention_project_kernel": _project,
    "_attention_scores_kernel": _scores,
    "_attention_output_kernel": _output,
    "_attention_norm_bwd_kernel": _norm_bwd,
    "_attention_output_bwd_kernel": _output_bwd,
    "_attention_scores_bwd_kernel": _scores_bwd,
    "_attention_project_bwd_kernel": _project_bwd,
    "_reduced_output_kernel": _reduced_output,
    "_reduced_output_bwd_kernel": _reduced_output_bwd,
    "_reduced_project_bwd_kernel": _reduced_project_bwd,
    "_embedding_edges_bwd_kernel": _embedding_edges_bwd,
    "_embedding_bwd_kernel": _embedding_bwd,
    "_series_moments_kernel": _series_moments,
    "_series_moments_bwd_kernel": _series_moments_bwd,
    "_energy_layer_fwd_kernel": _energy_layer_fwd,
    "_energy_last_kernel": _energy_last,
    "_energy_layer_bwd_kernel": _energy_layer_bwd,
    "_contraction_fwd_kernel": _contraction_fwd,
    "_contraction_bwd_kernel": _contraction_bwd,
    "_environment_bwd_kernel": _environment_bwd,
    "_forces_kernel": _forces,
}


OPERANDS = {"*bf16": 2, "*fp16": 2}
PRODUCTS_READ = ("matrices", "wide", "phi", "narrow", "d_p", "d_out")
"""Arrays in the precision of products' operands, where a kernel has them."""


def work_of(launch: Launch, neighbors: int) -> Work:
    """What a kernel does for one atom with that many neighbours."""
    work, types, c = Work(), launch.signature, launch.constants
    kept = {types.get(k) for k in ("row", "gate", "stats", "d_row", "x", "d_x", "z", "h", "moments")}
    size = 8 if "*fp64" in kept else 4
    operand = max((OPERANDS.get(types.get(k, ""), 0) for k in PRODUCTS_READ), default=0) or size
    operand = OPERANDS.get(types.get("operands", ""), operand)
    g = OPERANDS.get(types.get("g", ""), size)
    WORK[launch.kernel](work, c, neighbors, Sizes(size, operand, g, operand if c.get("NARROW") else g))
    # What comes from DRAM goes through L2 as well.
    work.l2 += work.dram
    return work
