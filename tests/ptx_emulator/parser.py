"""PTX as instructions, in segments that end at branches, barriers and accesses to memory."""

from __future__ import annotations

import re
from collections import Counter
from dataclasses import dataclass

Operand = str | list[str]
"""A register, number or address; or several in braces."""

ENDS = ("bra", "ret", "bar.sync")
"""Where warps part, end or wait."""
MEMORY = ("ld.global", "st.global", "st.shared", "ld.shared", "stmatrix", "ldmatrix", "wgmma")
"""Where warps may change places."""


@dataclass(frozen=True)
class Instruction:
    """One line. place: "file:line" of the source, and where it is inlined. predicate: register, and whether negated."""

    text: str
    place: str
    name: str
    operands: list[Operand]
    predicate: tuple[int, bool] | None

    @property
    def kind(self) -> list[str]:
        """The name's parts."""
        return self.name.split(".")


def parse(text: str, place: str) -> Instruction:
    """One instruction from its line."""
    m = re.match(r"(?:@(!?)%p(\d+)\s+)?([a-z][\w.:]*)\s*(.*?)\s*;?$", text)
    if m is None:
        raise SyntaxError(text)
    predicate = None if m[2] is None else (int(m[2]), m[1] == "!")
    return Instruction(text, place, m[3], _operands(m[4]), predicate)


def _operands(text: str) -> list[Operand]:
    out: list[Operand] = []
    depth, current = 0, ""
    for c in text + ",":
        depth += (c in "{[") - (c in "}]")
        if c != "," or depth:
            current += c
            continue
        current = current.strip()
        if current.startswith("{"):
            out.append([x.strip() for x in current.strip("{} ").split(",")])
        elif current:
            out.append(current)
        current = ""
    return out


class Program:
    """A kernel's instructions.

    Attributes:
        name, threads: of the kernel; of a program. registers: how many of each kind. instructions: all.
        starts: where segments begin. segment_at: label → segment. opcodes: how often each stands there.
    """

    def __init__(self, ptx: str) -> None:
        _, _, body = ptx.partition(".visible .entry ")
        self.name = re.match(r"\w+", body)[0]  # type: ignore[index] # every kernel has one
        self.threads = int(re.search(r"\.reqntid (\d+)", body)[1])  # type: ignore[index]
        parameters, _, body = body.partition("\n{")
        self.parameters = len(re.findall(r"\.param ", parameters))
        body = body[: body.find("\n}")]
        self.registers = {k: int(n) for k, n in re.findall(r"\.reg \.\w+\s+%(\w+?)<(\d+)>", body)}
        files = {m[1]: m[2].rsplit("/", 1)[-1] for m in re.finditer(r'^\s*\.file\s+(\d+) "([^"]+)"', ptx, re.M)}
        self.instructions: list[Instruction] = []
        labels: dict[str, int] = {}
        starts = {0}
        place = "?"
        for row in (line.split("//")[0].strip() for line in body.splitlines()):
            if row.startswith(".loc"):
                place = _place(row, files)
            elif m := re.match(r"(\$?\w+):$", row):
                labels[m[1]] = len(self.instructions)
                starts.add(len(self.instructions))
            elif row and not row.startswith("."):
                self.instructions.append(parse(row, place))
                if self.instructions[-1].name.startswith(ENDS + MEMORY):
                    starts.add(len(self.instructions))
        self.starts = sorted(x for x in starts if x < len(self.instructions))
        self.segment_at = {label: self.starts.index(at) for label, at in labels.items() if at < len(self.instructions)}
        self.opcodes = Counter(x.name for x in self.instructions)

    def segment(self, k: int) -> range:
        """The instructions of a segment."""
        return range(self.starts[k], self.starts[k + 1] if k + 1 < len(self.starts) else len(self.instructions))


def _place(row: str, files: dict[str, str]) -> str:
    """Where an instruction comes from, of a line ``.loc file line column[, …, inlined_at file line column]``."""
    _, file, line, *_ = row.split()
    out = f"{files.get(file, file)}:{line}"
    if "inlined_at" in row:
        file, line, *_ = row.split("inlined_at")[1].split()
        out += f" < {files.get(file, file)}:{line}"
    return out
