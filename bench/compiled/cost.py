"""What each kernel has to do for one atom, counted from its loops, and how long a card of published rates needs for it.

A MODEL, NOT A MEASUREMENT. What is counted, per atom with n neighbours:

- products: every tl.dot of the padded loops, times three where precisions split operands in parts (tf32x3, bf16x3). A
  tile with fewer blocks of 16×8 (NVIDIA; 16×16 AMD) than the program has warps is computed by several; that is counted.
- instructions: those of the compiled kernel by class, times how often the loops around them run. Where a kernel's loops
  are not those of its source (compilers unroll), those in loops over products: times executed over static tensor-core
  work of a warp, one number for all such loops; others: times how often a block of rows comes.
- L2: all that loops load and store, weights again for each block of rows, scratch included, masked elements (rows that
  are not there, filled-up columns of g) not; no credit for L1, so this is an estimate from above.
- DRAM: each element of a global array once per kernel and direction, filled-up elements included. Weights and scratch
  are not counted: they stay in L2 (scratch belongs to a program, which uses it again for its next atom).
  ``minimum`` leaves out fillings, what a kernel writes for itself alone, and second visits.

A kernel's time is the largest of its resources' times, divided by w/(w + 8), w being the warps that a multiprocessor
holds at a time: what is left of the rates while so few warps wait for memory and barriers. Neither launches, nor tails,
nor what is done in torch are in it: the products of the energy net are torch's, 2.0 Mflop an atom of the production
model, which an H100 does in 0.04 µs in float32, 0.005 in tf32 and 0.003 in bfloat16 at the rates that it was measured
to have for large products.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

from bench.compiled import estimate_instructions
from bench.compiled.launches import Launch
from bench.compiled.work import work_of

SPLIT = {"tf32x3": 3, "bf16x3": 3}
AT_LEAST = 8
"""Warps at which half of the rates are reached."""


@dataclass(frozen=True)
class Card:
    """Published peaks, and three assumptions: the L2's bandwidth, and the part of the tensor cores' rate that mma.sync
    reaches where wgmma (Hopper) or tcgen05 (Blackwell) would be needed for all of it.

    Attributes:
        units, clock: multiprocessors, GHz. tf32, bf16, double: dense products, Tflop/s; double is float64, which is
            mma.sync everywhere. warp_products: part of the others for mma.sync.
        dram, l2: TB/s. issue, fp32, fp64, special, memory: instructions of a warp per clock and multiprocessor.
        registers: per multiprocessor (AMD: per lane and SIMD). shared: bytes. warps: at most.
    """

    name: str
    units: int
    clock: float
    tf32: float
    bf16: float
    double: float
    warp_products: float
    dram: float
    l2: float
    registers: int
    shared: int
    warps: int
    issue: float = 4.0
    fp32: float = 4.0
    fp64: float = 2.0
    special: float = 0.5
    memory: float = 1.0


CARDS = {
    "sm_80": Card("A100-SXM", 108, 1.41, 156, 312, 19.5, 1.0, 2.0, 5.0, 65536, 164 << 10, 64, fp32=2.0, fp64=1.0),
    "sm_90": Card("H100-SXM", 132, 1.83, 494, 989, 67, 0.62, 3.35, 5.5, 65536, 228 << 10, 64),
    "sm_100": Card("B200", 148, 1.85, 1125, 2250, 40, 0.40, 8.0, 10.0, 65536, 228 << 10, 64),
    # A wave of 64 lanes takes four clocks on one of four SIMDs; other pipes issue beside it.
    "gfx942": Card("MI300X", 304, 2.1, 653, 1307, 163, 1.0, 5.3, 8.0, 512, 64 << 10, 32, 2.0, 1.0, 1.0, 0.25, 0.5),
}


def occupancy(card: Card, warps: int, registers: int, shared: int) -> int:
    """Programs that fit on a multiprocessor at a time."""
    if card.registers == 512:
        waves = min(card.warps // 4, card.registers // max(8, math.ceil(registers / 8) * 8))
        by_registers = 4 * waves // warps
        reserved = 0
    else:
        by_registers = card.registers // (math.ceil(registers * 32 / 256) * 256 * warps)
        reserved = 1024
    return max(0, min(by_registers, card.warps // warps, 32, card.shared // max(1, shared + reserved)))


def model(launch: Launch, measured: dict[str, Any], neighbors: int) -> dict[str, Any]:
    """The columns of a report's row that the model fills."""
    card, work = CARDS[launch.architecture], work_of(launch, neighbors)
    amd = launch.architecture.startswith("gfx")
    warps = launch.options["num_warps"]
    how = launch.constants.get("PREC") or launch.constants.get("SERIES_PREC", "")
    split = SPLIT.get(how, 1)
    cell = 256 if amd else 128
    flops = 0.0
    for (m, n, k), times in work.dots.items():
        flops += 2 * m * n * k * times * max(1.0, warps * cell / max(cell, m * n)) * split
    half = how in ("bfloat16", "float16", "bf16x3")
    kind = measured["tensor_core_kind"]
    part = card.warp_products if "mma.sync" in kind else 1.0
    rate = (card.double if how == "ieee" else (card.bf16 if half else card.tf32) * part) * 1e12
    clock = card.clock * 1e9 * card.units
    followed = estimate_instructions.by_loops(measured, work.runs, work.phases)
    if followed is None:
        classes = estimate_instructions.by_products(measured, work.runs, flops, warps)
    else:
        classes = {k: followed[k] * warps for k in measured["instructions"]}
    seconds = {
        "tensor": flops / rate,
        "issue": sum(classes.values()) / card.issue / clock,
        "fp32": classes["fp32"] / card.fp32 / clock,
        "special": classes["special"] / card.special / clock,
        "shared": sum(classes[k] for k in ("shared", "global", "shuffle", "local")) / card.memory / clock,
        "fp64": classes["fp64"] / card.fp64 / clock,
        "l2": work.l2 / (card.l2 * 1e12),
        "dram": work.dram / (card.dram * 1e12),
    }
    fits = occupancy(card, warps, measured["registers"], measured["shared_bytes"])
    resident = fits * warps
    efficiency = resident / (resident + AT_LEAST) if resident else 0.0
    limit = max(seconds, key=lambda k: seconds[k])
    micro = {k: round(v * 1e6, 6) for k, v in seconds.items()}
    shapes = {s for s, times in work.dots.items() if times}
    return {
        "occupancy": fits,
        "global_bytes_per_atom": round(work.dram),
        "minimum_bytes_per_atom": round(work.minimum),
        "l2_bytes_per_atom": round(work.l2),
        "tensor_flops_per_atom": round(flops),
        "model_us_per_atom": round(micro[limit] / efficiency, 6) if efficiency else None,
        "limit": limit if efficiency else "does not fit",
        "us_by_resource": micro,
        "loops_followed": followed is not None,
        "efficiency": round(efficiency, 3),
        "products_as_modelled": shapes == {tuple(s) for s in measured["shapes"]},
    }
