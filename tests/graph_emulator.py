"""A CUDA graph without a GPU: what a function does on the device is written down, and done again without the function.

Written down are all launches of Triton kernels and all torch operations, with the very tensors that they had. Doing
them again runs them in that order on that memory, and no line of the function. What a capture would refuse is refused:
reading a number back, copies between devices, and operations that are not known to leave the host alone.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from triton.runtime import interpreter

SAFE = {
    "add", "arange", "bitwise_and", "bitwise_not", "cat", "clone", "constant_pad_nd", "clamp_min", "copy_", "cumsum",
    "fill_", "masked_fill", "mm", "mul", "rsub", "scatter_", "searchsorted", "sort", "sub", "sub_", "sum", "zero_",
    "zeros", "zeros_like", "_to_copy", "index",
}  # fmt: skip
"""Operations whose CUDA code neither waits for the device nor sizes anything by what is there. ``index`` only by
numbers: by a mask it counts what is true."""
EMPTY = {"empty", "empty_like", "new_empty", "empty_strided", "new_empty_strided"}
READS = {"item", "tolist", "cpu", "cuda", "numpy", "__bool__", "__int__", "__float__", "__index__", "__array__"}
FROM_HOST = {"tensor", "as_tensor", "from_numpy"}


class CaptureError(Exception):
    """Something that a CUDA capture would refuse."""


@dataclass(frozen=True)
class Step:
    """One thing that was done. kind: launch, operation, view or empty; the last two run nothing on a device."""

    name: str
    kind: str
    again: Callable[[], None]


def _name(function: Any) -> str:
    return str(getattr(function, "__name__", function))


class _Asks(TorchFunctionMode):
    """Sees what is asked of torch before it is broken up: reads of values that no operation shows on a CPU."""

    def __init__(self, paused: Callable[[], bool]) -> None:
        super().__init__()
        self.paused = paused

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if not self.paused():
            if _name(func) in READS | FROM_HOST:
                raise CaptureError(f"{_name(func)} copies between host and device")
            places = [*args[1:], *kwargs.values()] if _name(func) == "to" else []
            if any(isinstance(x, str | torch.device) for x in places):
                raise CaptureError("to(device) copies between devices")
        return func(*args, **kwargs)


class _Operations(TorchDispatchMode):
    """Writes down operations."""

    def __init__(self, steps: list[Step], paused: Callable[[], bool], strict: bool) -> None:
        super().__init__()
        self.steps, self.paused, self.strict = steps, paused, strict

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        out = func(*args, **kwargs)
        if not self.paused():
            self.steps.append(self._step(func, args, kwargs, out))
        return out

    def _step(self, func: Any, args: Any, kwargs: Any, out: Any) -> Step:
        name = func.overloadpacket.__name__
        outputs = [x for x in tree_leaves(out) if isinstance(x, Tensor)]
        aliases = [r.alias_info for r in func._schema.returns if r.alias_info is not None]
        if name in EMPTY:
            return Step(name, "empty", lambda: [poison(x) for x in outputs])
        if aliases and not func._schema.is_mutable:
            return Step(name, "view", lambda: None)
        masks = [x for x in tree_leaves(args[1:]) if isinstance(x, Tensor) and x.dtype in (torch.bool, torch.uint8)]
        if self.strict and (name not in SAFE or (name == "index" and masks)):
            raise CaptureError(f"{name} is not known to be safe in a capture")
        if func._schema.is_mutable:
            return Step(name, "operation", lambda: func(*args, **kwargs))

        def again() -> None:
            for old, new in zip(outputs, tree_leaves(func(*args, **kwargs)), strict=True):
                old.copy_(new)

        return Step(name, "operation", again)


class Reads(TorchFunctionMode):
    """Counts how often the host takes numbers of a device, on which everything is that no ``cpu`` made."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: list[str] = []
        self.on_host: list[Tensor] = []  # kept, so that no other object gets the identity of one

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name, kwargs = _name(func), kwargs or {}
        given = [x for x in tree_leaves((args, kwargs)) if isinstance(x, Tensor)]
        there = any(x is y for x in given for y in self.on_host)
        if name in READS | {"equal", "allclose", "nonzero"} and not there:
            self.seen.append(name)
        out = func(*args, **kwargs)
        if there or name == "cpu":
            self.on_host += [x for x in tree_leaves(out) if isinstance(x, Tensor)]
        return out


def poison(x: Tensor) -> None:
    """Numbers that nobody may depend on."""
    x.fill_(float("nan") if x.is_floating_point() else torch.iinfo(x.dtype).max)


@contextmanager
def recording(strict: bool = True, launch: bool = True) -> Iterator[list[Step]]:
    """All that the block does on the device, as it comes. strict: refuse what a capture would. launch: run kernels."""
    steps: list[Step] = []
    inside = [False]
    executor, call = interpreter.GridExecutor, interpreter.GridExecutor.__call__

    def quietly(self: Any, *args: Any, **kwargs: Any) -> None:
        inside[0] = True
        try:
            call(self, *args, **kwargs)
        finally:
            inside[0] = False

    def recorded(self: Any, *args: Any, **kwargs: Any) -> None:
        if launch:
            quietly(self, *args, **kwargs)
        steps.append(Step(self.fn.__name__, "launch", lambda: call(self, *args, **kwargs)))

    executor.__call__ = recorded
    try:
        with _Asks(lambda: inside[0] or not strict), _Operations(steps, lambda: inside[0], strict):
            yield steps
    finally:
        executor.__call__ = call


class EmulatedCapture:
    """Stands where ``CudaCapture`` does. As there, kernels don't run while they are captured, only when replayed.

    Attributes:
        steps: of the last capture.
    """

    def __init__(self) -> None:
        self.steps: list[Step] = []

    def __call__(self, run: Callable[[], Any]) -> tuple[Callable[[], None], Any]:
        with recording(launch=False) as steps:
            out = run()
        self.steps = steps
        for x in out:
            poison(x)

        def replay() -> None:
            for step in steps:
                step.again()

        return replay, out


def device_work(steps: list[Step]) -> list[str]:
    """What runs on a device: launches and operations, but not views and allocations."""
    return [s.name for s in steps if s.kind in ("launch", "operation")]
