"""Watches what Triton kernels read and write in the interpreter: every address, against the tensors of the launch."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
from triton.runtime import interpreter


class Launch:
    """The tensors that one launch was given, and which of their bytes were read and written."""

    def __init__(self, kernel: str, tensors: dict[str, Any]) -> None:
        self.kernel = kernel
        self.names = list(tensors)
        self.start = np.array([t.data_ptr() for t in tensors.values()], dtype=np.uint64)
        self.stop = self.start + np.array([t.numel() * t.element_size() for t in tensors.values()], dtype=np.uint64)
        self.sizes = {name: t.element_size() for name, t in tensors.items()}
        self.seen: dict[tuple[str, str], list[np.ndarray]] = defaultdict(list)

    def touch(self, kind: str, addresses: np.ndarray, size: int) -> None:
        """Raises IndexError where an address lies in none of the tensors."""
        at = np.unique(addresses.astype(np.uint64))
        owner = np.full(at.shape, -1)
        for k, (a, b) in enumerate(zip(self.start, self.stop, strict=True)):
            owner[(at >= a) & (at + np.uint64(size) <= b)] = k
        if (owner < 0).any():
            raise IndexError(f"{self.kernel} {kind}s {int((owner < 0).sum())} addresses outside of its tensors")
        for k in np.unique(owner):
            own = at[owner == k]
            if kind == "read":
                # What the launch itself put down before is still in the cache.
                for written in self.seen[self.names[k], "write"]:
                    own = np.setdiff1d(own, written, assume_unique=True)
            self.seen[self.names[k], kind].append(own)

    def bytes(self, without: tuple[str, ...]) -> int:
        """Each element that came from an earlier launch once and each that was written once, but for ``without``."""
        return sum(
            len(np.unique(np.concatenate(parts))) * self.sizes[name]
            for (name, _), parts in self.seen.items()
            if parts and name not in without
        )


@contextmanager
def watch() -> Iterator[list[Launch]]:
    """The launches of the block, as they come."""
    launches: list[Launch] = []
    builder, executor = interpreter.InterpreterBuilder, interpreter.GridExecutor
    load, store, call = builder.create_masked_load, builder.create_masked_store, executor.__call__

    def watched_load(self: Any, ptrs: Any, mask: Any, *rest: Any) -> Any:
        real = np.broadcast_to(mask.data, ptrs.data.shape)
        launches[-1].touch("read", ptrs.data[real], ptrs.get_element_ty().primitive_bitwidth // 8)
        return load(self, ptrs, mask, *rest)

    def watched_store(self: Any, ptrs: Any, value: Any, mask: Any, *rest: Any) -> Any:
        real = np.broadcast_to(mask.data, ptrs.data.shape)
        launches[-1].touch("write", ptrs.data[real], ptrs.get_element_ty().primitive_bitwidth // 8)
        return store(self, ptrs, value, mask, *rest)

    def watched_call(self: Any, *args: Any, **kwargs: Any) -> Any:
        named = {**dict(zip(self.arg_names, args, strict=False)), **kwargs}
        tensors = {k: v for k, v in named.items() if hasattr(v, "data_ptr")}
        launches.append(Launch(self.fn.__name__, tensors))
        return call(self, *args, **kwargs)

    builder.create_masked_load, builder.create_masked_store = watched_load, watched_store
    executor.__call__ = watched_call
    try:
        yield launches
    finally:
        builder.create_masked_load, builder.create_masked_store = load, store
        executor.__call__ = call
