"""The prepared model file: all that the compiled engine needs of a model, for programs without Python.

A head of 24 bytes: ``dpa1fast``, the version of the format, the CRC-32 of all that follows these 16 bytes (both 32
bits), the size of the file (64 bits). Then entries: kind (0: float64, 1: text in UTF-8), bytes of the name (both 32
bits), how many numbers or bytes (64 bits), the name and the contents, each filled up to whole 8 bytes. Little-endian.

``cpu/native/prepared_file.h`` reads it, and ``check_numbers.h`` checks that its entries belong together.
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Iterator, Sequence

import numpy as np
import torch
from torch import Tensor

from . import bases, chebyshev, merging
from .merging import Numbers
from .weights import Weights

MAGIC, VERSION = b"dpa1fast", 1

PRECISIONS = {"float64": torch.float64, "float32": torch.float32, "bfloat16": torch.bfloat16}
"""What a file can hold series and bases for; the matrices serve all of them."""


def encode(weights: Weights, types: Sequence[int], precisions: Sequence[str], producer: str) -> bytes:
    """The file's bytes.

    Args:
        weights: the model's. types: those that atoms will have, sorted; atoms of other types are refused.
        precisions: some of ``PRECISIONS``. producer: who writes it.

    Raises:
        ValueError: an activation function that the compiled engine does not have.
    """
    w = weights.double()
    body = [_text("producer", producer), _text("type_map", "\n".join(w.config.type_map))]
    body += [_numbers(name, x) for name, x in _about(w, types).items()]
    extras = w.config.fitting
    model = merging.of_model(w, bases.NEAREST, extras.numb_fparam + extras.numb_aparam_in + extras.dim_case_embd)
    body += [_numbers(f"model.{name}", x) for name, x in model.items()]
    for precision in precisions:
        body += [_numbers(f"{precision}.{name}", x) for name, x in _fitted(w, types, PRECISIONS[precision])]
    entries = b"".join(body)
    rest = struct.pack("<Q", 24 + len(entries)) + entries
    return MAGIC + struct.pack("<II", VERSION, zlib.crc32(rest)) + rest


def _about(w: Weights, types: Sequence[int]) -> Numbers:
    """Which types there are, what a pair of them does, and how parameters are scaled."""
    c, nothing = w.config, torch.zeros(0, dtype=torch.float64)
    active = torch.ones(c.ntypes)
    active[[t for t in c.atom_exclude_types if 0 <= t < c.ntypes]] = 0.0
    default = c.fitting.default_fparam
    return {
        "compiled": torch.tensor(list(types), dtype=torch.float64),
        "active": active,
        "fills": _without(c.ntypes, c.pair_exclude_types),
        "interacts": _without(c.ntypes, c.exclude_types),
        "fparam": nothing if w.fparam is None else torch.cat(w.fparam),
        "aparam": nothing if w.aparam is None or not c.fitting.numb_aparam_in else torch.cat(w.aparam),
        "case_embd": nothing if w.case_embd is None else w.case_embd,
        "default_fparam": nothing
        if default is None or w.fparam is None
        else torch.tensor(default, dtype=torch.float64),
    }


def _without(n: int, pairs: Sequence[tuple[int, int]]) -> Tensor:
    table = torch.ones(n, n)
    for a, b in pairs:
        if 0 <= a < n and 0 <= b < n:
            table[a, b] = table[b, a] = 0.0
    return table


def _fitted(w: Weights, types: Sequence[int], precision: torch.dtype) -> Iterator[tuple[str, Tensor]]:
    """Series of all pairs of types, and a basis around every type of centre, where there are such."""
    yield "types", torch.tensor(list(types), dtype=torch.float64)
    most, tolerance = bases.most_terms(w), chebyshev.TOLERANCE[precision]
    for center in types:
        pairs = [center * w.config.ntypes + t for t in types]
        found = {pair: bases.series_of_pair(w, pair, tolerance, most) for pair in pairs}
        series = [x for x in found.values() if x is not None]
        for pair, x in found.items():
            if x is not None:
                about = torch.tensor([x.lo, x.hi, x.c.shape[0], x.c.shape[1]], dtype=torch.float64)
                yield from ((f"series.{pair}.{k}", v) for k, v in {"about": about, "c": x.c, "slope": x.slope}.items())
        if len(types) <= bases.MOST_TYPES_AROUND and len(series) == len(pairs):
            numbers = bases.layer_numbers(w, center, types, series, precision) or {}
            yield from ((f"basis.{center}.{name}", x) for name, x in numbers.items())


def _numbers(name: str, values: Tensor) -> bytes:
    data = np.ascontiguousarray(values.double().numpy(), dtype="<f8").tobytes()
    return _entry(0, name, len(data) // 8, data)


def _text(name: str, text: str) -> bytes:
    data = text.encode()
    return _entry(1, name, len(data), data)


def _entry(kind: int, name: str, count: int, data: bytes) -> bytes:
    key = name.encode()
    return struct.pack("<IIQ", kind, len(key), count) + _filled(key) + _filled(data)


def _filled(data: bytes) -> bytes:
    return data + bytes(-len(data) % 8)
