"""Compiles what the steps launch into Triton's cache, for a card that is not here.

    python -m bench.speed.first_light.compile CACHE MODELLED.json --architecture sm_90 --workers 2

Kernels go through the JIT's own path with the evaluator's own arguments, a driver that only names the card standing
where CUDA's would: so the card finds them where its Triton is the same wheel (the cache's keys say so). What each came
out as, and what the model of time (``bench/compiled/cost.py``) expects of it, is written beside.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import time
from concurrent.futures import ProcessPoolExecutor, as_completed
from contextlib import nullcontext
from functools import cache
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import torch

from . import BARS, keys
from .place import MODELS, structures
from .variants import Variant, applied, variants

CASES = {"attention": ("water192", "molecules64", "metal256"), "no_attention": ("water192",)}
MOST_LAUNCHES = 32
"""More than an evaluation of either model has in one chunk."""
MODELLED = ("float32", "tf32", "bfloat16", "float16")
MULTIPROCESSORS = 132


class Properties:
    """What Triton asks of a card when it compiles: Hopper's."""

    def get_device_properties(self, device: int) -> dict[str, int]:
        """By the names that Triton has for them."""
        return {
            "max_shared_mem": 232448,
            "max_num_regs": 65536,
            "multiprocessor_count": MULTIPROCESSORS,
            "warpSize": 32,
        }


class Driver:
    """Stands for CUDA's driver: names the card, runs nothing."""

    utils = Properties()

    def __init__(self, architecture: str) -> None:
        self.capability = int(architecture.removeprefix("sm_"))

    def get_current_target(self) -> Any:
        """What to compile for."""
        from triton.backends.compiler import GPUTarget

        return GPUTarget("cuda", self.capability, 32)

    def get_current_device(self) -> int:
        """The first."""
        return 0

    def get_current_stream(self, device: int) -> int:
        """The default one."""
        return 0


class Compiles:
    """Stands where a kernel stands: compiles the ``only``-th launch of an evaluation, runs nothing."""

    def __init__(self, name: str, function: Any, state: dict[str, Any]) -> None:
        self.name, self.function, self.state = name, function, state

    def __getitem__(self, grid: Any) -> Any:
        def launch(*args: Any, **kwargs: Any) -> None:
            self.state["seen"] += 1
            if self.state["seen"] - 1 != self.state["only"]:
                return
            row = {"kernel": self.name, "warps": kwargs.get("num_warps")}
            began = time.perf_counter()
            try:
                made = self.function.warmup(*args, grid=grid, **kwargs)
                row |= {"hash": made.hash, "shared": made.metadata.shared}
            except Exception as error:  # what does not compile here does not there: said, and no end of the others
                row["error"] = f"{type(error).__name__}: {' '.join(str(error).split())[-300:]}"
            self.state["rows"].append(row | {"seconds": round(time.perf_counter() - began, 1)})

        return launch


@cache
def _evaluator(model: str, precision: str, architecture: str) -> Any:
    from triton.runtime import driver

    from bench import cases

    torch.set_num_threads(1)
    driver.set_active(Driver(architecture))
    keys.settle()
    from dpa1_fast.kernels.triton.evaluator import TritonEvaluator

    weights = cases.model(**MODELS[model]).weights()
    return TritonEvaluator(weights, precision, torch.device("cpu"), architecture, chunk_bytes=1 << 31)


@cache
def _batch(model: str, case: str) -> Any:
    from bench import cases
    from bench.speed.gpu import prepare

    return prepare(cases.model(**MODELS[model]), structures(case))


Job = tuple[str, str, str, str, int, Variant | None]


def work(job: Job) -> list[dict[str, Any]]:
    """Compiles one launch of an evaluation; nothing where there are not so many."""
    model, precision, case, architecture, only, variant = job
    run = _evaluator(model, precision, architecture)
    from bench.stand_ins import standing_in

    state: dict[str, Any] = {"seen": 0, "only": only, "rows": []}
    batch = _batch(model, case)
    changed = applied(run, variant) if variant else nullcontext()
    with standing_in(lambda name, function: Compiles(name, function, state)), changed:
        run(batch)
    return [{"model": model, "precision": precision, "case": case, **r} for r in state["rows"]]


def modelled(job: tuple[str, str]) -> list[dict[str, Any]]:
    """What the model of time expects of each launch of the production model."""
    precision, architecture = job
    from bench.compiled import cost, sass
    from bench.compiled.launches import WATER, name_of, record

    out = []
    for launch in record(precision, architecture, None):
        measured = sass.measure(launch)
        row = {
            "precision": precision,
            "architecture": architecture,
            "function": launch.kernel,
            "kernel": name_of(launch),
        }
        if "error" not in measured:
            row |= {"registers": measured["registers"], "stack_bytes": measured["stack_bytes"]}
            found = cost.model(launch, measured, WATER)
            row |= {k: found[k] for k in ("model_us_per_atom", "limit", "us_by_resource", "occupancy")}
        out.append(row)
    return out


def main() -> int:
    """Exit status 1 where something did not compile."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("cache", type=Path)
    parser.add_argument("modelled", type=Path)
    parser.add_argument("--architecture", default="sm_90")
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--precision", nargs="+", default=list(BARS))
    parser.add_argument("--variants", nargs="*", default=[], help="precisions whose variants are compiled too")
    options = parser.parse_args()
    os.environ.pop("TRITON_INTERPRET", None)
    os.environ["TRITON_CACHE_DIR"] = str(options.cache.resolve())
    whole = [
        (model, precision, case, options.architecture, k)
        for precision in options.precision
        for model, named in CASES.items()
        for case in named
        for k in range(MOST_LAUNCHES)
    ]
    jobs: list[Job] = [(*job, None) for job in whole]
    jobs += [
        ("attention", precision, "water192", options.architecture, k, variant)
        for precision in options.variants
        for variant in variants(precision)
        for k in range(MOST_LAUNCHES)
    ]
    rows: list[dict[str, Any]] = []
    with ProcessPoolExecutor(options.workers, get_context("spawn")) as pool:
        for future in as_completed([pool.submit(work, j) for j in jobs]):
            for row in future.result():
                rows.append(row)
                if "error" in row or row["seconds"] > 1:
                    print(json.dumps(row), flush=True)
        wanted = [(p, options.architecture) for p in options.precision if p in MODELLED]
        expected = [row for found in pool.map(modelled, wanted) for row in found]
    options.modelled.write_text(json.dumps(expected, indent=1), encoding="utf-8")
    wrong = [r for r in rows if "error" in r]
    print(f"{len(rows)} launches, {len({r.get('hash') for r in rows})} kernels, {len(wrong)} errors", flush=True)
    return int(bool(wrong))


if __name__ == "__main__":
    sys.exit(main())
