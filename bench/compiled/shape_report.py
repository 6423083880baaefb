"""Whether the kernels compile, fit, need a stack, or leave products on FMA; no card is needed.

    python -m bench.compiled.shape_report --arch sm_90 --precision tf32 bfloat16
    python -m bench.compiled.shape_report --arch sm_89 --shape se_atten

Compiles what the engine would launch for each of ``SHAPES``, with the Triton that is installed. Launch configurations
were chosen for the production model and with one version of Triton: registers may just not suffice for another one.
Exit code 1 where a kernel does not compile or fit, or needs more stack than was allowed.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from typing import Any

from bench.compiled.compile_all import Compiler, elsewhere
from bench.compiled.launches import WATER_BUCKET, neighbors, variants
from bench.compiled.static_report import PRECISIONS
from dpa1_fast.kernels.triton.compiling.cards import SHARED_KB
from dpa1_fast.kernels.triton.launch_configurations import BUCKETS

SHAPES: dict[str, dict[str, Any]] = {
    "se_atten": {},
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


def wrong(architecture: str, found: dict[str, Any], stack: int) -> str:
    """What is wrong with a compiled kernel, empty where nothing is. ``stack``: bytes that are allowed."""
    if "error" in found:
        return str(found["error"])
    out = []
    if found["stack_bytes"] > stack:
        out.append(f"{found['stack_bytes']} bytes of stack")
    if found["fma_products"]:
        out.append(f"{found['fma_products']} products on FMA")
    if found["shared_bytes"] > SHARED_KB[architecture] << 10:
        out.append(f"{found['shared_bytes']} bytes of shared memory, the card has {SHARED_KB[architecture]} kB")
    return ", ".join(out)


def main(argv: Sequence[str] | None = None) -> int:
    """Prints the kernels that are not as they should be, and how many there were."""
    parser = argparse.ArgumentParser(description="Compile the kernels of models of other shapes.")
    parser.add_argument("--arch", nargs="+", default=("sm_80", "sm_90", "sm_100"), choices=SHARED_KB)
    parser.add_argument("--precision", nargs="+", default=PRECISIONS, choices=PRECISIONS)
    parser.add_argument("--shape", nargs="+", default=tuple(SHAPES), choices=tuple(SHAPES))
    parser.add_argument("--bucket", nargs="+", type=int, default=(WATER_BUCKET,), choices=BUCKETS, help="neighbours")
    parser.add_argument("--kernel", nargs="+", help="these kernels alone")
    parser.add_argument("--stack", type=int, default=0, help="bytes of stack that are allowed (default 0)")
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
        for bucket in options.bucket
        for v in variants(architecture, precision, None, neighbors(bucket), **SHAPES[shape])
        if not options.kernel or v.kernel in options.kernel
    ]
    compiler = Compiler(options.workers)
    compiler([[v.launch] for *_, v in planned])
    bad = 0
    for architecture, precision, shape, bucket, v in planned:
        if what := wrong(architecture, compiler.known[v.launch.key], options.stack):
            bad += 1
            print(f"{architecture} {precision}, {shape}, up to {bucket} neighbours: {v.kernel}: {what}")
    print(f"{len(planned)} kernels of {len(options.shape)} shapes, {bad} of them are not as they should be")
    return int(bad > 0)


if __name__ == "__main__":
    sys.exit(main())
