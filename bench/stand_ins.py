"""What stands where the kernels that an evaluator launches stand: recorders, compilers, emulators."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from dpa1_fast.kernels.triton import attention, energy, evaluator

LAUNCHING = (evaluator, attention, energy)
"""The modules that launch kernels, which are among their names."""


def kernels() -> dict[str, Any]:
    """All kernels that are launched, by name."""
    return {k: v for module in LAUNCHING for k, v in vars(module).items() if k.endswith("_kernel")}


@contextmanager
def standing_in(make: Callable[[str, Any], Any]) -> Iterator[None]:
    """In the block ``make(name, kernel)`` is launched where each kernel would be."""
    kept = [(module, name, x) for module in LAUNCHING for name, x in vars(module).items() if name.endswith("_kernel")]
    for module, name, kernel in kept:
        setattr(module, name, make(name, kernel))
    try:
        yield
    finally:
        for module, name, kernel in kept:
            setattr(module, name, kernel)
