"""How many instructions a kernel executes for one atom: what it compiled to, times how often each loop runs."""

from __future__ import annotations

from collections import Counter
from typing import Any

Loop = tuple[float, list[Any]]
"""How often a loop runs, and the loops inside."""


def _followed(nest: dict[str, Any], times: float, loops: list[Loop]) -> Counter[str] | None:
    """Instructions of a warp by class in a loop that runs so often and those inside; None where loops are others.

    A loop that is missing was unrolled; that of several all are, or those that are left run equally often.
    """
    inside = nest["inside"]
    if len(inside) > len(loops) or (inside and len(inside) < len(loops) and len({str(x) for x in loops}) > 1):
        return None
    out: Counter[str] = Counter({k: v * times for k, v in nest["instructions"].items()})  # type: ignore[misc] # of floats
    for one, (trips, further) in zip(inside, loops, strict=False):
        found = _followed(one, times * trips, further)
        if found is None:
            return None
        out += found
    return out


def by_loops(measured: dict[str, Any], runs: float, phases: list[Loop] | None) -> Counter[str] | None:
    """Instructions of a warp by class, for one atom; None where loops are not those of the source.

    Args:
        measured: see ``sass.measure``. runs: programs. phases: the loops of each.
    """
    return None if phases is None else _followed(measured["nest"], runs, phases)


def by_products(measured: dict[str, Any], runs: float, flops: float, warps: int) -> dict[str, float]:
    """Instructions of all warps by class, from their products.

    Args:
        runs: programs. flops: of all products; those outside of loops are done once a program.
    """
    every, looped = measured["instructions"], measured["instructions_in_loops"]
    total, inside = measured["tensor_flops"], measured["tensor_flops_in_loops"]
    once = runs * warps
    if inside:
        scale = max(0.0, flops - (total - inside) * once) / inside
    else:
        once = max(once, flops / total if total else 0.0)
        scale = once
    return {k: (v - looped[k]) * once + looped[k] * scale for k, v in every.items()}
