"""Tells a listener what Triton's interpreter does: launches, programs, loads, stores, barriers, atomics."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import count
from typing import Any

import numpy as np
from torch import Tensor
from triton.runtime import interpreter


@dataclass(frozen=True)
class Touched:
    """What one load or store reaches: masked elements are left out.

    Attributes:
        number: counts the loads and stores of a launch. kind: "load" or "store". addresses: in bytes.
        elements: which element of the tensor of pointers each one is. shape: of that tensor. size: bytes of an element.
        origins: numbers of the loads of which a stored element is computed from the same element; see ``_carried``.
    """

    number: int
    kind: str
    addresses: np.ndarray
    elements: np.ndarray
    shape: tuple[int, ...]
    size: int
    origins: frozenset[int]


class Listener:
    """Hears everything and does nothing; whoever wants to know of something overrides it."""

    def launch(self, kernel: str, tensors: Mapping[str, Tensor]) -> None:
        """A launch begins, with these tensors among its arguments."""

    def program(self) -> None:
        """The next program of the launch begins; the interpreter runs one after the other."""

    def access(self, touched: Touched) -> None:
        """The program loads or stores."""

    def barrier(self) -> None:
        """The program's threads wait for one another."""

    def atomic(self) -> None:
        """The program does an atomic operation."""

    def finish(self) -> None:
        """The launch has ended."""


def _carried(name: str, inputs: Sequence[Any]) -> frozenset[int]:
    """The loads whose elements the result of an operation holds at their own places, as far as that is followed.

    Through operations element by element, and through what a product is added to; not through products themselves,
    sums and other operations that mix elements.
    """
    if name == "create_dot":
        inputs = inputs[2:3]
    return frozenset().union(*(getattr(x, "origins", ()) for x in inputs))


@contextmanager
def listening(to: Listener) -> Iterator[None]:
    """Every launch of the block is told to a listener."""
    builder, executor = interpreter.InterpreterBuilder, interpreter.GridExecutor
    kept = {k: getattr(builder, k) for k in dir(builder) if k.startswith("create_") or k == "set_grid_idx"}
    call = executor.__call__
    numbers = count()

    def computing(name: str) -> Callable[..., Any]:
        def run(self: Any, *args: Any, **kwargs: Any) -> Any:
            out = kept[name](self, *args, **kwargs)
            if isinstance(out, interpreter.TensorHandle):
                origins = _carried(name, args)
                if origins:
                    out.origins = origins
            return out

        return run

    def touch(kind: str, ptrs: Any, mask: Any, origins: frozenset[int]) -> int:
        elements = np.nonzero(np.broadcast_to(mask.data, ptrs.data.shape).ravel())[0]
        size = ptrs.get_element_ty().primitive_bitwidth // 8
        number = next(numbers)
        to.access(Touched(number, kind, ptrs.data.ravel()[elements], elements, ptrs.data.shape, size, origins))
        return number

    def load(self: Any, ptrs: Any, mask: Any, *rest: Any) -> Any:
        number = touch("load", ptrs, mask, frozenset())
        out = kept["create_masked_load"](self, ptrs, mask, *rest)
        out.origins = frozenset((number,))
        return out

    def store(self: Any, ptrs: Any, value: Any, mask: Any, *rest: Any) -> Any:
        touch("store", ptrs, mask, getattr(value, "origins", frozenset()))
        return kept["create_masked_store"](self, ptrs, value, mask, *rest)

    def before(tell: Callable[[], None], name: str) -> Callable[..., Any]:
        def run(self: Any, *args: Any) -> Any:
            tell()
            return kept[name](self, *args)

        return run

    def launch(self: Any, *args: Any, **kwargs: Any) -> Any:
        named = {**dict(zip(self.arg_names, args, strict=False)), **kwargs}
        to.launch(self.fn.__name__, {k: v for k, v in named.items() if hasattr(v, "data_ptr")})
        out = call(self, *args, **kwargs)
        to.finish()
        return out

    ours = {name: computing(name) for name in kept} | {
        "create_masked_load": load,
        "create_masked_store": store,
        "create_barrier": before(to.barrier, "create_barrier"),
        "create_atomic_cas": before(to.atomic, "create_atomic_cas"),
        "create_atomic_rmw": before(to.atomic, "create_atomic_rmw"),
        "set_grid_idx": before(to.program, "set_grid_idx"),
    }
    for name, function in ours.items():
        setattr(builder, name, function)
    executor.__call__ = launch
    try:
        yield
    finally:
        for name, function in kept.items():
            setattr(builder, name, function)
        executor.__call__ = call
