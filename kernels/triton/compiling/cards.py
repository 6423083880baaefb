"""What cards that are not here have."""

from __future__ import annotations

SHARED_KB = {
    "sm_80": 163, "sm_86": 99, "sm_87": 163, "sm_89": 99, "sm_90": 227, "sm_100": 227, "sm_103": 227, "sm_120": 99,
    "sm_121": 99, "gfx942": 64, "gfx950": 160,
}  # fmt: skip
"""Shared memory that a program may take. NVIDIA: "Technical Specifications per Compute Capability" of its CUDA C++
Programming Guide; AMD: LDS of a compute unit, CDNA 3 and CDNA 4 architecture white papers."""


def shared_bytes(architecture: str) -> int | None:
    """The same in bytes, None where nobody wrote it down."""
    kb = SHARED_KB.get(architecture)
    return None if kb is None else kb << 10
