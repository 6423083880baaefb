"""Every error text that the package can show, read from its source: what ``docs/troubleshooting.md`` must explain.

A text is the first string that is told to an error class, or to one of the small functions that make errors, with ``…``
where something is filled in. Names are followed to what is assigned to them in the same function or file.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path

ROOT = Path(__file__).parents[2]
GAP = "…"

MAKERS = {"warn": 0, "refusal": 0, "error": 1, "fail": 0, "Damaged": 0, "_too_large": 1, "_senseless": 1, "_cannot": 0}
"""Functions that make errors, and which of their arguments is the text."""

NAMED_FIRST = ("ModelFileError", "StructureError", "ChangedOutputError")
"""Errors whose first argument names a file or a structure."""


FEW = 12
"""Letters; a pattern of fewer would be of too many texts."""


@dataclass(frozen=True)
class Message:
    """A text, and where it is raised (``path:line``)."""

    text: str
    where: str


def sources() -> Iterator[Path]:
    """The package's Python files."""
    for folder in ("dpa1_fast", "kernels"):
        for path in sorted((ROOT / folder).rglob("*.py")):
            if "dpa1_fast/kernels" not in path.as_posix():
                yield path


COMPILED = re.compile(
    r"(?:error->(?:all|one|warning)\(FLERR,|fmt::format\(|throw (?!std::bad_alloc)\w+(?:::\w+)?\()"
    r'((?:"(?:[^"\\]|\\.)*"|[^";])*);'
)


def messages() -> list[Message]:
    """All of them, by file and line."""
    return [*(m for path in sources() for m in of_file(path)), *compiled()]


def compiled() -> Iterator[Message]:
    """Those of the engine and of LAMMPS's pair style, which are C++."""
    for folder in ("dpa1_fast/drivers/lammps_plugin", "kernels/cpu/native"):
        for path in sorted((ROOT / folder).rglob("*")):
            if path.suffix not in (".h", ".cpp"):
                continue
            code = path.read_text(encoding="utf-8")
            for found in COMPILED.finditer(code):
                pieces = re.findall(r'"((?:[^"\\]|\\.)*)"', found[1])
                text = re.sub(r"\{[^}]*\}", GAP, GAP.join(pieces))
                if re.search(r"[A-Za-z]{3}", text):
                    line = code.count("\n", 0, found.start()) + 1
                    yield Message(" ".join(text.split()), f"{path.relative_to(ROOT).as_posix()}:{line}")


def of_file(path: Path) -> Iterator[Message]:
    """Those of one file."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    everywhere = _assigned(tree.body)
    functions = [n for n in ast.walk(tree) if isinstance(n, ast.FunctionDef | ast.AsyncFunctionDef)]
    seen: set[tuple[int, str]] = set()
    for scope in [*reversed(functions), tree]:  # the innermost function knows its names best
        known = everywhere | (_assigned(ast.walk(scope)) if scope is not tree else {})
        for call in ast.walk(scope):
            if not isinstance(call, ast.Call) or (spot := _argument(call)) is None:
                continue
            for text in _texts(spot, known):
                shown = " ".join(text.split())
                if re.search(r"[A-Za-z]{3}", shown) and (call.lineno, call.col_offset) not in seen:
                    yield Message(shown, f"{path.relative_to(ROOT).as_posix()}:{call.lineno}")
            seen.add((call.lineno, call.col_offset))


def _argument(call: ast.Call) -> ast.expr | None:
    """The argument with the text, of a call that makes an error."""
    name = call.func.attr if isinstance(call.func, ast.Attribute) else getattr(call.func, "id", "")
    if isinstance(call.func, ast.Attribute) and name not in MAKERS:
        return None
    if name in MAKERS:
        at = MAKERS[name]
    elif name.endswith("Error") and name[0].isupper():
        at = 1 if name in NAMED_FIRST else 0
    else:
        return None
    return call.args[at] if len(call.args) > at else None


def _assigned(nodes: object) -> dict[str, list[ast.expr]]:
    """Name → what is assigned to it."""
    out: dict[str, list[ast.expr]] = {}
    for node in nodes:  # type: ignore[attr-defined]
        if isinstance(node, ast.Assign):
            for target in node.targets:
                if isinstance(target, ast.Name):
                    out.setdefault(target.id, []).append(node.value)
    return out


def _texts(node: ast.expr, known: dict[str, list[ast.expr]], depth: int = 3) -> list[str]:
    """What an expression can say; a gap where only a run knows."""
    if isinstance(node, ast.Constant) and isinstance(node.value, str):
        return [node.value]
    if isinstance(node, ast.JoinedStr):
        out = [""]
        for part in node.values:
            said = [part.value] if isinstance(part, ast.Constant) else _inside(part, known, depth)
            out = [a + str(b) for a in out for b in said]
        return out
    if isinstance(node, ast.BinOp) and isinstance(node.op, ast.Add):
        return [a + b for a in _texts(node.left, known, depth) for b in _texts(node.right, known, depth)]
    if isinstance(node, ast.IfExp):
        return _texts(node.body, known, depth) + _texts(node.orelse, known, depth)
    if isinstance(node, ast.Name) and depth and node.id in known:
        return [t for value in known[node.id] for t in _texts(value, known, depth - 1)]
    return [GAP]


def _inside(part: ast.expr, known: dict[str, list[ast.expr]], depth: int) -> list[str]:
    """What stands between braces: a constant of the file is followed, all else is a gap."""
    value = part.value if isinstance(part, ast.FormattedValue) else part
    if isinstance(value, ast.Name) and value.id.isupper():
        return _texts(value, known, depth)
    return [GAP]


def entries(page: str) -> dict[str, str]:
    """Pattern → what the page says of it: code in the first cell of a table's row, its explanation in the second."""
    out = {}
    for line in page.splitlines():
        cells = re.split(r"(?<!\\)\|", line.strip().strip("|"))
        if line.startswith("| `") and len(cells) >= 2:
            for pattern in re.findall(r"`([^`]+)`", cells[0]):
                out[pattern] = cells[1].strip()
    return out


@cache
def _compiled(pattern: str) -> re.Pattern[str]:
    if len(re.findall(r"[A-Za-z]", pattern)) < FEW:
        return re.compile(re.escape(" ".join(pattern.split())))
    return re.compile(".*".join(re.escape(w) for w in re.split(rf"\s*{GAP}\s*", pattern)))


def matches(pattern: str, text: str) -> bool:
    """Whether an entry is of this text. Gaps stand for anything; a pattern of few letters is of that text alone."""
    return _compiled(pattern).fullmatch(text) is not None


if __name__ == "__main__":
    for message in messages():
        print(f"{message.where}: {message.text}")
