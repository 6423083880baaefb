"""numpy's types by short names, and by those of PTX."""

from __future__ import annotations

from typing import Any

import numpy as np

U16, U32, U64 = np.uint16, np.uint32, np.uint64
I16, I32, I64 = np.int16, np.int32, np.int64
F16, F32, F64 = np.float16, np.float32, np.float64

Type = Any
"""One of these, or bool for predicates."""

TYPES: dict[str, Type] = {
    "u16": U16, "b16": U16, "s16": I16, "u32": U32, "b32": U32, "s32": I32, "f32": F32,
    "u64": U64, "b64": U64, "s64": I64, "f64": F64, "pred": bool,
}  # fmt: skip

REGISTERS: dict[str, tuple[str, Type]] = {"r": ("r", U32), "rd": ("d", U64), "p": ("p", bool), "rs": ("h", U16)}
"""PTX's names of registers → a warp's list of them, and the type in which they are kept."""

BY_SIZE: dict[int, Type] = {2: U16, 4: U32, 8: U64}

LANE = np.arange(32)
"""The threads of a warp."""
ALL = np.ones(32, dtype=bool)


def unsigned(t: Type) -> Type:
    """The type in which whole numbers are added and multiplied, so that they wrap around."""
    return {I32: U32, I64: U64}.get(t, t)
