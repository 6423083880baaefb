"""What kernels came out as, kept in a file beside Triton's compiled ones: with these it goes, and it is of use.

A file is of one architecture and one version of Triton; an entry is known by the kernel's sources and all that it is
compiled with, which is all that counts of a model's shape.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, fields
from functools import cache
from hashlib import sha256
from pathlib import Path
from typing import Any


@dataclass(frozen=True)
class Outcome:
    """Of a kernel.

    Attributes:
        folder: of Triton's cache, in which it lies. registers, stack_bytes: of a thread. shared_bytes: of a program.
        fma_products: of matrices, that go without tensor cores. seconds: that it took. error: why there is none.
    """

    folder: str = ""
    registers: int = 0
    stack_bytes: int = 0
    shared_bytes: int = 0
    fma_products: int = 0
    seconds: float = 0.0
    error: str = ""


@cache
def sources() -> str:
    """Of all kernels, as one number."""
    seen = sha256()
    for file in sorted((Path(__file__).parents[1] / "ops").glob("*.py")):
        seen.update(file.name.encode() + b"\0" + file.read_bytes() + b"\0")
    return seen.hexdigest()


class Outcomes:
    """The file.

    Args:
        folder: Triton's cache. architecture, triton: what for, and by which version.
    """

    def __init__(self, folder: Path, architecture: str, triton: str) -> None:
        self.folder = folder
        self.path = folder / f"dpa1_fast-{architecture}-{triton}.json"

    def key(self, line: str) -> str:
        """By which a job is known."""
        return sha256(f"{sources()}\n{line}".encode()).hexdigest()[:32]

    def read(self) -> dict[str, Outcome]:
        """By key. What is damaged counts for nothing, and neither does what Triton's cache does not hold any more."""
        try:
            whole = json.loads(self.path.read_text(encoding="utf-8"))
            found = {str(k): _outcome(x) for k, x in whole.items()}
        except (OSError, ValueError, TypeError, AttributeError):
            return {}
        return {k: x for k, x in found.items() if x.error or not x.folder or (self.folder / x.folder).is_dir()}

    def add(self, found: Mapping[str, Outcome]) -> None:
        """Keeps outcomes; where the file can't be written they are found anew next time."""
        whole = {k: asdict(x) for k, x in (self.read() | dict(found)).items()}
        fresh = self.path.with_suffix(f".{os.getpid()}")
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            fresh.write_text(json.dumps(whole, indent=0), encoding="utf-8")
            fresh.replace(self.path)
        except OSError:
            fresh.unlink(missing_ok=True)

    @contextmanager
    def alone(self) -> Iterator[None]:
        """In the block no other process compiles, where the file system can say so: they find what this one made."""
        import fcntl

        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            lock = os.open(self.path.with_suffix(".lock"), os.O_RDWR | os.O_CREAT, 0o644)
        except OSError:
            yield
            return
        try:
            with suppress(OSError):  # a file system without locks
                fcntl.flock(lock, fcntl.LOCK_EX)
            yield
        finally:
            os.close(lock)


def _outcome(x: dict[str, Any]) -> Outcome:
    out = Outcome(**x)
    if not all(isinstance(getattr(out, f.name), str if f.default == "" else int | float) for f in fields(Outcome)):
        raise ValueError("no outcome")
    if Path(out.folder).name != out.folder:
        raise ValueError("no folder of the cache")
    return out
