"""Makes a Python function of each segment of a kernel: numpy over registers, calls of the machine for the rest.

A function takes a warp, the machine and, where the warp's threads have parted, which of them run; it gives the next
segment, ``EXIT``, or None where the machine has noted where threads went.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

import numpy as np

from . import fragments, operations
from .arithmetic import arithmetic
from .number_types import ALL, LANE, TYPES, U16, U32, U64, Type
from .operands import Operands, assignment, name_of, own_type
from .parser import Instruction, Operand, Program

EXIT = -1

NAMES: dict[str, Any] = {
    "where": np.where, "isnan": np.isnan, "abs": np.abs, "sqrt": np.sqrt, "exp2": np.exp2, "log2": np.log2,
    "fmax": np.fmax, "fmin": np.fmin, "maximum": np.maximum, "minimum": np.minimum,
    "LANE": LANE, "TRUE": ALL, "FALSE": ~ALL, "bool": bool,
    **{name: vars(operations)[name] for name in (
        "bit_field", "permuted", "shifted_left", "shifted_right", "to_bfloat16", "to_float16", "to_tf32",
        "from_other_lane", "multiply_add",
    )},
    **{f"mma_{how}": fragments.multiply_add(how) for how in ("tf32", "bf16", "f16")},
    **{np.dtype(t).name: t for t in (*TYPES.values(), np.float16) if t is not bool},
}  # fmt: skip
"""What generated code may name."""


def _listed(operand: Operand) -> list[str]:
    return operand if isinstance(operand, list) else [operand]


def _one(operand: Operand) -> str:
    if isinstance(operand, list):
        raise NotImplementedError(operand)
    return operand


def _precision(name: str) -> str:
    return "tf32" if "tf32" in name else "bf16" if "bf16" in name else "f16"


class Translator:
    """The functions of a program's segments, made when they are first needed."""

    def __init__(self, program: Program) -> None:
        self.program, self.operands = program, Operands()
        self._functions: dict[tuple[int, bool], Callable[..., int | None]] = {}

    def segment(self, k: int, masked: bool) -> Callable[..., int | None]:
        """A segment's function. masked: for part of a warp's threads."""
        if (k, masked) not in self._functions:
            lines = ["def run(warp, machine, mask):", " r, d, p, h = warp.r, warp.d, warp.p, warp.h"]
            for i in self.program.segment(k):
                lines += [f" {line}" for line in self._statements(self.program.instructions[i], i, k, masked)]
            lines.append(f" return {k + 1}")
            space = {"K": self.operands.constants, **NAMES}
            exec(compile("\n".join(lines), f"{self.program.name}[{k}]", "exec"), space)
            self._functions[k, masked] = space["run"]
        return self._functions[k, masked]

    # --- statements ---------------------------------------------------------------------------------------------------

    def _statements(self, x: Instruction, i: int, k: int, masked: bool) -> list[str]:
        """One instruction, number i, in segment k."""
        control = self._control(x, i, k)
        if control is not None:
            return [control]
        mask = None if x.predicate is None else f"{'~' if x.predicate[1] else ''}p[{x.predicate[0]}]"
        if masked:
            mask = "mask" if mask is None else f"(mask & {mask})"
        for translate in (self._memory, self._products):
            statements = translate(x, i, mask)
            if statements is not None:
                return statements
        return self._registers(x, mask)

    def _control(self, x: Instruction, i: int, k: int) -> str | None:
        """Branches, returns and barriers: the last of a segment."""
        condition = None if x.predicate is None else f"{'~' if x.predicate[1] else ''}p[{x.predicate[0]}]"
        if x.name.startswith("bra"):
            target = self.program.segment_at[_one(x.operands[0])]
            if condition is None:
                return f"return {target}"
            return f"return machine.branch(warp, {condition}, {target}, {k + 1}, mask)"
        if x.name == "ret":
            return f"return {EXIT}" if condition is None else f"return machine.leave(warp, {condition}, {k + 1}, mask)"
        if x.name == "bar.sync":
            if x.operands != ["0"] or condition:
                raise NotImplementedError(x.text)
            return f"return machine.at_barrier(warp, {k + 1}, mask, {i})"
        return "warp.syncs += 1" if x.name == "bar.warp.sync" else None

    def _memory(self, x: Instruction, i: int, mask: str | None) -> list[str] | None:
        """Loads and stores."""
        m = re.match(r"(ld|st)\.(?:volatile\.)?(global|shared)", x.name)
        if m:
            where, t = f"machine.{m[2]}_memory", U64 if m[2] == "global" else U32
            vector = re.search(r"\.v([248])", x.name)
            count, size = int(vector[1]) if vector else 1, int(x.kind[-1][1:]) // 8
            if m[1] == "ld":
                address = self.operands.address(_one(x.operands[1]), t)
                names = _listed(x.operands[0])
                return self._received(f"{where}.load(warp, {address}, {size}, {count}, {mask}, {i})", names, mask)
            address = self.operands.address(_one(x.operands[0]), t)
            values = ", ".join(self.operands.stored(name, size) for name in _listed(x.operands[1]))
            return [f"{where}.store(warp, {address}, {size}, {count}, ({values},), {mask}, {i})"]
        if x.name.startswith(("ldmatrix", "stmatrix")):
            count, turned = int(re.search(r"\.x(\d)", x.name)[1]), ".trans" in x.name  # type: ignore[index]
            if x.name.startswith("ldmatrix"):
                address = self.operands.address(_one(x.operands[1]), U32)
                call = f"machine.shared_memory.load_matrices(warp, {address}, {count}, {turned}, {i})"
                return self._received(call, _listed(x.operands[0]), mask)
            address = self.operands.address(_one(x.operands[0]), U32)
            values = self._tuple(x.operands[1])
            return [f"machine.shared_memory.store_matrices(warp, {address}, {count}, {turned}, {values}, {i})"]
        return None

    def _products(self, x: Instruction, i: int, mask: str | None) -> list[str] | None:
        """Tensor cores."""
        how = _precision(x.name)
        if x.name.startswith("mma.sync"):
            if ("m16n8k8." if how == "tf32" else "m16n8k16.") not in x.name:
                raise NotImplementedError(x.text)
            to, *sources = x.operands
            call = f"mma_{how}({', '.join(self._tuple(y) for y in sources)})"
            return self._received(call, _listed(to), mask)
        if x.name.startswith("wgmma.mma_async"):
            return [self._group_product(x, i, mask, how)]
        if x.name.startswith("wgmma.fence"):
            return []
        if x.name.startswith("wgmma.commit"):
            return ["machine.group_products.commit(warp)"]
        if x.name.startswith("wgmma.wait"):
            return [f"machine.group_products.wait(warp, {int(_one(x.operands[0]))})"]
        return ["machine.shared_memory.fence(warp)"] if x.name.startswith("fence.proxy.async") else None

    def _group_product(self, x: Instruction, i: int, mask: str | None, how: str) -> str:
        """wgmma: registers or a descriptor times what another descriptor names."""
        to, a, b, scale, *flags = x.operands
        signs, turned = flags[:2], [int(_one(y)) for y in flags[2:]]
        if signs != ["1", "1"] or mask is not None:
            raise NotImplementedError(x.text)
        turned = [0, *turned] if isinstance(a, list) else turned
        turned = [*turned, 0, 0][:2]
        _, n, k = (int(y) for y in re.search(r"m(\d+)n(\d+)k(\d+)", x.name).groups())  # type: ignore[union-attr]
        left = self._tuple(a) if isinstance(a, list) else self.operands.value(a, U64)
        right, scale = self.operands.value(_one(b), U64), _one(scale)
        adds = self.operands.value(scale, bool) if scale.startswith("%") else str(bool(int(scale)))
        places = [int(y[2:]) for y in _listed(to)]
        return (
            f"machine.group_products.start(warp, {places}, {left}, {right}, {adds}, {n}, {k}, {how!r}, "
            f"{tuple(turned)}, {i})"
        )

    def _registers(self, x: Instruction, mask: str | None) -> list[str]:
        """Everything else."""
        if x.name.startswith("ld.param"):
            to = _one(x.operands[0])
            number = re.search(r"param_(\d+)", _one(x.operands[1]))[1]  # type: ignore[index]
            t: Type = U64 if to.startswith("%rd") else U32
            return [assignment(to, f"machine.parameter({number}, {name_of(t)})", mask)]
        if x.name.startswith("mov") and isinstance(x.operands[0], list):  # one register becomes several
            whole, names = TYPES[x.kind[-1]], x.operands[0]
            bits = (64 if whole is U64 else 32) // len(names)
            part, source = U32 if bits == 32 else U16, self.operands.value(_one(x.operands[1]), whole)
            return [
                assignment(
                    name, f"({source} >> {self.operands.constant(bits * j, whole)}).astype({name_of(part)})", mask
                )
                for j, name in enumerate(names)
                if name != "_"
            ]
        found = arithmetic(x, self.operands)
        if found is None:
            raise NotImplementedError(x.text)
        expression, t = found
        to = _one(x.operands[0])
        own = own_type(to)
        return [assignment(to, expression if own is t else f"({expression}).view({name_of(own)})", mask)]

    def _tuple(self, operand: Operand) -> str:
        return f"({', '.join(self.operands.value(y, U32) for y in _listed(operand))},)"

    def _received(self, call: str, names: list[str], mask: str | None) -> list[str]:
        return [f"x = {call}", *(assignment(name, f"x[{j}]", mask) for j, name in enumerate(names))]
