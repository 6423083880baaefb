"""Compiles kernels into Triton's cache for a card that this process does not touch.

    python -m dpa1_fast.kernels.triton.compiling.worker sm_90

A job is a line of JSON on standard input (``jobs.py``), what came out a line on standard output (``outcomes.py``).
Kernels go through the JIT's own path, with a driver that only names the card standing where the card's would: so who
launches them finds them where its Triton is the same.
"""

from __future__ import annotations

import json
import os
import sys
import time
from pathlib import Path
from typing import Any

READY = "ready"
"""The first line: jobs may come."""


class _Utilities:
    """What Triton may ask of a card when it compiles; what a kernel may take is judged by who launches it."""

    def get_device_properties(self, device: int) -> dict[str, int]:
        """By the names that Triton has for them."""
        return {"max_shared_mem": 1 << 30, "max_num_regs": 1 << 16, "multiprocessor_count": 1, "warpSize": 32}


class Driver:
    """Stands for the driver of a card: names it, runs nothing.

    Args:
        architecture: "sm_90" and the like, or "gfx942" and the like.
    """

    utils = _Utilities()

    def __init__(self, architecture: str) -> None:
        self.architecture = architecture

    def get_current_target(self) -> Any:
        """What to compile for."""
        from triton.backends.compiler import GPUTarget

        if self.architecture.startswith("gfx"):
            return GPUTarget("hip", self.architecture, 64 if self.architecture.startswith("gfx9") else 32)
        return GPUTarget("cuda", int(self.architecture.removeprefix("sm_")), 32)

    def get_current_device(self) -> int:
        """The first."""
        return 0

    def get_current_stream(self, device: int) -> int:
        """The default one."""
        return 0


class _Memory:
    """Stands for a tensor of which nothing but its type and place is known."""

    def __init__(self, dtype: str, offset: int) -> None:
        self.dtype, self.offset = dtype, offset

    def data_ptr(self) -> int:
        """Where it begins, but for multiples of 16 bytes."""
        return self.offset

    def ptr_range(self) -> int:
        """Less than 2 GiB, as AMD's compiler asks."""
        return 0


def decoded(x: Any) -> Any:
    """An argument from JSON, see ``jobs.encoded``."""
    if isinstance(x, dict):
        return _Memory(x["tensor"], x["offset"])
    return tuple(decoded(y) for y in x) if isinstance(x, list) else x


def work(functions: dict[str, Any], job: dict[str, Any]) -> dict[str, Any]:
    """Compiles one kernel. What does not compile here does not there: said, and no end of the others."""
    from triton.runtime.cache import get_cache_manager

    from .binary import mistake, needs

    began = time.perf_counter()
    options = {k: decoded(v) for k, v in job["options"].items()}
    try:
        made = functions[job["function"]].warmup(*map(decoded, job["arguments"]), grid=(1,), **options)
        folder = Path(getattr(get_cache_manager(made.hash), "cache_dir", None) or "").name
        out: dict[str, Any] = {"folder": folder, **needs(made)}
        if wrong := mistake(made.asm.get("ptx", "")):
            out["error"] = f"the compiler's mistake: {wrong} runs over into the number beside it"
    except Exception as error:
        out = {"error": f"{type(error).__name__}: {' '.join(str(error).split())[-300:]}"}
    return {**out, "seconds": round(time.perf_counter() - began, 2)}


def main() -> int:
    """Works until there is no line any more."""
    answers = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)  # whatever a compiler prints is no answer
    from triton.runtime import driver

    from .functions import settled

    driver.set_active(Driver(sys.argv[1]))
    functions = settled()
    print(READY, file=answers, flush=True)
    for line in sys.stdin:
        print(json.dumps(work(functions, json.loads(line))), file=answers, flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
