"""The compiled passes of training: moments from neighbours, and gradients back to neighbours or to parameters.

``native/training.h`` says what a pass is, ``dpa1_fast/train/fast.py`` what is made of passes. Shapes: n atoms, e
neighbours (edges), M = neuron[-1], P pairs of types at hand.
"""

from __future__ import annotations

import ctypes
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from .library import check, library

Pair = tuple[Tensor, Tensor | None]
"""A value, and its slope along the direction in question where there is one."""


@dataclass(frozen=True)
class Shape:
    """What a model is besides its numbers; ``activation`` is what ``prepare.merging.activation_code`` gives."""

    activation: Tensor
    widths: tuple[int, ...]
    steps: tuple[bool, ...]
    attn: int
    layers: int
    smooth: bool
    dotr: bool
    normalize: bool
    strip: bool
    scale: float
    ln_eps: float

    def numbers(self) -> list[float]:
        """In the order of ``shape_of`` of native/training.cpp."""
        head = [*self.activation.tolist(), self.attn, self.layers, self.smooth, self.dotr, self.normalize, self.strip]
        return [*map(float, head), self.scale, self.ln_eps, len(self.widths), *self.widths, *map(float, self.steps)]

    @property
    def numbers_per_neighbor(self) -> int:
        """About how many numbers a pass keeps for each neighbour, besides one per pair of them and layer."""
        return 3 * sum(self.widths) + self.layers * (4 * self.attn + 3 * self.widths[-1])


@dataclass(frozen=True)
class Tables:
    """Small functions of the parameters, by pair of types: (P, widths[0]), the same or None, (P, M) or None."""

    first_types: Tensor
    first_returns: Tensor | None
    factors: Tensor | None

    def all(self) -> tuple[Tensor | None, ...]:
        """In the order of ``TrainingRequest``."""
        return self.first_types, self.first_returns, self.factors


@dataclass(frozen=True)
class Neighbors:
    """What a pass reads of each neighbour: row (e, 4), sw (e,), unit (e, 3), with slopes for dual numbers.

    Attributes:
        first_edge (n + 1,) int64; first_pair, pair (e,) int32: rows of the tables; empty (n,) float64: the logit that
        stands for all empty slots.
    """

    first_edge: Tensor
    first_pair: Tensor
    pair: Tensor
    empty: Tensor
    row: Pair
    sw: Pair
    unit: Pair


class _Request(ctypes.Structure):
    _fields_ = [
        ("atoms", ctypes.c_int64),
        ("first_edge", ctypes.c_void_p),
        ("first_pair", ctypes.c_void_p),
        ("pair", ctypes.c_void_p),
        ("row", ctypes.c_void_p * 2),
        ("sw", ctypes.c_void_p * 2),
        ("unit", ctypes.c_void_p * 2),
        ("empty", ctypes.c_void_p),
        ("tables", ctypes.c_void_p * 3),
        ("table_rows", ctypes.c_int64 * 3),
    ]


def _pointers(tensors: Sequence[Tensor | None]) -> ctypes.Array[ctypes.c_void_p]:
    return (ctypes.c_void_p * len(tensors))(*(None if t is None else t.data_ptr() for t in tensors))


class NativeTraining:
    """One model's parameters in compiled code. Not for several threads at once.

    Args:
        shape: of the model. dtype: float32 or float64, of every tensor that a pass reads or writes.
        build: see ``library.library``.

    Raises:
        OSError: the engine was not compiled. ValueError: a shape that it does not know.
    """

    def __init__(self, shape: Shape, dtype: torch.dtype, build: str | None = None) -> None:
        if dtype not in (torch.float32, torch.float64):
            raise ValueError(f"training in {dtype} is not possible; use float32 or float64")
        self._lib = _declared(library(build))
        self.shape, self.dtype, self.numbers = shape, dtype, shape.numbers()
        numbers = torch.tensor(self.numbers, dtype=torch.float64)
        self._handle = self._lib.dpa1_training_new(int(dtype == torch.float64), numbers.data_ptr(), len(numbers))
        if self._handle is None:
            raise ValueError(self._lib.dpa1_error().decode())
        self.size = int(self._lib.dpa1_training_size(self._handle))

    def __del__(self) -> None:
        if getattr(self, "_handle", None):
            self._lib.dpa1_training_free(self._handle)

    def set(self, flat: Tensor) -> None:
        """Takes the parameters of embedding and attention, (size,)."""
        if flat.shape != (self.size,):
            raise ValueError(f"{tuple(flat.shape)} parameters; the model has {self.size}")
        self._check(self._lib.dpa1_training_set(self._handle, self._whole(flat).data_ptr()))

    def forward(
        self, near: Neighbors, tables: Tables, start: int, stop: int, slopes: bool, threads: int
    ) -> tuple[Tensor, ...]:
        """X = Σ_j g_j ⊗ row_j of atoms [start, stop), and its slope with ``slopes``, each (stop − start, 4, M)."""
        kept = [self._whole(t) if t is not None else None for t in tables.all()]
        inputs = [[None if t is None else self._whole(t) for t in pair] for pair in (near.row, near.sw, near.unit)]
        first_edge, empty = near.first_edge[start : stop + 1].contiguous(), near.empty[start:stop].contiguous()
        request = _Request(
            stop - start, first_edge.data_ptr(), near.first_pair.data_ptr(), near.pair.data_ptr(),
            *map(_pointers, inputs), empty.data_ptr(), _pointers(kept),
            (ctypes.c_int64 * 3)(*(0 if t is None else len(t) for t in kept)),
        )  # fmt: skip
        x = [torch.zeros(stop - start, 4, self.shape.widths[-1], dtype=self.dtype) for _ in range(1 + slopes)]
        self._kept = kept, inputs, first_edge, empty, near, request  # until the backward has read them
        self._check(
            self._lib.dpa1_training_forward(
                self._handle, ctypes.byref(request), int(slopes), threads, _pointers([*x, None][:2])
            )
        )
        return tuple(x)

    def backward_inputs(self, g_x: Tensor, out: Sequence[Tensor]) -> None:
        """After a plain forward: from dE/dX to dE/d(row, sw, unit), added to ``out``, over all edges of the batch."""
        g_x = self._whole(g_x)
        self._check(self._lib.dpa1_training_backward_inputs(self._handle, _pointers([g_x]), _pointers(out)))

    def backward_parameters(self, g_x: Tensor, g_slope: Tensor, flat: Tensor, tables: Sequence[Tensor | None]) -> None:
        """After a dual forward: from the value and the slope of dE/dX to the parameters' gradients, added to ``flat``
        (size,) and to ``tables``."""
        pair = [self._whole(g_x), self._whole(g_slope)]
        self._check(
            self._lib.dpa1_training_backward_parameters(
                self._handle, _pointers(pair), flat.data_ptr(), _pointers(tables)
            )
        )

    def _whole(self, t: Tensor) -> Tensor:
        return t.detach().to(self.dtype).contiguous()

    def _check(self, outcome: int) -> None:
        check(self._lib, outcome)


def _declared(lib: ctypes.CDLL) -> ctypes.CDLL:
    pointer = ctypes.c_void_p
    lib.dpa1_training_new.argtypes = [ctypes.c_int, pointer, ctypes.c_int64]
    lib.dpa1_training_new.restype = pointer
    lib.dpa1_training_free.argtypes, lib.dpa1_training_free.restype = [pointer], None  # type: ignore[assignment]
    lib.dpa1_training_size.argtypes, lib.dpa1_training_size.restype = [pointer], ctypes.c_int64  # type: ignore[assignment]
    lib.dpa1_training_set.argtypes = [pointer, pointer]
    lib.dpa1_training_forward.argtypes = [pointer, pointer, ctypes.c_int, ctypes.c_int, pointer]
    lib.dpa1_training_backward_inputs.argtypes = [pointer] * 3
    lib.dpa1_training_backward_parameters.argtypes = [pointer] * 4
    return lib
