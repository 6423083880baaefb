"""Operands of PTX as Python expressions over a warp's registers."""

from __future__ import annotations

import re
from typing import Any

import numpy as np

from .number_types import BY_SIZE, F32, F64, REGISTERS, U32, U64, Type

SHARED = 1024
"""Where shared memory begins: a multiple of 1024, as swizzles ask for."""


def name_of(t: Type) -> str:
    """A type, as generated code calls it."""
    return "bool" if t is bool else np.dtype(t).name


def own_type(register: str) -> Type:
    """The type in which a register is kept."""
    return REGISTERS[re.match(r"%([a-z]+)", register)[1]][1]  # type: ignore[index]


class Operands:
    """Writes operands down; numbers become arrays of 32, kept in ``constants`` for the code that names them."""

    def __init__(self) -> None:
        self.constants: dict[str, Any] = {}

    def constant(self, value: int, t: Type) -> str:
        """The bits of a whole number in a type."""
        key = f"{name_of(t)}:{value}"
        if key not in self.constants:
            size = np.dtype(t).itemsize
            self.constants[key] = np.full(32, value & ((1 << 8 * size) - 1), dtype=f"u{size}").view(t)
        return f"K[{key!r}]"

    def value(self, token: str, t: Type) -> str:
        """An operand in a type."""
        if m := re.fullmatch(r"%(r|rd|p|rs)(\d+)", token):
            name, own = REGISTERS[m[1]]
            return f"{name}[{m[2]}]" if own is t else f"{name}[{m[2]}].view({name_of(t)})"
        if m := re.fullmatch(r"0([fd])([0-9A-F]+)", token):
            whole = {"f": U32, "d": U64}[m[1]]
            bits = int(m[2], 16)
            if t in (F32, F64) and np.dtype(t).itemsize != np.dtype(whole).itemsize:
                raise NotImplementedError(token)
            return self.constant(bits, t)
        if token == "global_smem":
            return self.constant(SHARED, t)
        if token == "%tid.x":
            return "warp.thread"
        if m := re.fullmatch(r"%(nctaid|ctaid)\.([xyz])", token):
            return f"machine.{m[1]}[{'xyz'.index(m[2])}]"
        return self.constant(int(token.rstrip("U"), 0), t)

    def stored(self, token: str, size: int) -> str:
        """An operand of a store, which may be wider than the ``size`` bytes that are stored."""
        t = BY_SIZE[size]
        own = own_type(token) if token.startswith("%") else t
        return self.value(token, t) if own is t else f"{self.value(token, own)}.astype({name_of(t)})"

    def address(self, token: str, t: Type) -> str:
        """``[register + offset]``."""
        m = re.fullmatch(r"(%\w+|global_smem)\s*(?:\+\s*(-?\d+))?", token.strip("[] "))
        if m is None:
            raise NotImplementedError(token)
        base, offset = self.value(m[1], t), int(m[2] or 0)
        return f"({base} + {self.constant(offset, t)})" if offset else base


def assignment(register: str, expression: str, mask: str | None) -> str:
    """A statement; only threads of the mask get the new number."""
    m = re.fullmatch(r"%(r|rd|p|rs)(\d+)", register)
    if m is None:
        raise NotImplementedError(register)
    target = f"{REGISTERS[m[1]][0]}[{m[2]}]"
    return f"{target} = {expression}" if mask is None else f"{target} = where({mask}, {expression}, {target})"
