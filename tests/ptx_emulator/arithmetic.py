"""Instructions that compute with registers alone, as Python expressions."""

from __future__ import annotations

from collections.abc import Callable

from .number_types import F32, F64, I32, I64, TYPES, U16, U32, U64, Type, unsigned
from .operands import Operands, name_of
from .parser import Instruction

Expression = tuple[str, Type]
"""What stands for an instruction's result, and its type."""

COMPARISONS = {"lt": "<", "le": "<=", "gt": ">", "ge": ">=", "eq": "==", "ne": "!="}
BITS = {"and": "&", "or": "|", "xor": "^"}
SIGNS = {"add": "+", "sub": "-", "mul": "*"}
FUNCTIONS = {"abs": "abs", "sqrt": "sqrt", "ex2": "exp2", "lg2": "log2"}
LARGEST = {
    ("max", True): "fmax", ("min", True): "fmin", ("max", False): "maximum", ("min", False): "minimum",
}  # fmt: skip
"""By name, and whether numbers are of floating point."""


def arithmetic(x: Instruction, o: Operands) -> Expression | None:
    """The result of an instruction with one destination; None for those that are none of these."""
    first = x.kind[0]
    if first in ("add", "sub", "mul", "mad", "fma"):
        return _sums_and_products(x, o)
    if first in ("mov", "cvt", "shfl"):
        return {"mov": _move, "cvt": _convert, "shfl": _shuffle}[first](x, o)
    handler: Callable[[Instruction, Operands, Type], Expression] | None = _HANDLERS.get(first)
    t = TYPES.get(x.kind[-1])
    return None if handler is None or t is None else handler(x, o, t)


def _operand(x: Instruction, o: Operands, k: int, t: Type) -> str:
    token = x.operands[k]
    if isinstance(token, list):
        raise NotImplementedError(x.text)
    return o.value(token, t)


def _sums_and_products(x: Instruction, o: Operands) -> Expression:
    kind, t = x.kind, TYPES[x.kind[-1]]
    if kind[0] == "fma" and t is F32:  # rounded once
        a, b, c = (_operand(x, o, k, F32) for k in (1, 2, 3))
        return f"({a}.astype(float64) * {b} + {c}).astype(float32)", F32
    if kind[0] == "fma" and t is F64:
        return f"multiply_add({', '.join(_operand(x, o, k, F64) for k in (1, 2, 3))})", F64
    if "wide" in kind:
        to = {U16: U32, I32: I64, U32: U64}[t]
        a, b = (f"{_operand(x, o, k, t)}.astype({name_of(to)})" for k in (1, 2))
        product = f"({a} * {b}).view({name_of(unsigned(to))})"
        return product if kind[0] == "mul" else f"({product} + {_operand(x, o, 3, unsigned(to))})", unsigned(to)
    if x.name == "mul.hi.u32":
        a, b = (f"{_operand(x, o, k, U32)}.astype(uint64)" for k in (1, 2))
        return f"(({a} * {b}) >> {o.constant(32, U64)}).astype(uint32)", U32
    if "hi" in kind:
        raise NotImplementedError(x.text)
    w = unsigned(t)
    a, b = (_operand(x, o, k, w) for k in (1, 2))
    if kind[0] in SIGNS:
        return f"({a} {SIGNS[kind[0]]} {b})", w
    return f"({a} * {b} + {_operand(x, o, 3, w)})", w


def _move(x: Instruction, o: Operands) -> Expression:
    t, source = TYPES[x.kind[-1]], x.operands[1]
    if isinstance(source, list):  # several registers become one
        bits = (64 if t is U64 else 32) // len(source)
        part = U32 if bits == 32 else U16
        terms = (
            f"({o.value(y, part)}.astype({name_of(t)}) << {o.constant(bits * j, t)})" for j, y in enumerate(source)
        )
        return " | ".join(terms), t
    if t is bool and not source.startswith("%"):
        return "TRUE" if int(source) else "FALSE", bool
    return o.value(source, t), t


def _shuffle(x: Instruction, o: Operands) -> Expression:
    _, lane, clamp, _ = x.operands[1:]
    value, how = _operand(x, o, 1, U32), x.kind[2]
    lane_, clamp_ = o.value(str(lane), I32), int(str(clamp), 0)
    if how == "bfly" and clamp_ == 31:
        return f"{value}[LANE ^ {lane_}]", U32
    if how == "idx":
        return f"from_other_lane({value}, {lane_}, {clamp_})", U32
    raise NotImplementedError(x.text)


def _convert(x: Instruction, o: Operands) -> Expression:
    special = {
        "cvt.rn.bf16.f32": ("to_bfloat16({})", F32, U16),
        "cvt.rn.f16.f32": ("to_float16({})", F32, U16),
        "cvt.f32.bf16": (f"({{}}.astype(uint32) << {o.constant(16, U32)})", U16, U32),
        "cvt.f32.f16": ("{}.view(float16).astype(float32)", U16, F32),
        "cvt.rna.tf32.f32": ("to_tf32({})", U32, U32),
    }
    if x.name in special:
        how, source, to = special[x.name]
        return how.format(_operand(x, o, 1, source)), to
    if x.name in ("cvt.rn.bf16x2.f32", "cvt.rn.f16x2.f32"):  # the first source is the upper half
        how = "to_bfloat16" if "bf16" in x.name else "to_float16"
        upper, lower = (f"{how}({_operand(x, o, k, F32)}).astype(uint32)" for k in (1, 2))
        return f"({upper} << {o.constant(16, U32)} | {lower})", U32
    to, source = (TYPES[p] for p in x.kind[1:] if p in TYPES)
    return f"{_operand(x, o, 1, source)}.astype({name_of(to)})", to


# --- one handler a name -----------------------------------------------------------------------------------------------


def _compare(x: Instruction, o: Operands, t: Type) -> Expression:
    a, b, how = _operand(x, o, 1, t), _operand(x, o, 2, t), x.kind[1]
    if how in ("num", "nan"):
        return f"{'~' if how == 'num' else ''}(isnan({a}) | isnan({b}))", bool
    if how == "neu":  # or one is NaN
        return f"~({a} == {b})", bool
    return f"({a} {COMPARISONS[how]} {b})", bool


def _select(x: Instruction, o: Operands, t: Type) -> Expression:
    return f"where({_operand(x, o, 3, bool)}, {_operand(x, o, 1, t)}, {_operand(x, o, 2, t)})", t


def _bitwise(x: Instruction, o: Operands, t: Type) -> Expression:
    return f"({_operand(x, o, 1, t)} {BITS[x.kind[0]]} {_operand(x, o, 2, t)})", t


def _not(x: Instruction, o: Operands, t: Type) -> Expression:
    return f"(~{_operand(x, o, 1, t)})", t


def _shift(x: Instruction, o: Operands, t: Type) -> Expression:
    value, by, left = _operand(x, o, 1, t), str(x.operands[2]), x.kind[0] == "shl"
    if by.startswith("%"):
        return f"{'shifted_left' if left else 'shifted_right'}({value}, {o.value(by, U32)})", t
    return f"({value} {'<<' if left else '>>'} {o.constant(int(by, 0), t)})", t


def _bit_field(x: Instruction, o: Operands, t: Type) -> Expression:
    return f"bit_field({_operand(x, o, 1, t)}, {int(str(x.operands[2]))}, {int(str(x.operands[3]))})", t


def _permute(x: Instruction, o: Operands, t: Type) -> Expression:
    return f"permuted({', '.join(_operand(x, o, k, U32) for k in (1, 2, 3))})", U32


def _negative(x: Instruction, o: Operands, t: Type) -> Expression:
    w = unsigned(t)
    value = _operand(x, o, 1, w)
    return f"(-{value})" if t in (F32, F64) else f"(~{value} + {o.constant(1, w)})", w


def _larger(x: Instruction, o: Operands, t: Type) -> Expression:
    function = LARGEST[x.kind[0], t in (F32, F64)]
    return f"{function}({_operand(x, o, 1, t)}, {_operand(x, o, 2, t)})", t


def _divide(x: Instruction, o: Operands, t: Type) -> Expression:
    if t not in (F32, F64):
        raise NotImplementedError(x.text)
    return f"({_operand(x, o, 1, t)} / {_operand(x, o, 2, t)})", t


def _inverse(x: Instruction, o: Operands, t: Type) -> Expression:
    value = _operand(x, o, 1, t)
    return f"(1 / {f'sqrt({value})' if x.kind[0] == 'rsqrt' else value}).astype({name_of(t)})", t


def _function(x: Instruction, o: Operands, t: Type) -> Expression:
    return f"{FUNCTIONS[x.kind[0]]}({_operand(x, o, 1, t)})", t


_HANDLERS: dict[str, Callable[[Instruction, Operands, Type], Expression]] = {
    "setp": _compare, "selp": _select, "not": _not, "shl": _shift, "shr": _shift, "bfe": _bit_field,
    "prmt": _permute, "neg": _negative, "max": _larger, "min": _larger, "div": _divide, "rcp": _inverse,
    "rsqrt": _inverse, **dict.fromkeys(BITS, _bitwise), **dict.fromkeys(FUNCTIONS, _function),
}  # fmt: skip
