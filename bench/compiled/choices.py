"""What engines launch of the production model after looking at what it compiles to, by the Triton that is installed.

    python -m bench.compiled.choices --architecture sm_80 sm_90 sm_100
    python -m bench.compiled.choices --precision float64 --cache build/choices

Compiles as an engine does, for cards that are not here, and names what gave way. Exit code 1 where a kernel does not
compile or fit, still needs a stack, or multiplies without tensor cores.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path

import torch

from bench.compiled.compile_all import elsewhere
from bench.compiled.static_report import PRECISIONS
from dpa1_fast.kernels.triton.compiling.cards import SHARED_KB, shared_bytes
from dpa1_fast.kernels.triton.compiling.choice import Chooser, Target
from dpa1_fast.kernels.triton.compiling.jobs import Job, jobs_of

MODELS = {"two layers": {}, "no attention": {"attn_layer": 0}}
MOST = 128
WITHOUT_FLOAT64 = ("sm_86", "sm_89", "sm_100", "sm_103", "sm_120", "sm_121")
"""Cards on which Triton multiplies float64 without tensor cores; 3.4 does on all."""


def name_of(job: Job) -> str:
    """A kernel, for whoever reads."""
    return job.kernel.words() if job.kernel else str(json.loads(job.line)["function"]).partition(".")[2]


def without_float64(choose: Chooser) -> bool:
    """Whether products of float64 go without tensor cores, whatever a kernel does."""
    return choose.target.architecture in WITHOUT_FLOAT64 or choose.triton.startswith("3.4.")


def wrong(choose: Chooser, precision: str) -> Iterator[str]:
    """What is not as it should be with an architecture and a precision."""
    from bench import cases
    from dpa1_fast.kernels.triton.evaluator import TritonEvaluator

    architecture = choose.target.architecture
    for name, options in MODELS.items():
        weights = cases.model(**options).weights()
        run = TritonEvaluator(weights, precision, torch.device("cpu"), architecture, chunk_bytes=1 << 30)
        try:
            chosen = choose(run, MOST)
        except ValueError as error:
            yield f"{name}: {error}"
            continue
        jobs = jobs_of(run, MOST, chosen)
        found, _ = choose.make(jobs)
        for job in jobs:
            x = found[job.line]
            if x.stack_bytes:
                yield f"{name}: {name_of(job)}: {x.stack_bytes} bytes of stack"
            if x.fma_products and not (precision == "float64" and without_float64(choose)):
                yield f"{name}: {name_of(job)}: {x.fma_products} products without tensor cores"


def main(argv: Sequence[str] | None = None) -> int:
    """Prints what gives way, and what is wrong after that."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--architecture", nargs="+", default=("sm_80", "sm_90", "sm_100"), choices=SHARED_KB)
    parser.add_argument("--precision", nargs="+", default=PRECISIONS, choices=PRECISIONS)
    parser.add_argument("--cache", type=Path, help="folder to keep what is compiled in")
    parser.add_argument("--workers", type=int, default=2)
    options = parser.parse_args(argv)
    code = elsewhere("bench.compiled.choices", sys.argv[1:] if argv is None else argv)
    if code is not None:
        return code
    torch.set_num_threads(1)
    bad = 0
    with tempfile.TemporaryDirectory() as folder:
        cache = (options.cache or Path(folder)).resolve()
        for architecture in options.architecture:
            target = Target(architecture, architecture, shared_bytes(architecture))
            choose = Chooser(target, cache, partial(print, " ", flush=True), options.workers)
            for precision in options.precision:
                print(f"{architecture}, {precision}, Triton {choose.triton}", flush=True)
                for what in wrong(choose, precision):
                    bad += 1
                    print(f"  wrong: {what}", flush=True)
    print(f"{bad} kernels are not as they should be")
    return int(bad > 0)


if __name__ == "__main__":
    sys.exit(main())
