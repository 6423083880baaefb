"""What a kernel compiles to: registers, stack, shared memory and instructions by class, without a card.

Triton compiles for any architecture; ``cuobjdump`` and ``nvdisasm`` of its wheel read NVIDIA's binaries, and AMD's
assembly says it in its own text.
"""

from __future__ import annotations

import re
import tempfile
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bench.compiled.launches import Launch
from dpa1_fast.kernels.triton.compiling.binary import mistake, needs, tool

TENSOR_SHAPE = {"16816": (16, 8, 16), "1688": (16, 8, 8), "1684": (16, 8, 4), "884": (8, 8, 4)}
"""Rows, columns and inner dimension of one product of a warp, as SASS spells them."""

CLASSES = {
    "tensor": r"[HIDQO]MMA|HGMMA|IGMMA|QGMMA|UTC\w*MMA",
    "fp64": r"D(FMA|ADD|MUL|SETP|MNMX)",
    "fp32": r"F(FMA|ADD|MUL|SETP|SEL|MNMX|SET|CHK|SWZADD)\w*|H(FMA|ADD|MUL|SETP|MNMX)\w*",
    "special": r"MUFU",
    "global": r"LDG\w*|STG|LD|ST|ATOMG?|RED|LDGSTS|UTMA\w+|UBLKCP",
    "shared": r"LDS|STS|LDSM|STSM|ATOMS|MOVM",
    "tensor_memory": r"LDTM\w*|STTM\w*|LDT|STT|UTCCP|UTCATOMSWS",
    "local": r"LDL|STL",
    "barrier": r"BAR|SYNCS|MEMBAR|DEPBAR|LDGDEPBAR|FENCE|WARPGROUP|ERRBAR|CCTL\w*|ARRIVES|UTCBAR",
    "shuffle": r"SHFL|REDUX|VOTEU?|MATCH",
    "convert": r"F2F\w*|F2I|I2F\w*|I2I\w*|F2IP",
    "control": r"BRA|BRX|EXIT|RET|CALL|BSSY|BSYNC|WARPSYNC|YIELD|JMP|BREAK|BMOV|NANOSLEEP|ELECT|ENDCOLLECTIVE",
}
AMD_CLASSES = {
    "tensor": r"v_mfma_\w+|v_smfma\w+",
    "fp64": r"v_\w+_f64\w*",
    "special": r"v_(exp|log|rcp|rsq|sqrt|sin|cos)_\w+",
    "convert": r"v_cvt_\w+",
    "fp32": r"v_(pk_)?(fma|fmac|fmaak|fmamk|mul|add|sub|subrev|max|min|max3|cmp\w*|div\w*|ldexp)_(f32|f16|bf16)\w*",
    "global": r"(global|buffer|flat)_(load|store|atomic)\w*",
    "local": r"scratch_\w+",
    "shared": r"ds_(read|write|load|store)\w*",
    "shuffle": r"ds_(bpermute|permute|swizzle)\w*|v_(readlane|writelane|readfirstlane)\w*|v_permlane\w+",
    "barrier": r"s_barrier\w*|s_waitcnt\w*",
    "control": r"s_(cbranch|branch|endpgm|setpc|swappc|nop|sleep)\w*",
    "scalar": r"s_\w+",
}
OUTER = {"_attention_scores_bwd_kernel": 1}
"""Loops that walk over blocks of rows, around all products."""
NOTHING = ("NOP", "s_nop")


def classify(names: Counter[str], classes: dict[str, str]) -> dict[str, int]:
    """How many instructions are of each class; what none claims counts as integer."""
    out = dict.fromkeys([*classes, "integer"], 0)
    for name, count in names.items():
        if name in NOTHING:
            continue
        stem = name.split(".")[0]
        out[next((k for k, pattern in classes.items() if re.fullmatch(pattern, stem)), "integer")] += count
    return out


def _nvidia_shape(name: str) -> tuple[int, int, int] | None:
    if found := re.search(r"\.(\d+)x(\d+)x(\d+)", name):
        # Four warps issue one product together.
        m, n, k = (int(x) for x in found.groups())
        return m // 4, n, k
    parts = name.split(".")
    return TENSOR_SHAPE.get(parts[1]) if len(parts) > 1 else None


def _amd_shape(name: str) -> tuple[int, int, int] | None:
    found = re.search(r"_(\d+)x(\d+)x(\d+)", name)
    return (int(found[1]), int(found[2]), int(found[3])) if found else None


@dataclass(frozen=True)
class Instruction:
    """Its name, and where it branches to, if it does."""

    name: str
    target: str | None


def loops(code: list[Instruction], labels: dict[str, int]) -> list[tuple[int, int]]:
    """First and last instruction of each loop: a label, and the last branch back to it."""
    out: dict[int, int] = {}
    for i, instruction in enumerate(code):
        start = labels.get(instruction.target or "", len(code))
        if start < i:  # NVIDIA's kernels end in a trap, a branch to itself
            out[start] = i
    return sorted(out.items())


def in_loops(code: list[Instruction], labels: dict[str, int], tensor: str, outer: int) -> list[bool]:
    """Which instructions are in a loop over products, the ``outer`` outermost loops not counted."""
    found = loops(code, labels)
    out = [False] * len(code)
    for i, instruction in enumerate(code):
        if re.fullmatch(tensor, instruction.name.split(".")[0]):
            around = sorted((b - a, a, b) for a, b in found if a <= i <= b)
            if len(around) > outer:
                _, a, b = around[0]
                out[a : b + 1] = [True] * (b + 1 - a)
    return out


@dataclass
class Nest:
    """A loop, or a whole kernel.

    Attributes:
        own: what stands in it and in no loop inside. inside: those loops, in their order.
    """

    own: Counter[str]
    inside: list[Nest]


def nest_of(code: list[Instruction], labels: dict[str, int]) -> Nest:
    """A kernel's loops as they stand in one another."""

    def build(first: int, last: int, found: list[tuple[int, int]]) -> Nest:
        outer: list[tuple[int, int]] = []
        for a, b in found:
            if not outer or a > outer[-1][1]:
                outer.append((a, b))
        inside = [build(a, b, [x for x in found if a <= x[0] and x[1] <= b and x != (a, b)]) for a, b in outer]
        own = Counter(x.name for x in code[first : last + 1])
        for a, b in outer:
            own.subtract(x.name for x in code[a : b + 1])
        return Nest(+own, inside)

    return build(0, len(code) - 1, loops(code, labels))


def _nvidia(compiled: Any, outer: int) -> dict[str, Any]:
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "kernel.cubin"
        file.write_bytes(compiled.asm["cubin"])
        text = tool("nvdisasm", "-c", str(file))
    code, labels = _read(text, NVIDIA_LINE, r"^(\.L\w+):", r"`\((\.L\w+)\)")
    return _summary(code, labels, CLASSES, _nvidia_shape, outer)


def _amd(compiled: Any, outer: int) -> dict[str, Any]:
    text = compiled.asm["amdgcn"]
    code, labels = _read(text[: text.find(".amdgpu_metadata")], AMD_LINE, r"^(\.LBB\w+):", r"(\.LBB\w+)")
    return _summary(code, labels, AMD_CLASSES, _amd_shape, outer)


NVIDIA_LINE = re.compile(r"^\s*/\*[0-9a-f]{4,}\*/\s+(?:@!?U?P\w+\s+)?([A-Z][A-Z0-9_]*(?:\.[A-Za-z0-9_]+)*)(.*)")
AMD_LINE = re.compile(r"^\s+((?:v|s|ds|global|buffer|flat|scratch)_\w+)(.*)")


def _read(text: str, line: re.Pattern[str], label: str, target: str) -> tuple[list[Instruction], dict[str, int]]:
    code: list[Instruction] = []
    labels: dict[str, int] = {}
    for row in text.splitlines():
        if found := re.match(label, row):
            labels[found[1]] = len(code)
        elif found := line.match(row):
            to = re.search(target, found[2]) if "BRA" in found[1] or "branch" in found[1] else None
            code.append(Instruction(found[1], to[1] if to else None))
    return code, labels


def _summary(
    code: list[Instruction], labels: dict[str, int], classes: dict[str, str], shape_of: Any, outer: int
) -> dict[str, Any]:
    inside = in_loops(code, labels, classes["tensor"], outer)
    every = Counter(i.name for i in code)
    looped = Counter(i.name for i, x in zip(code, inside, strict=True) if x)
    tensor = {n: shape_of(n) for n in every if re.fullmatch(classes["tensor"], n.split(".")[0])}

    def flops(names: Counter[str]) -> int:
        return sum(2 * s[0] * s[1] * s[2] * names[n] for n, s in tensor.items() if s is not None)

    def table(nest: Nest) -> dict[str, Any]:
        return {"instructions": classify(nest.own, classes), "inside": [table(x) for x in nest.inside]}

    known = all(tensor.values())
    return {
        "nest": table(nest_of(code, labels)),
        "instructions": classify(every, classes),
        "instructions_in_loops": classify(looped, classes),
        "tensor_core_products": sum(every[n] for n in tensor),
        "tensor_core_kind": ", ".join(sorted({_kind(n) for n in tensor})),
        "tensor_flops": flops(every) if known else 0,
        "tensor_flops_in_loops": flops(looped) if known else 0,
    }


def _kind(name: str) -> str:
    stem = name.split(".")[0]
    kind = {"HMMA": "mma.sync", "DMMA": "mma.sync", "HGMMA": "wgmma"}.get(stem)
    if kind is None:
        kind = "mfma" if stem.startswith("v_") else "tcgen05.mma" if stem.startswith("UTC") else stem
    return f"{kind} {name}"


SHAPE = r"tensor<(\d+)x(\d+)x\w+"


def dot_shapes(ttir: str) -> list[tuple[int, int, int]]:
    """(m, n, k) of every tl.dot of a kernel, as written."""
    found = re.findall(rf"tt\.dot .*?: {SHAPE}.*?\* {SHAPE}", ttir)
    return sorted({(int(m), int(n), int(k)) for m, k, _, n in found})


def compiled(launch: Launch, function: Any) -> Any:
    """What Triton compiles a launch of a kernel to."""
    import triton
    from triton.backends.compiler import GPUTarget
    from triton.compiler import ASTSource

    amd = launch.architecture.startswith("gfx")
    target = GPUTarget("hip", launch.architecture, 64) if amd else GPUTarget("cuda", int(launch.architecture[3:]), 32)
    attributes = {}
    for i, p in enumerate(function.params):
        of_this = [["tt.divisibility", 16]] if p.name in launch.aligned else []
        if amd and launch.signature[p.name].startswith("*"):
            of_this = [*of_this, ["tt.pointer_range", 32]]
        if of_this:
            attributes[(i,)] = of_this
    places = {p.name: i for i, p in enumerate(function.params)}
    constants = {(places[k],): tuple(v) if isinstance(v, list) else v for k, v in launch.constants.items()}
    source = ASTSource(fn=function, signature=launch.signature, constexprs=constants, attrs=attributes)
    return triton.compile(source, target=target, options=launch.options)


def measure(launch: Launch) -> dict[str, Any]:
    """Compiles a launch and reads what came out; ``error`` where the compiler refuses, or has made a mistake."""
    import triton
    from triton.compiler.errors import CompilationError

    from dpa1_fast.kernels.triton.stand_ins import kernels

    amd = launch.architecture.startswith("gfx")
    try:
        binary = compiled(launch, kernels()[launch.kernel])
    except (CompilationError, RuntimeError, ValueError, triton.runtime.errors.OutOfResources) as e:
        return {"error": " ".join(str(e).split())[-300:]}
    if wrong := mistake(binary.asm.get("ptx", "")):
        return {"error": f"the compiler's mistake: {wrong} runs over into the number beside it"}
    ttgir = binary.asm["ttgir"]
    return (_amd if amd else _nvidia)(binary, OUTER.get(launch.kernel, 0)) | {
        **needs(binary),
        "dots": len(re.findall(r"tt\.dot |warp_group_dot |tc_gen5_mma ", ttgir)),
        "shapes": dot_shapes(binary.asm["ttir"]),
    }
