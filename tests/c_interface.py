"""``dpa1_fast.h`` by ctypes, and structures as a program of molecular dynamics holds them: local atoms and ghosts."""

from __future__ import annotations

import ctypes
from collections.abc import Callable
from ctypes import POINTER, Structure, byref, c_char_p, c_double, c_int32, c_int64, c_uint32, c_uint64, c_void_p, sizeof
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from ase import Atoms

from dpa1_fast.kernels.cpu import library

DONE, OUT_OF_MEMORY, BAD_ARGUMENT, FAILED, BAD_FILE, UNAVAILABLE, OVERLAP, NOT_FINITE = range(8)


class Options(Structure):
    _fields_ = [("size", c_uint64), ("precision", c_char_p), ("threads", c_int32)]


class Info(Structure):
    _fields_ = [
        ("size", c_uint64), ("cutoff", c_double), ("types", c_int32), ("most_neighbors", c_int32),
        ("frame_parameters", c_int32), ("atomic_parameters", c_int32), ("default_parameters", c_int32),
        ("needs_first_type", c_int32), ("checksum", c_uint32), ("producer", c_char_p),
    ]  # fmt: skip


class AtomsGiven(Structure):
    _fields_ = [
        ("size", c_uint64), ("atoms", c_int64), ("position", c_void_p), ("type", c_void_p), ("centers", c_int64),
        ("center", c_void_p), ("n_neighbors", c_void_p), ("neighbors", c_void_p), ("neighbor_mask", c_int32),
        ("first_type", c_int32), ("frame_parameters", c_void_p), ("atomic_parameters", c_void_p),
    ]  # fmt: skip


class Results(Structure):
    _fields_ = [
        ("size", c_uint64), ("energies", c_void_p), ("forces", c_void_p), ("atomic_virials", c_void_p),
        ("energy", c_double), ("virial", c_double * 9), ("atom", c_int64), ("other", c_int64), ("distance", c_double),
        ("over", c_int64), ("most", c_int64),
    ]  # fmt: skip


@dataclass
class System:
    """Local atoms, ghosts behind them, and a full list of neighbours for the local ones."""

    position: np.ndarray
    type: np.ndarray
    home: np.ndarray  # (atoms,) the local atom that each one is an image of
    rows: list[np.ndarray]
    center: np.ndarray
    mask: int = 0
    first_type: int = 0
    frame: np.ndarray | None = None
    atomic: np.ndarray | None = None

    @property
    def local(self) -> int:
        """How many atoms are no ghosts."""
        return len(self.center)


def system(atoms: Atoms, type_map: tuple[str, ...], cutoff: float, skin: float = 0.5) -> System:
    """Every image that some local atom can see, and lists a little longer than the cut-off."""
    n, reach = len(atoms), cutoff + skin
    cell = np.asarray(atoms.cell[:])
    shifts = [np.zeros(3)]
    if atoms.pbc.any():
        heights = 1.0 / np.linalg.norm(np.linalg.inv(cell), axis=0)
        most = [int(np.ceil(reach / h)) + 1 if p else 0 for h, p in zip(heights, atoms.pbc, strict=True)]
        grid = np.stack(np.meshgrid(*[np.arange(-m, m + 1) for m in most], indexing="ij"), -1).reshape(-1, 3)
        shifts += [s for s in grid if s.any()]
    points = np.concatenate([atoms.positions + s @ cell for s in shifts])
    home = np.tile(np.arange(n), len(shifts))
    apart = np.linalg.norm(points[None] - atoms.positions[:, None], axis=-1)
    keep = (apart < reach).any(0)
    keep[:n] = True
    points, home, apart = points[keep], home[keep], apart[:, keep]
    rows = [np.flatnonzero((apart[i] < reach) & (np.arange(len(points)) != i)).astype(np.int32) for i in range(n)]
    types = np.array([type_map.index(s) for s in atoms.symbols], dtype=np.int32)
    return System(points, types[home], home, rows, np.arange(n, dtype=np.int32), first_type=int(types[0]))


@dataclass
class Answer:
    """What an evaluation came to; ghosts' forces and virials are brought home."""

    status: int
    said: str
    results: Results
    energies: np.ndarray = field(default_factory=lambda: np.zeros(0))
    forces: np.ndarray = field(default_factory=lambda: np.zeros(0))
    virials: np.ndarray = field(default_factory=lambda: np.zeros(0))

    @property
    def virial(self) -> np.ndarray:
        """(3, 3) eV."""
        return np.array(self.results.virial).reshape(3, 3)


class Model:
    """A model loaded through the interface of C."""

    def __init__(self, path: Path | str, precision: str = "float64", threads: int = 1) -> None:
        self.lib = bound()
        self.handle = c_void_p()
        options = Options(sizeof(Options), precision.encode(), threads)
        self.status = self.lib.dpa1_fast_load(str(path).encode(), byref(options), byref(self.handle))
        self.said = self.lib.dpa1_fast_error().decode() if self.status else ""

    def __del__(self) -> None:
        self.lib.dpa1_fast_free(self.handle)

    def info(self) -> Info:
        info = Info(sizeof(Info))
        assert self.lib.dpa1_fast_describe(self.handle, byref(info)) == DONE
        return info

    def evaluate(self, s: System, change: Callable[[AtomsGiven, Results], Any] | None = None) -> Answer:
        """``change`` may spoil what is given before the call."""
        counts = np.array([len(r) for r in s.rows] + [0] * (len(s.type) - len(s.rows)), dtype=np.int32)
        rows = (c_void_p * max(len(s.type), 1))(*[r.ctypes.data for r in s.rows])
        energies, forces, virials = np.zeros(len(s.type)), np.zeros((len(s.type), 3)), np.zeros((len(s.type), 3, 3))
        position, kinds, center = (np.ascontiguousarray(x) for x in (s.position, s.type, s.center))
        parameters = [None if x is None else np.ascontiguousarray(x, dtype=np.float64) for x in (s.frame, s.atomic)]
        given = AtomsGiven(
            sizeof(AtomsGiven), len(kinds), position.ctypes.data, kinds.ctypes.data, len(center), center.ctypes.data,
            counts.ctypes.data, ctypes.addressof(rows), s.mask, s.first_type,
            *[None if x is None else x.ctypes.data for x in parameters],
        )  # fmt: skip
        out = Results(sizeof(Results), energies.ctypes.data, forces.ctypes.data, virials.ctypes.data)
        if change:
            change(given, out)
        status = self.lib.dpa1_fast_evaluate(self.handle, byref(given), byref(out))
        said = self.lib.dpa1_fast_error().decode() if status else ""
        f, w = np.zeros((s.local, 3)), np.zeros((s.local, 3, 3))
        np.add.at(f, s.home, forces)
        np.add.at(w, s.home, virials)
        return Answer(status, said, out, energies[: s.local], f, w)


def bound() -> ctypes.CDLL:
    """The library, its functions with their types."""
    lib = library.library()
    lib.dpa1_fast_error.restype = c_char_p
    lib.dpa1_fast_load.argtypes = [c_char_p, POINTER(Options), POINTER(c_void_p)]
    lib.dpa1_fast_free.argtypes, lib.dpa1_fast_free.restype = [c_void_p], None
    lib.dpa1_fast_describe.argtypes = [c_void_p, POINTER(Info)]
    lib.dpa1_fast_type_name.argtypes, lib.dpa1_fast_type_name.restype = [c_void_p, c_int32], c_char_p
    lib.dpa1_fast_has_type.argtypes = [c_void_p, c_int32]
    lib.dpa1_fast_evaluate.argtypes = [c_void_p, POINTER(AtomsGiven), POINTER(Results)]
    return lib
