"""The compiled engine: which build of it serves this machine, and its C interface.

The sources lie in ``native/``; ``setup.py`` compiles them once per instruction set where there is a C++ compiler.
"""

from __future__ import annotations

import ctypes
import platform
from collections.abc import Mapping
from functools import cache
from pathlib import Path

import torch
from torch import Tensor

BUILDS = ("avx512bf16", "avx512", "avx2", "baseline")
"""From the widest vectors to the narrowest; ``setup.py`` compiles those that the architecture has."""

CHUNK_BYTES = 5 << 20
"""What the atoms that are evaluated together may hold; it should stay in a core's share of the last cache."""

BFLOAT16_CHUNK_BYTES = 2 << 20
"""The same for bfloat16 products, which finish sooner and wait for memory more (measured: 1.05 to 1.1 times faster)."""

CHUNK_ATOMS = 32


class Request(ctypes.Structure):
    """``Request`` of native/chunk.h: pointers into tensors that the caller keeps alive."""

    _fields_ = [
        ("count", ctypes.c_int64),
        ("center", ctypes.c_void_p),
        ("type", ctypes.c_void_p),
        ("first_edge", ctypes.c_void_p),
        ("neighbor", ctypes.c_void_p),
        ("vector", ctypes.c_void_p),
        ("n_filled", ctypes.c_void_p),
        ("first_type", ctypes.c_void_p),
        ("extras", ctypes.c_void_p),
        ("basis", ctypes.c_void_p),
        ("energy", ctypes.c_void_p),
        ("gradient", ctypes.c_void_p),
        ("atoms", ctypes.c_int64),
        ("structures", ctypes.c_int64),
        ("offset", ctypes.c_void_p),
        ("force", ctypes.c_void_p),
        ("virial", ctypes.c_void_p),
        ("hidden", ctypes.c_void_p),
    ]


def usable() -> list[str]:
    """Builds that this processor can run, best first."""
    if platform.machine().lower() not in ("x86_64", "amd64"):
        return ["baseline"]
    capability = torch.backends.cpu.get_cpu_capability()
    has = {"avx512": capability == "AVX512", "avx2": capability in ("AVX512", "AVX2"), "baseline": True}
    has["avx512bf16"] = has["avx512"] and "avx512_bf16" in _flags()
    return [build for build in BUILDS if has[build]]


@cache
def _flags() -> list[str]:
    """What the kernel says the processor can do; nothing where it does not say."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return []
    return next((line.split() for line in lines if line.startswith("flags")), [])


def has_bfloat16() -> bool:
    """Whether this machine has bfloat16 products, and a build that uses them."""
    return "avx512bf16" in usable() and find("avx512bf16") is not None


def find(build: str) -> Path | None:
    """The compiled file of a build, or None where it was not compiled; before one that is named after a Python."""
    return min(Path(__file__).parent.glob(f"_native_{build}.*"), key=lambda path: (len(path.name), path), default=None)


@cache
def library(build: str | None = None) -> ctypes.CDLL:
    """The compiled engine, by default the best that this machine can run.

    Raises:
        OSError: it was not compiled.
    """
    names = usable() if build is None else [build]
    for path in filter(None, map(find, names)):
        lib = ctypes.CDLL(str(path))
        lib.dpa1_error.restype = lib.dpa1_instructions.restype = ctypes.c_char_p  # type: ignore[assignment]
        lib.dpa1_new.restype = ctypes.c_void_p
        lib.dpa1_free.argtypes = [ctypes.c_void_p]
        lib.dpa1_put.argtypes = [ctypes.c_void_p, ctypes.c_char_p, ctypes.c_void_p, ctypes.c_int64]
        lib.dpa1_build.argtypes = [ctypes.c_void_p]
        shape = [ctypes.c_int, ctypes.c_double, ctypes.c_double, ctypes.c_int, ctypes.c_int]
        lib.dpa1_series.argtypes = [ctypes.c_void_p, *shape, ctypes.c_void_p, ctypes.c_void_p]  # type: ignore[list-item]
        many = [ctypes.c_int64, *[ctypes.c_void_p] * 3, ctypes.c_int64, ctypes.c_void_p]
        lib.dpa1_pairs.argtypes, lib.dpa1_pairs.restype = many, None  # type: ignore[assignment]
        lib.dpa1_basis.argtypes = [ctypes.c_void_p]
        lib.dpa1_forget_bases.argtypes, lib.dpa1_forget_bases.restype = [ctypes.c_void_p], None  # type: ignore[assignment]
        lib.dpa1_evaluate.argtypes = [
            ctypes.c_void_p, ctypes.POINTER(Request), ctypes.c_int, ctypes.c_int64, ctypes.c_int
        ]  # fmt: skip
        edges = [ctypes.c_int64, *[ctypes.c_void_p] * 4, ctypes.c_double, *[ctypes.c_void_p] * 5]
        lib.dpa1_near_edges.argtypes, lib.dpa1_near_edges.restype = edges, ctypes.c_int64  # type: ignore[assignment]
        lib.dpa1_search.argtypes = [ctypes.c_int64, *[ctypes.c_void_p] * 4, ctypes.c_double, ctypes.c_void_p]
        fresh = [ctypes.c_int64, *[ctypes.c_void_p] * 4, ctypes.c_double, ctypes.c_void_p]
        lib.dpa1_fresh.argtypes, lib.dpa1_fresh.restype = fresh, ctypes.c_int64  # type: ignore[assignment]
        lib.dpa1_fresh_edges.argtypes, lib.dpa1_fresh_edges.restype = [ctypes.c_void_p] * 3, None  # type: ignore[assignment]
        lib.dpa1_found.argtypes, lib.dpa1_found.restype = [ctypes.c_void_p] * 4, None  # type: ignore[assignment]
        return lib
    raise OSError(f"the CPU engine was not compiled ({', '.join(names)})")


@cache
def available() -> bool:
    """Whether the CPU engine was compiled for this machine."""
    return any(find(build) is not None for build in usable())


ERRORS = {1: MemoryError, 2: ValueError, 3: RuntimeError}
"""By ``Outcome`` of native/library.cpp: an error of the compiled engine keeps its kind."""


def check(lib: ctypes.CDLL, outcome: int) -> None:
    """Raises what a call of the compiled engine came to, unless it was done.

    Raises:
        MemoryError, ValueError, RuntimeError: out of memory; numbers that make no sense; anything else.
    """
    if outcome:
        raise ERRORS[outcome](lib.dpa1_error().decode())


class NativeModel:
    """One model in the compiled engine.

    Args:
        numbers: what ``native/model.h`` asks for, by name.
        precision: torch.float64, torch.float32, or torch.bfloat16 for products of bfloat16 operands in float32.
        build: one of ``BUILDS``, by default the best.
    """

    def __init__(self, numbers: Mapping[str, Tensor], precision: torch.dtype, build: str | None = None) -> None:
        self._lib = library(build)
        self._handle = self._lib.dpa1_new(int(precision == torch.float64))
        if self._handle is None:
            raise MemoryError("the CPU engine ran out of memory")
        self._bfloat16 = precision == torch.bfloat16
        self._put({**numbers, "bfloat16": torch.tensor([self._bfloat16]).double()})
        self._check(self._lib.dpa1_build(self._handle))

    def __del__(self) -> None:
        if getattr(self, "_handle", None):
            self._lib.dpa1_free(self._handle)

    def add_series(self, pair: int, lo: float, hi: float, c: Tensor, slope: Tensor) -> None:
        """The series of one pair of types, c and slope (sets, terms, M)."""
        c, slope = (x.double().contiguous() for x in (c, slope))
        self._check(
            self._lib.dpa1_series(
                self._handle, pair, lo, hi, c.shape[0], c.shape[1], c.data_ptr(), slope.data_ptr()
            )
        )  # fmt: skip

    def add_basis(self, numbers: Mapping[str, Tensor]) -> int:
        """A basis for the first attention layer (see ``native/library.cpp``). → its index."""
        self._put(numbers)
        index = int(self._lib.dpa1_basis(self._handle))
        self._check(max(0, -index))
        return index

    def forget_bases(self) -> None:
        """Frees all bases; indices start from 0 again."""
        self._lib.dpa1_forget_bases(self._handle)

    def pairs(self, types: Tensor, first_edge: Tensor, neighbor: Tensor, ntypes: int) -> Tensor:
        """Which pairs of types (centre, neighbour) the edges join, (ntypes²,) bool."""
        present = torch.zeros(ntypes * ntypes, dtype=torch.bool)
        edges = types.data_ptr(), first_edge.data_ptr(), neighbor.data_ptr()
        self._lib.dpa1_pairs(len(types), *edges, ntypes, present.data_ptr())
        return present

    def evaluate(self, request: Request, threads: int) -> None:
        """Fills the request's energies, gradients, forces and virials."""
        chunk = BFLOAT16_CHUNK_BYTES if self._bfloat16 else CHUNK_BYTES
        self._check(self._lib.dpa1_evaluate(self._handle, request, threads, chunk, CHUNK_ATOMS))

    def _put(self, numbers: Mapping[str, Tensor]) -> None:
        for name, value in numbers.items():
            flat = value.double().contiguous()
            self._check(self._lib.dpa1_put(self._handle, name.encode(), flat.data_ptr(), flat.numel()))

    def _check(self, outcome: int) -> None:
        check(self._lib, outcome)
