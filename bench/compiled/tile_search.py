"""Chooses launch configurations among candidates: what needs no stack, and of that what the model finds fastest."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from bench.compiled import cost
from bench.compiled.compile_all import Compiler
from bench.compiled.launches import WATER, Variant, variants
from dpa1_fast.kernels.triton import launch_configurations
from dpa1_fast.kernels.triton.launch_configurations import BUCKETS, CANDIDATES, Tile, Tiles

TILES = Path(launch_configurations.__file__).with_name("launch_configurations.json")
WATER_BUCKET = 128

MODELS: tuple[dict[str, Any], ...] = ({}, {"neuron": (32, 64, 128)})
"""The production model, whose modelled time counts, and one whose channels fill a tile: neither may need a stack."""

BACKWARD = (
    "attention_bwd_first", "attention_bwd_last", "attention_bwd_middle", "attention_bwd_only", "embedding_bwd",
)  # fmt: skip
FORWARD = ("attention_fwd", "attention_fwd_last", "embedding_fwd", "embedding_fwd_no_attention")


def neighbors(bucket: int) -> int:
    """The neighbour count that the model takes for a bucket."""
    return WATER if bucket >= WATER_BUCKET else bucket


def tune(compiler: Compiler, architectures: Sequence[str], precisions: Sequence[str]) -> dict[str, Any]:
    """The table of tiles: no stack in any of ``MODELS`` first, then the least modelled time."""
    table: dict[str, Any] = {}
    trials: dict[tuple[str, str, str], dict[Tile, list[Variant]]] = {}
    for architecture in architectures:
        for precision in precisions:
            for direction, names in (("forward", FORWARD), ("backward", BACKWARD)):
                found = trials.setdefault((architecture, precision, direction), {})
                for numbers in CANDIDATES[direction][architecture.startswith("gfx")]:
                    tile = Tile(*numbers)
                    every = [variants(architecture, precision, Tiles(tile, tile), **model) for model in MODELS]
                    found[tile] = [v for of_model in every for v in of_model if v.kernel in names]
    compiler([[v.launch for v in x] for found in trials.values() for x in found.values()], stop=True)
    # Where nothing does without a stack, the least bad ones are measured in all their variants.
    again = []
    for found in trials.values():
        if not any(_stack(compiler, x) == 0 for x in found.values()):
            again += [[v.launch for v in x] for x in sorted(found.values(), key=lambda x: _stack(compiler, x))[:3]]
    compiler(again)
    for (architecture, precision, direction), found in trials.items():
        for bucket in BUCKETS:
            fitting = [t for t in found if t.most <= max(32, bucket)]
            if not any(_stack(compiler, found[t]) == 0 for t in fitting):
                fitting = list(found)
            ranked = sorted(fitting, key=lambda t: _rank(compiler, found[t], neighbors(bucket)))
            best = ranked[0]
            if bucket == WATER_BUCKET:
                ranks = {tuple(vars(t).values()): _rank(compiler, found[t], WATER) for t in ranked[:4]}
                print(f"  {architecture} {precision} {direction}: {ranks}", flush=True)
            place = table.setdefault(architecture, {}).setdefault(precision, {}).setdefault(str(bucket), {})
            place[direction] = list(vars(best).values())
    return table


def _stack(compiler: Compiler, candidate: Sequence[Variant]) -> float:
    known = [compiler.known[v.launch.key] for v in candidate if v.launch.key in compiler.known]
    return max((x.get("stack_bytes", float("inf")) for x in known), default=float("inf"))


def _rank(compiler: Compiler, candidate: Sequence[Variant], n: int) -> tuple[float, float]:
    """Stack of all variants, and modelled µs of those that the production model launches."""
    stack = _stack(compiler, candidate)
    counted = [v for v in candidate if v.evaluation]
    if not all(v.launch.key in compiler.known for v in candidate) or stack == float("inf"):
        return float("inf"), stack
    times = [cost.model(v.launch, compiler.known[v.launch.key], n)["model_us_per_atom"] for v in counted]
    return (stack, round(sum(times), 4)) if all(times) else (float("inf"), stack)


def write_table(table: dict[str, Any]) -> None:
    """Writes ``kernels/launch_configurations.json``, a line per bucket; what was not tuned stays."""
    whole: dict[str, Any] = json.loads(TILES.read_text(encoding="utf-8")) if TILES.exists() else {}
    for architecture, by_precision in table.items():
        whole.setdefault(architecture, {}).update(by_precision)

    def lines() -> Iterator[str]:
        for a, (architecture, by_precision) in enumerate(whole.items()):
            yield f"{',' if a else ''}\n {json.dumps(architecture)}: {{"
            for p, (precision, by_bucket) in enumerate(by_precision.items()):
                yield f"{',' if p else ''}\n  {json.dumps(precision)}: {{\n   "
                yield ",\n   ".join(f"{json.dumps(b)}: {json.dumps(x)}" for b, x in by_bucket.items()) + "\n  }"
            yield "\n }"

    TILES.write_text("{" + "".join(lines()) + "\n}\n", encoding="utf-8")
    launch_configurations.table.cache_clear()
