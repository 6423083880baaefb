"""Compiles what the steps launch into Triton's cache, for a card that is not here.

    python -m bench.speed.first_light.compile CACHE MODELLED.json --architecture sm_90 --workers 2

As an engine does it (``kernels/triton/compiling``), so the card finds kernels and choices where its Triton is the same
wheel. What the model of time (``bench/compiled/cost.py``) expects of each kernel is written beside.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import torch

from . import BARS
from .place import MODELS
from .variants import variants

BUCKETS = {"attention": (16, 64, 128), "no_attention": (16, 128)}
"""Neighbours of the cases: tiny, molecules, water and metals."""
MODELLED = ("float32", "tf32", "bfloat16", "float16")


def compile_steps(
    cache: Path, architecture: str, workers: int, precisions: list[str], varied: list[str]
) -> list[dict[str, Any]]:
    """Compiles; what did not compile at all."""
    from bench import cases
    from dpa1_fast.kernels.triton.compiling.cards import shared_bytes
    from dpa1_fast.kernels.triton.compiling.choice import Chooser, Target
    from dpa1_fast.kernels.triton.compiling.jobs import jobs_of
    from dpa1_fast.kernels.triton.evaluator import TritonEvaluator

    tell = partial(print, flush=True)
    target = Target(f"cards of {architecture}", architecture, shared_bytes(architecture))
    choose = Chooser(target, cache.resolve(), tell, workers)
    wrong = []
    for precision in precisions:
        for model, buckets in BUCKETS.items():
            weights = cases.model(**MODELS[model]).weights()
            run = TritonEvaluator(weights, precision, torch.device("cpu"), architecture, chunk_bytes=1 << 31)
            run.choose = choose
            tell(f"{precision}, {model}")
            for bucket in buckets:
                try:
                    run.compile(bucket)
                except ValueError as error:
                    wrong.append({"precision": precision, "model": model, "bucket": bucket, "error": str(error)})
            if model == "attention" and precision in varied:
                tell(f"{precision}, launch configurations that are tried")
                of_variants = [
                    job for v in variants(precision) if v.configurations for job in jobs_of(run, 128, v.configurations)
                ]
                choose.make(of_variants)
    return wrong


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
    torch.set_num_threads(1)
    wrong = compile_steps(
        options.cache, options.architecture, options.workers, options.precision, options.variants
    )  # fmt: skip
    for row in wrong:
        print(json.dumps(row), flush=True)
    with ProcessPoolExecutor(options.workers, get_context("spawn")) as pool:
        wanted = [(p, options.architecture) for p in options.precision if p in MODELLED]
        expected = [row for found in pool.map(modelled, wanted) for row in found]
    options.modelled.write_text(json.dumps(expected, indent=1), encoding="utf-8")
    return int(bool(wrong))


if __name__ == "__main__":
    sys.exit(main())
