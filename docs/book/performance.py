"""Tables of README and book that are made of saved results: ``python docs/book/performance.py`` writes them anew.

They stand between ``<!-- made from bench/results: NAME -->`` and ``<!-- end -->``; a test holds that they still say so.
"""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[2]
RESULTS = ROOT / "bench" / "results"
CARD = ("h100-2026-11-28-first", "h100-2026-11-28-second", "h100-2026-11-28-third")
"""Runs of the newest code on the card, the oldest first: a step that was run twice counts as it was run last."""

FIRST = "h100-2026-11-27-first"
"""The run in which DeePMD-kit stood beside."""

MARKED = re.compile(r"(<!-- made from bench/results: (\w+) -->\n).*?(<!-- end -->)", re.DOTALL)

Row = dict[str, Any]


def lines(name: str) -> list[Row]:
    """The lines of a file of results."""
    return [json.loads(x) for x in (RESULTS / f"{name}.jsonl").read_text(encoding="utf-8").splitlines() if x.strip()]


def card() -> dict[str, list[Row]]:
    """Step → what it said last on the card."""
    out: dict[str, list[Row]] = {}
    for name in CARD:
        for row in lines(name):
            if "begin" in row:
                out[row["step"]] = []
            elif row["step"] != "run" and "end" not in row:
                out.setdefault(row["step"], []).append(row)
    return out


def table(head: Sequence[str], rows: Sequence[Sequence[str]], numbers: int = 1) -> str:
    """Markdown; columns from ``numbers`` on stand to the right."""
    rule = ["---" if k < numbers else "---:" for k in range(len(head))]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in (head, rule, *rows)) + "\n"


def shown(x: Any, digits: int = 3) -> str:
    """A number in short; – where there is none."""
    if x is None:
        return "–"
    return f"{x:#.{digits}g}" if 1e-3 < x < 100 else f"{x:.1e}" if x < 1 else f"{x:,.0f}"


def peer_cpu() -> str:
    """CPU, against DeePMD-kit."""
    rows = [r for r in lines("epyc-avx512-peer") if "case" in r]
    body = [
        (f"{r['case']}, {r['precision']}", r['ours'], f"{r['peer']} / {r['peer_better']}",
         f"{r['ratio']} / {r['ratio_better']}")
        for r in rows
    ]  # fmt: skip
    return table(("ms an atom", "ours", "DeePMD-kit, default / better", "times faster"), body)


def peer_cpu_short() -> str:
    """The README's: those in float32 and the compressed model."""
    rows = [
        r
        for r in lines("epyc-avx512-peer")
        if "case" in r and (r["precision"] == "float32" or "compressed" in r["case"])
    ]
    body = [
        (
            f"{r['case']}, {r['precision']}",
            r["ours"],
            f"{r['peer']} / {r['peer_better']}",
            f"{r['ratio']} / {r['ratio_better']}",
        )
        for r in rows
    ]
    return table(("ms an atom", "ours", "DeePMD-kit, as installed / better settings", "times faster"), body)


def conditions_cpu() -> str:
    """What the table of the CPU was measured on."""
    r = lines("epyc-avx512-peer")[0]
    return f"{r['machine']}; {r['ours']}; {r['peer']}. {r['model']}. {r['said']}.\n"


def _sizes(found: dict[str, list[Row]], precision: str) -> list[Row]:
    return [*found.get(f"sizes-{precision}", []), *found.get(f"largest-{precision}", [])]


def gpu() -> str:
    """µs an atom by size and precision: alone / in a row."""
    found = card()
    cases: dict[str, Row] = {}
    for precision in ("bfloat16", "tf32", "float32"):
        for r in _sizes(found, precision):
            cases.setdefault(r["case"], {"row": r})[precision] = r
    body = []
    for case in cases.values():
        r = case["row"]
        many = f"{r['structures']} molecules, " if r["structures"] > 1 else ""
        cells = [f"{many}{r['atoms']:,} atoms, {r['neighbors']:g} neighbours"]
        for precision in ("bfloat16", "tf32", "float32"):
            one = case.get(precision)
            right = one is not None and one.get("right") is not False
            cells.append(f"{shown(one['us_per_atom'])} / {shown(one.get('us_per_atom_in_a_row'))}" if right else "–")
        body.append(cells)
    return table(("µs an atom, alone / in a row", "bfloat16", "tf32", "float32"), body)


def gpu_short() -> str:
    """The README's: water of 12,288 atoms."""
    found = card()
    body = []
    for precision in ("bfloat16", "tf32", "float32"):
        r = next(x for x in found[f"sizes-{precision}"] if x["case"] == "water12288")
        force = f"{judged()[precision, 'attention', 'water192']['force']:.1e}"
        body.append((precision, shown(r["us_per_atom"]), shown(r["us_per_atom_in_a_row"]), force))
    return table(("precision", "alone", "in a row", "force error, of the RMS force"), body)


def judged() -> dict[tuple[str, str, str], Row]:
    """(precision, model, case) → how far whole evaluations were off when that was judged last."""
    return {
        (r["precision"], r["model"], r["case"]): r
        for name in ("h100-2026-11-27-second", "h100-2026-11-27-third", *CARD)
        for r in lines(name)
        if r["step"].startswith("evaluations-") and "force" in r
    }


def memory() -> str:
    """Memory, launches and the host's time of whole evaluations."""
    body = [
        (
            f"{r['case']}, {precision}",
            f"{r['ns_per_neighbor']:.1f}",
            f"{r['peak_bytes'] / 2**20:,.0f}",
            str(r["chunks"]),
            str(r["launches"]),
            shown(r["host_ms"]),
        )
        for precision in ("bfloat16", "tf32", "float32")
        for r in _sizes(card(), precision)
    ]
    return table(("", "ns a neighbour", "peak MiB", "chunks", "launches", "host, ms"), body)


def graphs() -> str:
    """Replayed as a CUDA graph."""
    found = card()
    body = [
        (
            f"{r['atoms']:,} atoms, {p}",
            shown(r["plain_us_per_atom"]),
            shown(r["us_per_atom"]),
            f"{r['other_bits']} of {r['steps']}",
        )
        for p in ("bfloat16", "tf32", "float32")
        for r in found.get(f"graph-{p}", [])
    ]
    return table(("µs an atom", "launched", "replayed", "steps with other bits"), body)


def ceilings() -> str:
    """What the card itself can do."""
    found = card()["ceilings"]
    body = [("copies", f"{r['copy_TB_per_s']:.2f} TB/s") for r in found if "copy_TB_per_s" in r]
    body += [(f"products in {r['precision']}", f"{r['tflops']:.0f} Tflop/s") for r in found if "tflops" in r]
    return table(("", "measured"), body)


def forces() -> str:
    """Errors of forces on the card, by precision and system."""
    order = ("bfloat16", "float16", "tf32", "float32", "float64")
    body = [
        (f"{p}, {case}, {model.replace('_', ' ')}", f"{r['force']:.1e}", f"{r['energy']:.1e}", f"{r['virial']:.1e}")
        for (p, model, case), r in sorted(judged().items(), key=lambda x: order.index(x[0][0]))
    ]
    return table(("against float64 made elsewhere", "forces, of their RMS", "energy, eV an atom", "virial"), body)


def peer_gpu() -> str:
    """DeePMD-kit on the same card, and ours of that day."""
    rows = [r for r in lines(FIRST) if r["step"].startswith("peer-") and "us_per_atom" in r]
    body = [
        (f"{r['model'].replace('_', ' ')}, {r['atoms']:,} atoms, {r['precision']}", shown(r["us_per_atom"]),
         shown(r["ours_us_per_atom"]), shown(r["ours_on_card_us_per_atom"]))
        for r in rows
    ]  # fmt: skip
    return table(
        ("µs an atom", "DeePMD-kit, from coordinates", "ours that day, likewise", "ours, batch on the card"),
        body,
    )


def conditions_gpu() -> str:
    """What the tables of the card were measured on."""
    facts = {k: v for r in card()["facts"] for k, v in r.items()}
    v = facts["versions"]
    return (
        f"{facts['device']}, driver {facts['smi']['driver_version']}, power limit {facts['smi']['power.limit']}; "
        f"Python {facts['python']}, torch {v['torch']}, Triton {v['triton']}; 2026-11-28, files "
        f"{', '.join(f'`bench/results/{name}.jsonl`' for name in CARD)}.\n"
    )


MAKERS: dict[str, Callable[[], str]] = {
    f.__name__: f
    for f in (
        peer_cpu,
        peer_cpu_short,
        conditions_cpu,
        gpu,
        gpu_short,
        memory,
        graphs,
        ceilings,
        forces,
        peer_gpu,
        conditions_gpu,
    )
}


def fill(text: str) -> str:
    """The text with all its tables made anew."""
    return MARKED.sub(lambda m: f"{m[1]}\n{MAKERS[m[2]]()}\n{m[3]}", text)


def places() -> list[Path]:
    """README and pages, where such tables may stand."""
    return [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]


if __name__ == "__main__":
    for path in places():
        before = path.read_text(encoding="utf-8")
        after = fill(before)
        if after != before:
            path.write_text(after, encoding="utf-8")
            print(f"{path.relative_to(ROOT)}: written", file=sys.stderr)
