"""Kernels of which it is known what is wrong with them: ``python -m ptx_emulator.known > results.json``.

{name: {"right": the result is what it should be, in every order of warps; "kinds": of what was found}}
"""

from __future__ import annotations

import json
import os
import sys

os.environ.pop("TRITON_INTERPRET", None)
os.environ.setdefault("TRITON_DEFAULT_FP_FUSION", "1")

from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

from .kernels import Emulated, Log
from .machine import SCHEDULES


@triton.jit
def _reversed_kernel(x, scratch, BARRIER: tl.constexpr, N: tl.constexpr):
    """Turns x round in memory."""
    at = tl.arange(0, N)
    tl.store(scratch + at, tl.load(x + at))
    if BARRIER:
        tl.debug_barrier()
    back = tl.load(scratch + (N - 1 - at))
    if BARRIER:
        tl.debug_barrier()
    tl.store(scratch + at, back)


@triton.jit
def _doubled_kernel(x, N: tl.constexpr):
    """Every element is loaded, doubled and stored; there are more threads than elements."""
    at = tl.arange(0, N)
    tl.store(x + at, 2 * tl.load(x + at))


@triton.jit
def _product_kernel(a, b, out, M: tl.constexpr, N: tl.constexpr, K: tl.constexpr, HOW: tl.constexpr):
    """A product on tensor cores, in bfloat16, float16 or tf32."""
    m, n, k = tl.arange(0, M), tl.arange(0, N), tl.arange(0, K)
    x = tl.load(a + m[:, None] * K + k[None, :])
    y = tl.load(b + k[:, None] * N + n[None, :])
    if HOW == "tf32":
        z = tl.dot(x, y, input_precision="tf32")
    elif HOW == "bfloat16":
        z = tl.dot(x.to(tl.bfloat16), y.to(tl.bfloat16))
    else:
        z = tl.dot(x.to(tl.float16), y.to(tl.float16))
    tl.store(out + m[:, None] * N + n[None, :], z)


def _tried(
    kernel: Any, tensors: dict[str, Tensor], out: str, right: Tensor, architecture: str = "sm_90", **options: Any
) -> dict[str, Any]:  # fmt: skip
    """A kernel in all orders of warps, each with tensors of its own."""
    log, results = Log(), []
    for schedule in SCHEDULES:
        own = {name: t.clone() for name, t in tensors.items()}
        Emulated(kernel, kernel.fn.__name__, architecture, schedule, log)[(1,)](**own, **options)
        results.append(own[out])
    return {
        "right": all(torch.equal(x, right) for x in results),
        "kinds": sorted({finding.kind for _, finding in log.findings}),
        "wgmma": log.done["wgmma"],
    }


def results() -> dict[str, dict[str, Any]]:
    """All of them."""
    x = torch.arange(256.0)
    out = {
        f"reversed {'with' if barrier else 'without'} barriers": _tried(
            _reversed_kernel, {"x": x, "scratch": torch.zeros(256)}, "scratch", x.flip(0), BARRIER=barrier, N=256,
            num_warps=4,
        )
        for barrier in (True, False)
    }  # fmt: skip
    few = torch.arange(16.0)
    out["doubled"] = _tried(_doubled_kernel, {"x": few}, "x", 2 * few, N=16, num_warps=4)
    generator = torch.Generator().manual_seed(3)
    a, b = (torch.randint(-8, 9, shape, generator=generator).float() for shape in ((64, 32), (32, 64)))
    for architecture in ("sm_80", "sm_90"):
        for how in ("tf32", "bfloat16", "float16"):
            out[f"{how} product on {architecture}"] = _tried(
                _product_kernel, {"a": a, "b": b, "out": torch.zeros(64, 64)}, "out", a @ b, architecture, M=64, N=64,
                K=32, HOW=how, num_warps=4,
            )  # fmt: skip
    return out


if __name__ == "__main__":
    torch.utils.deterministic.fill_uninitialized_memory = True
    json.dump(results(), sys.stdout, indent=1)
