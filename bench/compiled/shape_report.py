"""Whether the kernels of models of other shapes need a stack, or leave products on FMA; no card is needed.

    python -m bench.compiled.shape_report --arch sm_90 --precision tf32 bfloat16

Compiles what the engine would launch for each of ``SHAPES`` and water. Tiles were chosen for the production model:
registers may just not suffice for another one. Exit code 1 where one needs a stack.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from typing import Any

from bench.compiled.compile_all import Compiler, elsewhere
from bench.compiled.launches import variants
from bench.compiled.static_report import PRECISIONS, WATER_BUCKET
from bench.compiled.tile_search import neighbors
from dpa1_fast.kernels.triton.launch_configurations import BUCKETS, tiles_for

SHAPES: dict[str, dict[str, Any]] = {
    "M = 128": {"neuron": (32, 64, 128)},
    "M = 64": {"neuron": (16, 32, 64)},
    "M = 32": {"neuron": (8, 16, 32)},
    "attn = 64": {"attn": 64},
    "smooth": {"smooth_type_embedding": True},
    "strip": {"tebd_input_mode": "strip"},
    "smooth strip": {"tebd_input_mode": "strip", "smooth_type_embedding": True},
    "no dotr": {"attn_dotr": False},
}
"""Options of models, where they differ from the se_atten example."""


def main(argv: Sequence[str] | None = None) -> int:
    """Prints the kernels that need a stack, and how many there were."""
    parser = argparse.ArgumentParser(description="Compile the kernels of models of other shapes.")
    parser.add_argument("--arch", nargs="+", default=("sm_80", "sm_90", "sm_100"))
    parser.add_argument("--precision", nargs="+", default=PRECISIONS, choices=PRECISIONS)
    parser.add_argument("--shape", nargs="+", default=tuple(SHAPES), choices=tuple(SHAPES))
    parser.add_argument("--tile", nargs="+", type=int, default=(WATER_BUCKET,), choices=BUCKETS, help="neighbours")
    parser.add_argument("--workers", type=int, default=2)
    options = parser.parse_args(argv)
    code = elsewhere("bench.compiled.shape_report", sys.argv[1:] if argv is None else argv)
    if code is not None:
        return code
    planned = [
        (architecture, precision, shape, bucket, v)
        for architecture in options.arch
        for precision in options.precision
        for shape in options.shape
        for bucket in options.tile
        for v in variants(
            architecture, precision, tiles_for(architecture, precision, bucket), neighbors(bucket), **SHAPES[shape]
        )
    ]
    compiler = Compiler(options.workers)
    compiler([[v.launch] for *_, v in planned])
    bad = 0
    for architecture, precision, shape, bucket, v in planned:
        found = compiler.known[v.launch.key]
        stack, fma = found.get("stack_bytes"), found.get("fma_products")
        if stack != 0 or fma != 0:
            bad += 1
            what = found.get("error", f"{stack} bytes of stack, {fma} products on FMA")
            print(f"{architecture} {precision}, {shape}, up to {bucket} neighbours: {v.kernel}: {what}")
    print(f"{len(planned)} kernels of {len(options.shape)} shapes, {bad} of them need a stack or leave products on FMA")
    return int(bad > 0)


if __name__ == "__main__":
    sys.exit(main())
