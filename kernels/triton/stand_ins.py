"""What stands where the kernels that an evaluator launches stand: recorders, compilers, emulators."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from . import attention, energy, evaluator, without_attention

LAUNCHING = (evaluator, attention, energy, without_attention)
"""The modules that launch kernels, which are among their names."""
_ONE_AT_A_TIME = threading.RLock()


def kernels() -> dict[str, Any]:
    """All kernels that are launched, by name."""
    return {k: v for module in LAUNCHING for k, v in vars(module).items() if k.endswith("_kernel")}


@contextmanager
def standing_in(make: Callable[[str, Any], Any]) -> Iterator[None]:
    """In the block ``make(name, kernel)`` is launched where each kernel would be, by every thread."""
    with _ONE_AT_A_TIME:
        kept = [(module, name, x) for module in LAUNCHING for name, x in vars(module).items() if _is_kernel(name)]
        for module, name, kernel in kept:
            setattr(module, name, make(name, kernel))
        try:
            yield
        finally:
            for module, name, kernel in kept:
                setattr(module, name, kernel)


def _is_kernel(name: str) -> bool:
    return name.endswith("_kernel")


class Recorder:
    """Stands where a kernel stands for the thread that made it, and runs nothing; others launch the kernel.

    Args:
        function: the kernel. note: takes the kernel, its arguments and its options.
    """

    def __init__(self, function: Any, note: Callable[[Any, tuple[Any, ...], dict[str, Any]], None]) -> None:
        self.function, self.note, self.thread = function, note, threading.get_ident()

    def __getitem__(self, grid: Any) -> Any:
        if threading.get_ident() != self.thread:
            return self.function[grid]
        return lambda *args, **options: self.note(self.function, args, options)
