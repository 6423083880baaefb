"""The steps in their order, by this process; ``__main__.py`` has laid the kit out and started it."""

from __future__ import annotations

import argparse
import os
import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

from . import BARS
from .lines import Log, read
from .place import Place
from .schedule import Step, run, todo

FAST = ("bfloat16", "tf32", "float32")
"""Precisions that are timed in every way."""


def steps(place: Place, log: Log) -> list[Step]:
    """All steps, the most valuable first."""
    from . import kernels, machine, others, parity, speed, strain, tools, variants

    out: list[Step] = []

    def add(name: str, what: str, limit: float, call: Callable[..., Any], *more: Any) -> None:
        out.append(Step(name, what, limit, partial(call, place, log, *more)))

    add("facts", "the machine", 40, machine.facts)
    add("ceilings", "copies and matrix products", 40, machine.ceilings)
    for p in BARS:
        add(f"evaluations-{p}", f"forces in {p} against the judge", 90, parity.evaluations, p)
    for p in FAST:
        add(f"sizes-{p}", f"µs an atom by size in {p}", 60, speed.sizes, p)
    for p in FAST:
        add(f"by_kernel-{p}", f"kernel by kernel in {p}", 40, speed.by_kernel, p)
    for p in BARS:
        add(f"repeats-{p}", f"the same bits again in {p}", 40, parity.repeats, p)
    for p in BARS:
        add(f"kernels-{p}", f"every kernel in {p} against the interpreter", 90, kernels.replay, p)
    for p in FAST:
        add(f"graph-{p}", f"replayed as a CUDA graph in {p}", 60, speed.graph, p)
    for p in FAST[:2]:
        add(f"ncu-{p}", f"counters of the two longest kernels in {p}", 90, tools.counters, p)
    for p in FAST[:2]:
        add(f"source-{p}", f"where kernels wait in {p}", 90, tools.source, p)
    for p in FAST[:2]:
        add(f"variants-{p}", f"launch configurations kernel by kernel in {p}", 75, variants.measure, p)
    for name in others.SETTINGS:
        limit = 75 if others.SETTINGS[name][1] == "pth" else 150
        add(f"peer-{name}", f"DeePMD-kit, {name}", limit, others.peer, name)
    for p in FAST:
        add(f"largest-{p}", f"98,304 atoms in {p}", 60, speed.largest, p)
    for p in BARS:
        if p not in FAST:
            add(f"sizes-{p}", f"µs an atom by size in {p}", 60, speed.sizes, p)
    add("eager-float32", "eager autograd", 60, others.eager, "float32")
    for p in FAST:
        add(f"whole-{p}", f"evaluate from structures to results in {p}", 40, speed.whole, p)
    for p in ("float64", "float32"):  # late: each of these models has kernels of its own, which are compiled there
        add(f"deepmd-{p}", f"DeePMD-kit's files in {p}", 90, parity.deepmd, p)
    add("scheduler", "many structures by the scheduler", 60, strain.scheduler, "tf32")
    add("memory", "a card that is almost full", 60, strain.memory, "tf32")
    for check in ("memcheck", "racecheck", "initcheck"):
        add(f"sanitize-{check}-bfloat16", f"compute-sanitizer's {check}", 90, tools.sanitize, check, "bfloat16")
    add("sanitize-racecheck-tf32", "compute-sanitizer's racecheck", 90, tools.sanitize, "racecheck", "tf32")
    for p in FAST[:2]:
        add(f"tune-{p}", f"launch configurations by the clock in {p}", 200, tools.tune, p)
    return out


def main() -> int:
    """Exit status 0, or 1 where a step is missing or has failed."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--scratch", type=Path, required=True)
    parser.add_argument("--device", required=True)
    parser.add_argument("--seconds", type=float, required=True)
    parser.add_argument("--began", type=float, required=True, help="of time.monotonic")
    parser.add_argument("--digest", required=True)
    parser.add_argument("--steps", default="", help="only those whose names begin with one of these, by commas")
    options = parser.parse_args()
    log = Log(options.out, f"{options.digest} {options.device}")
    if options.device == "cpu":
        os.environ["TRITON_INTERPRET"] = "1"
    preload()
    place = Place(options.data, options.out, options.scratch, options.device)
    wanted = tuple(x for x in options.steps.split(",") if x) or ("",)
    chosen = [s for s in steps(place, log) if s.name.startswith(wanted)]
    missing = todo(chosen, read(options.out), log.kit)
    log.say(
        "run",
        seconds=options.seconds,
        ready_s=round(time.monotonic() - options.began, 1),
        steps=len(chosen),
        missing=len(missing),
    )
    left = run(missing, log, options.seconds, options.began)
    log.say("run", seconds=round(time.monotonic() - options.began, 1), left_out=left)
    return int(bool(left))


def preload() -> None:
    """Imports once what steps need, without starting CUDA: each step is a fork."""
    from importlib import import_module

    for name in ("numpy", "torch", "triton", "dpa1_fast.engine", "bench.cases", "bench.speed.gpu"):
        import_module(name)
    import torch

    from dpa1_fast.kernels.triton.compiling.functions import settled

    torch.set_num_threads(1)
    settled()
    assert not torch.cuda.is_initialized()


if __name__ == "__main__":
    sys.exit(main())
