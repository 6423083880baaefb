"""The one place that chooses who evaluates a tile. An explicit request never falls back silently."""

from __future__ import annotations

BACKENDS = ("reference",)
"""Backends of this version. The fused CPU engine and the Triton kernels join here."""


def choose(backend: str, device: str) -> str:
    """The backend that ``backend`` means on ``device``.

    Args:
        backend: "auto" or one of ``BACKENDS``.
        device: a torch device string.

    Raises:
        ValueError: for a backend that this version does not have, naming those it has.
    """
    if backend == "auto":
        return "reference"
    if backend not in BACKENDS:
        raise ValueError(f"backend {backend!r} is not available on {device}; available: auto, {', '.join(BACKENDS)}")
    return backend
