"""The book's pictures as SVG, light and dark by themselves: ``python docs/book/pictures.py`` writes them anew.

``speed.svg`` is made of saved results; ``architecture.svg`` and ``favicon.svg`` are drawn.
A test holds that they are current.
"""

from __future__ import annotations

import math
import sys
from html import escape

from performance import ROOT, card, lines

PICTURES = ROOT / "docs" / "pictures"

STYLE = """<style>
:root { --page: #ffffff; --ink: #1b2430; --quiet: #586372; --line: #dfe3e8;
  --a: #2f6fab; --b: #b9c1cb; --c: #e9eff6; --d: #f6ecd9 }
@media (prefers-color-scheme: dark) { :root { --page: #161b22; --ink: #e7eaee; --quiet: #9ca8b5; --line: #323b46;
  --a: #62a8e5; --b: #5a6572; --c: #1f2c3b; --d: #3a3222 } }
text { font-family: system-ui, "Segoe UI", Roboto, "DejaVu Sans", sans-serif; fill: var(--ink); font-size: 14px }
.title { font-weight: 600; font-size: 16px } .quiet { fill: var(--quiet); font-size: 12.5px }
.code { font-family: ui-monospace, monospace; font-size: 12.5px; fill: var(--quiet) }
.a { fill: var(--a) } .b { fill: var(--b) } .page { fill: var(--page) } .grid { stroke: var(--line) }
.box { fill: var(--c); stroke: var(--a) } .store { fill: var(--d); stroke: var(--quiet) }
.arrow { stroke: var(--quiet); fill: none; stroke-width: 1.6 } .head { fill: var(--quiet) }
</style>"""


class Drawing:
    """An SVG that grows: texts, boxes, arrows."""

    def __init__(self, width: int, height: int, told: str) -> None:
        self.parts = [
            f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" width="{width}" height="{height}" '
            f'role="img" aria-label="{escape(told)}">',
            STYLE,
            '<defs><marker id="tip" viewBox="0 0 8 8" refX="7" refY="4" markerWidth="7" markerHeight="7" orient="auto">'
            '<path class="head" d="M0 0L8 4L0 8z"/></marker></defs>',
            f'<rect class="page" width="{width}" height="{height}" rx="8"/>',
        ]

    def text(self, x: float, y: float, words: str, kind: str = "", anchor: str = "start") -> None:
        """Words; (x, y) is where their line begins, ends or has its middle."""
        self.parts.append(f'<text x="{x:g}" y="{y:g}" class="{kind}" text-anchor="{anchor}">{escape(words)}</text>')

    def rect(self, x: float, y: float, width: float, height: float, kind: str, round_: int = 3) -> None:
        """A box."""
        self.parts.append(
            f'<rect x="{x:.1f}" y="{y:.1f}" width="{width:.1f}" height="{height:.1f}" rx="{round_}" class="{kind}"/>'
        )

    def line(self, points: list[tuple[float, float]], kind: str = "arrow") -> None:
        """A line through points; an arrow has a tip."""
        d = "M" + " L".join(f"{x:g} {y:g}" for x, y in points)
        tip = ' marker-end="url(#tip)"' if kind == "arrow" else ""
        self.parts.append(f'<path d="{d}" class="{kind}"{tip}/>')

    def svg(self) -> str:
        """All of it."""
        return "\n".join([*self.parts, "</svg>", ""])


def speed() -> str:
    """ms an atom on a CPU against DeePMD-kit, and µs an atom on an H100; narrow enough for a phone."""
    rows = [r for r in lines("epyc-avx512-peer") if "case" in r]
    d = Drawing(500, 726, "time per atom: dpa1-fast beside DeePMD-kit on two CPU cores, and dpa1-fast on an H100")
    d.text(20, 32, "Energy, forces and virial: time per atom", "title")
    d.text(20, 52, "less is better; all of it measured", "quiet")
    d.text(20, 84, "2 CPU cores, ms (logarithmic)", "title")
    d.rect(20, 95, 12, 12, "a")
    d.text(38, 106, "dpa1-fast", "quiet")
    d.rect(120, 95, 12, 12, "b")
    d.text(138, 106, "DeePMD-kit 3.2.0, the better of its settings", "quiet")
    left, width, low, high, top, step = 20.0, 420.0, 0.02, 7.0, 118, 49

    def at(x: float) -> float:
        return left + width * math.log(x / low) / math.log(high / low)

    for k, r in enumerate(rows):
        y = top + step * k
        d.text(left, y + 14, f"{r['short']}, {r['precision']}")
        better = min((r["peer"], r["peer_better"]), key=float)
        for value, at_y, kind in ((r["ours"], y + 20, "a"), (better, y + 33, "b")):
            d.rect(left, at_y, at(float(value)) - left, 12, kind)
            d.text(at(float(value)) + 6, at_y + 10.5, value, "quiet")
    top += step * len(rows) + 32
    d.text(20, top, "One NVIDIA H100, µs", "title")
    d.text(20, top + 19, "water, 12,288 atoms, attention, evaluations in a row", "quiet")
    for k, precision in enumerate(("bfloat16", "tf32", "float32")):
        r = next(x for x in card()[f"sizes-{precision}"] if x["case"] == "water12288")
        y, value = top + 30 + 22 * k, r["us_per_atom_in_a_row"]
        d.text(20, y + 12, precision)
        d.rect(90, y, 300 * value / 3.5, 15, "a")
        d.text(96 + 300 * value / 3.5, y + 12, f"{value:.2f}", "quiet")
    d.text(20, 714, "AMD EPYC with AVX-512. Conditions: docs/performance.md", "quiet")
    return d.svg()


WAY = (
    ("who asks", "evaluate, relax, screen, DeepPot, ASE, …; LAMMPS by C", "", "store"),
    ("structure", "checked once: numbers, cell, periodic axes, species", "structures/structure.py", "box"),
    ("scheduler", "what is evaluated together: memory, learned cost", "scheduler.py", "box"),
    ("neighbour list", "searched, or kept and proven valid", "structures/neighbors.py, verlet.py", "box"),
    ("batch", "flat atoms, edges by centre; nothing padded to sel", "structures/batch.py", "box"),
    ("dispatch", "who evaluates, as asked", "kernels/dispatch.py", "box"),
)
BACKENDS = (
    ("cpu", "compiled C++,", "gradients by hand", "kernels/cpu/"),
    ("triton", "one kernel a phase,", "CUDA graphs", "kernels/triton/"),
    ("reference", "torch: the judge;", "training", "reference.py"),
)
END = (
    ("edge gradients", "dE/dd of each pair, E of each atom", "kernels/outputs.py", "box"),
    ("results", "forces, virials, stress: sums in float64", "structures/batch.py, engine.py", "store"),
)


def architecture() -> str:
    """The data's way: from a call to results; narrow enough for a phone."""
    d = Drawing(500, 776, "the way of the data from structures to results")
    y = 16
    for k, (title, words, code, kind) in enumerate(WAY):
        if k:
            d.line([(250.0, y - 18.0), (250.0, y - 2.0)])
        d.rect(20, y, 460, 66 if code else 50, kind, 6)
        d.text(34, y + 22, title, "title")
        d.text(34, y + 40, words, "quiet")
        d.text(34, y + 57, code, "code")
        y += 84 if code else 68
    d.text(466, y - 62, "a model file, read without", "quiet", "end")
    d.text(466, y - 28, "checkpoint/, prepare/", "code", "end")
    d.text(466, y - 45, "running any of its code", "quiet", "end")
    for k, (title, first, second, code) in enumerate(BACKENDS):
        x = 20 + 157 * k
        d.line([(250.0, y - 18.0), (250.0, y - 9.0), (x + 73.0, y - 9.0), (x + 73.0, y - 2.0)])
        d.rect(x, y, 146, 84, "box", 6)
        d.text(x + 10, y + 22, title, "title")
        d.text(x + 10, y + 40, first, "quiet")
        d.text(x + 10, y + 56, second, "quiet")
        d.text(x + 10, y + 74, code, "code")
        d.line([(x + 73.0, y + 84.0), (x + 73.0, y + 93.0), (250.0, y + 93.0), (250.0, y + 100.0)])
    y += 102
    for k, (title, words, code, kind) in enumerate(END):
        if k:
            d.line([(250.0, y - 18.0), (250.0, y - 2.0)])
        d.rect(20, y, 460, 66, kind, 6)
        d.text(34, y + 22, title, "title")
        d.text(34, y + 40, words, "quiet")
        d.text(34, y + 57, code, "code")
        y += 84
    return d.svg()


def favicon() -> str:
    """Three atoms and their bonds."""
    return (
        '<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 32 32"><g stroke="#2f6fab" stroke-width="2.5">'
        '<path d="M16 9L8 23M16 9L24 23M8 23L24 23"/></g><g fill="#2f6fab"><circle cx="16" cy="9" r="5"/>'
        '<circle cx="8" cy="23" r="5"/><circle cx="24" cy="23" r="5"/></g></svg>\n'
    )


ALL = {"speed.svg": speed, "architecture.svg": architecture, "favicon.svg": favicon}

if __name__ == "__main__":
    PICTURES.mkdir(exist_ok=True)
    for name, draw in ALL.items():
        (PICTURES / name).write_text(draw(), encoding="utf-8")
        print(f"docs/pictures/{name}: written", file=sys.stderr)
