"""Watches what Triton kernels read and write in the interpreter: every address, against the tensors of the launch."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Mapping
from contextlib import contextmanager

import numpy as np
from interpreter_hooks import Listener, Touched, listening
from torch import Tensor


class Launch:
    """The tensors that one launch was given, and which of their bytes were read and written."""

    def __init__(self, kernel: str, tensors: Mapping[str, Tensor]) -> None:
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


class _Recorder(Listener):
    """Launches, as they come."""

    def __init__(self) -> None:
        self.launches: list[Launch] = []

    def launch(self, kernel: str, tensors: Mapping[str, Tensor]) -> None:
        self.launches.append(Launch(kernel, tensors))

    def access(self, touched: Touched) -> None:
        kind = {"load": "read", "store": "write"}[touched.kind]
        self.launches[-1].touch(kind, touched.addresses, touched.size)


@contextmanager
def watch() -> Iterator[list[Launch]]:
    """The launches of the block, as they come."""
    recorder = _Recorder()
    with listening(recorder):
        yield recorder.launches
