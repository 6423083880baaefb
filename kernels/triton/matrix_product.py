"""Products of whole matrices, which torch's library does, at the precisions of ``precision.py``.

What a process has set for torch's own products (tf32, autocast) neither changes these nor is changed by them.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext

import torch
from torch import Tensor

_LOCK = threading.Lock()
"""Torch has one setting for all threads: of ours, one at a time changes it."""


def product(a: Tensor, b: Tensor, work: torch.dtype, *, tf32: bool) -> Tensor:
    """a·b (n, N) in ``work``, summed in ``work``.

    Args:
        a, b: (n, K) and (K, N), both in ``work``, or both in bfloat16 or float16.
        tf32: whether a GPU may round float32 operands to tf32. A CPU never does.
    """
    place = a.device.type
    with torch.autocast(place, enabled=False) if torch.is_autocast_enabled(place) else nullcontext():
        if a.dtype == work:
            with float32_products(tf32) if place == "cuda" and work == torch.float32 else nullcontext():
                return torch.mm(a, b)
        if place == "cuda":
            return torch.mm(a, b, out_dtype=work)
        return torch.mm(a.to(work), b.to(work))  # a CPU would round the result as well


@contextmanager
def float32_products(tf32: bool) -> Iterator[None]:
    """Torch's products of float32 on a GPU with operands rounded to tf32, or not; afterwards they are as before.

    The setting is the whole process': while the block hands over its work, products of other threads may see it.
    """
    with _LOCK:
        before = _setting()
        if (before in ("tf32", "high", "medium")) == tf32:
            yield
            return
        _set(("tf32" if tf32 else "ieee") if _new() else ("high" if tf32 else "highest"))
        try:
            yield
        finally:
            if _new():
                # What was read may be inherited from torch.backends.fp32_precision, and is to be so again.
                _set("none")
            if _setting() != before:
                _set(before)


def _new() -> bool:
    """Whether torch has the setting that came with 2.9; from then on the older one must not be mixed with it."""
    return hasattr(torch.backends.cuda.matmul, "fp32_precision")


def _setting() -> str:
    return str(torch.backends.cuda.matmul.fp32_precision if _new() else torch.get_float32_matmul_precision())


def _set(to: str) -> None:
    if _new():
        torch.backends.cuda.matmul.fp32_precision = to
    else:
        torch.set_float32_matmul_precision(to)
