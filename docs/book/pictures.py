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
    """ms an atom on a CPU against DeePMD-kit, and µs an atom on an H100; logarithmic."""
    rows = [r for r in lines("epyc-avx512-peer") if "case" in r]
    d = Drawing(880, 620, "time per atom: dpa1-fast beside DeePMD-kit on two CPU cores, and dpa1-fast on an H100")
    d.text(24, 34, "Energies, forces and virials of one atom: how long", "title")
    d.text(24, 54, "less is better; logarithmic; measured, none modelled", "quiet")
    left, width, low, high = 300.0, 500.0, 0.02, 20.0

    def at(x: float) -> float:
        return left + width * math.log(x / low) / math.log(high / low)

    d.text(24, 92, "2 CPU cores, ms", "title")
    d.rect(left, 81, 12, 12, "a")
    d.text(left + 18, 92, "dpa1-fast", "quiet")
    d.rect(left + 100, 81, 12, 12, "b")
    d.text(left + 118, 92, "DeePMD-kit 3.2.0, the better of its settings", "quiet")
    top = 104
    for tick in (0.02, 0.1, 1.0, 10.0):
        d.line([(at(tick), top), (at(tick), top + 36 * len(rows) + 4)], "grid")
        d.text(at(tick), top + 36 * len(rows) + 20, f"{tick:g}", "quiet", "middle")
    for k, r in enumerate(rows):
        y = top + 36 * k + 4
        d.text(left - 12, y + 17, f"{r['short']}, {r['precision']}", "", "end")
        better = min(float(r["peer"]), float(r["peer_better"]))
        for x, at_y, kind in ((float(r["ours"]), y, "a"), (better, y + 14, "b")):
            d.rect(left, at_y, at(x) - left, 12, kind)
        d.text(at(float(r["ours"])) + 6, y + 11, r["ours"], "quiet")
        d.text(at(better) + 6, y + 25, f"{better:g}", "quiet")
    top += 36 * len(rows) + 56
    found = card()
    d.text(24, top, "One NVIDIA H100, µs", "title")
    d.text(left, top, "water, 12,288 atoms, two layers of attention, evaluations in a row", "quiet")
    for k, precision in enumerate(("bfloat16", "tf32", "float32")):
        r = next(x for x in found[f"sizes-{precision}"] if x["case"] == "water12288")
        y = top + 14 + 24 * k
        value = r["us_per_atom_in_a_row"]
        d.text(left - 12, y + 13, precision, "", "end")
        d.rect(left, y, width * value / 8.0, 16, "a")
        d.text(left + width * value / 8.0 + 6, y + 13, f"{value:.2f}", "quiet")
    d.text(
        24,
        606,
        "AMD EPYC with AVX-512; models of the se_atten example's size; conditions and all figures: docs/performance.md",
        "quiet",
    )
    return d.svg()


def architecture() -> str:
    """The data's way: from a call to results."""
    d = Drawing(880, 640, "the way of the data: structures, neighbour lists, batch, backend, edge gradients, forces")
    boxes = {
        "callers": (
            24,
            24,
            832,
            64,
            "who asks",
            "Engine.evaluate · relax · DeepPot · screen · ASE, TorchSim, … · LAMMPS by C",
        ),
        "structure": (24, 128, 250, 84, "structure", "checked once: numbers, cell,"),
        "lists": (606, 128, 250, 84, "neighbour list", "searched, or kept and proven"),
        "batch": (606, 252, 250, 84, "batch", "flat atoms, edges by centre;"),
        "scheduler": (315, 128, 250, 84, "scheduler", "what is evaluated together:"),
        "dispatch": (315, 252, 250, 84, "dispatch", "who evaluates; an explicit"),
        "file": (24, 252, 250, 84, "model file", "sniffed, read without any of"),
        "cpu": (24, 376, 250, 110, "cpu", "compiled C++: atom by atom,"),
        "triton": (315, 376, 250, 110, "triton", "kernels of one phase each,"),
        "reference": (606, 376, 250, 110, "reference", "torch: every formula once;"),
        "edges": (24, 526, 400, 84, "edge gradients", "dE/dd of each pair, and E of each atom"),
        "results": (456, 526, 400, 84, "results", "energies, forces, virials, stress: sums over edges,"),
    }
    more = {
        "structure": ["periodic axes, species", "structures/structure.py"],
        "lists": ["valid by positions and cell", "neighbors.py, verlet.py"],
        "batch": ["nothing padded to sel", "structures/batch.py"],
        "scheduler": ["by memory and learned cost", "scheduler.py"],
        "dispatch": ["request never falls back", "kernels/dispatch.py"],
        "file": ["its code; prepared once", "checkpoint/, prepare/"],
        "cpu": ["chunk by chunk; gradients by", "hand, no tape, no padding", "kernels/cpu/"],
        "triton": ["what they make lies on the", "card; replayed as a graph", "kernels/triton/"],
        "reference": ["judges the other two, trains", "by autograd", "kernels/reference.py"],
        "edges": ["one derivative serves forces, virials and training", "kernels/outputs.py"],
        "results": ["float64 in every precision, in the caller's order", "structures/batch.py, engine.py"],
    }
    for name, (x, y, width, height, title, first) in boxes.items():
        d.rect(x, y, width, height, "store" if name in ("file", "results", "callers") else "box", 6)
        d.text(x + 14, y + 26, title, "title")
        d.text(x + 14, y + 46, first, "quiet")
        rest = more.get(name, [])
        for k, words in enumerate(rest):
            d.text(x + 14, y + 62 + 16 * k, words, "code" if k == len(rest) - 1 else "quiet")
    for points in (
        [(149, 88), (149, 126)], [(274, 170), (313, 170)], [(565, 170), (604, 170)], [(731, 212), (731, 250)],
        [(606, 294), (567, 294)], [(274, 294), (313, 294)], [(440, 336), (440, 374)],
        [(440, 356), (149, 356), (149, 374)], [(440, 356), (731, 356), (731, 374)], [(149, 486), (149, 524)],
        [(440, 486), (440, 506), (300, 506), (300, 524)], [(731, 486), (731, 506), (300, 506), (300, 524)],
        [(424, 568), (454, 568)],
    ):  # fmt: skip
        d.line([(float(x), float(y)) for x, y in points])
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
