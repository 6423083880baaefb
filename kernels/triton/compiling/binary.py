"""What a compiled kernel needs of a card: registers, stack and shared memory, read from the binary without one."""

from __future__ import annotations

import re
import subprocess
import tempfile
from pathlib import Path
from typing import Any

OVERFLOWS = 1 << 22
"""A thread's number, of up to 1,024, no longer fits in 32 bits when it is multiplied by more."""


def tool(name: str, *args: str) -> str:
    """What one of the tools in Triton's wheel prints: ``cuobjdump``, ``nvdisasm``.

    Raises:
        OSError, subprocess.CalledProcessError: it is not there, or fails.
    """
    import triton

    path = Path(triton.__file__).parent / "backends" / "nvidia" / "bin" / name
    return subprocess.run([str(path), *args], capture_output=True, text=True, check=True).stdout


def needs(compiled: Any) -> dict[str, int]:
    """What ``Outcome`` has of a compiled kernel: ``registers``, ``stack_bytes``, ``shared_bytes``, ``fma_products``.

    Raises:
        RuntimeError: the binary does not say it.
    """
    off = len(re.findall(r"tt\.dot .*-> tensor<[^>]*#blocked", compiled.asm["ttgir"]))
    shared = {"shared_bytes": int(compiled.metadata.shared), "fma_products": off}
    if "amdgcn" in compiled.asm:
        return shared | _amd(compiled.asm["amdgcn"])
    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        file.write(compiled.asm["cubin"])
        file.flush()
        said = tool("cuobjdump", "-res-usage", file.name)
    found = re.search(r"REG:(\d+) STACK:(\d+)", said)
    if found is None:
        raise RuntimeError(f"cuobjdump said nothing of registers: {said[:200]}")
    return shared | {"registers": int(found[1]), "stack_bytes": int(found[2])}


def _amd(text: str) -> dict[str, int]:
    def number(name: str) -> int:
        found = re.search(rf"^\s*\.{name}:\s*(\d+)", text, re.M)
        return int(found[1]) if found else 0

    # of the vector file; .agpr_count is part of it on CDNA 2 and 3
    return {"registers": number("vgpr_count"), "stack_bytes": number("private_segment_fixed_size")}


def mistake(ptx: str) -> str | None:
    """The line in which LLVM shifts a 32-bit number into the one that it has packed beside it, where there is one.

    Its vectorizer makes a pair of shifts of two unlike ones, in which a number that nobody needs may overflow; its
    back end (as in Triton 3.6) then holds the pair in 64 bits and shifts the lower half by ``mul.wide``. On an H100 the
    backward pass in coordinates ended in a misaligned address, and would give wrong numbers where none is an address.
    """
    for found in re.finditer(r"mul\.wide\.u32\s+\S+, %\w+, (\d+);", ptx):
        by = int(found[1])
        if by >= OVERFLOWS and by & (by - 1) == 0:
            return found[0]
    return None
