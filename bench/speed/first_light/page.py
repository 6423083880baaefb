"""A page and a picture of what is known: ``python -m bench.speed.first_light.page DIR``.

Reads what ``bench.speed.first_light`` left in DIR, however much that is; writes ``first_light.html``, which needs
nothing else, and ``first_light.png`` (with matplotlib).
"""

from __future__ import annotations

import argparse
import base64
import html
import json
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from .findings import Findings, Row, gather, verdicts
from .lines import NAME, read

STYLE = """
body { font: 15px/1.5 system-ui, sans-serif; color: #222; background: #fff; max-width: 70rem; margin: 2rem auto;
  padding: 0 1rem }
h1 { font-size: 1.5rem; margin-bottom: 0 } h2 { font-size: 1.1rem; margin: 2rem 0 .4rem }
p.small, caption { color: #666; font-size: .85rem; text-align: left } img { max-width: 100% }
div.wide { overflow-x: auto } table { border-collapse: collapse; font-variant-numeric: tabular-nums }
th { text-align: left; font-weight: 600; border-bottom: 1px solid #999 } td, th { padding: .15rem .8rem .15rem 0 }
td.n { text-align: right } tr + tr td { border-top: 1px solid #eee }
.yes { color: #1a7f37 } .no { color: #b42318; font-weight: 600 } s { color: #999 }
pre { white-space: pre-wrap; font-size: .8rem; background: #f6f6f6; padding: .5rem }
"""


def text(x: Any) -> str:
    """A value for a cell."""
    if x is None:
        return "–"
    if isinstance(x, bool):
        return "yes" if x else "no"
    if isinstance(x, float):
        return f"{x:.1e}" if x and (abs(x) < 1e-3 or abs(x) >= 1e6) else f"{x:.4g}"
    return f"{x:,}" if isinstance(x, int) else str(x)


def cell(x: Any) -> str:
    """A table's cell."""
    kind = ' class="n"' if isinstance(x, int | float) and not isinstance(x, bool) else ""
    shown = html.escape(text(x))
    if x is True or x is False:
        shown = f'<span class="{"yes" if x else "no"}">{"right" if x else "NOT RIGHT"}</span>'
    return f"<td{kind}>{shown}</td>"


def table(rows: Sequence[Row], columns: dict[str, str]) -> str:
    """Rows under headings (key → heading); a column that no row has is left out."""
    shown = {k: v for k, v in columns.items() if any(r.get(k) is not None for r in rows)}
    head = "".join(f"<th>{html.escape(v)}</th>" for v in shown.values())
    body = "".join(f"<tr>{''.join(cell(r.get(k)) for k in shown)}</tr>" for r in rows)
    return f'<div class="wide"><table><tr>{head}</tr>{body}</table></div>'


Section = tuple[str, str, Callable[[Findings], list[Row]], dict[str, str]]


def _sizes(found: Findings) -> list[Row]:
    out = []
    for r in [*found.of("sizes"), *found.of("largest")]:
        row = {**r, "peak_MiB": round(r["peak_bytes"] / 2**20) if r.get("peak_bytes") else None}
        if r.get("right") is False:  # forces that are wrong have no speed
            row |= {"us_per_atom": None, "ns_per_neighbor": None, "ms": None}
        out.append(row)
    return out


def _kernels(found: Findings) -> list[Row]:
    out = []
    for r in found.of("by_kernel"):
        model = r.get("model_us_per_atom")
        out.append({**r, "ratio": r["us_per_atom"] / model if model else None})
    return out


def _peer(found: Findings) -> list[Row]:
    return [
        {**r, "times": r["us_per_atom"] / r["ours_us_per_atom"]} for r in found.of("peer") if r.get("ours_us_per_atom")
    ]


JUDGED = {"model": "model", "case": "case", "precision": "precision"}
SECTIONS: tuple[Section, ...] = (
    ("What it takes", "Networks on a batch that lies on the card; median by the card's clock.", _sizes,
     {"case": "case", "atoms": "atoms", "precision": "precision", "neighbors": "neighbours", "us_per_atom": "µs/atom",
      "ns_per_neighbor": "ns/neighbour", "ms": "ms", "host_ms": "ms of the host", "peak_MiB": "peak MiB",
      "chunks": "chunks", "launches": "launches", "triton_launches": "ours", "force": "force error",
      "right": "forces"}),
    ("From structures to results", "Engine.evaluate, by the host's clock.", lambda f: f.of("whole"),
     {"case": "case", "atoms": "atoms", "precision": "precision", "lists": "lists by", "us_per_atom": "µs/atom",
      "search_us_per_atom": "lists alone", "step_us_per_atom": "step", "transfers": "transfers",
      "right": "edges of the same bits"}),
    ("Kernel by kernel", "Measured by torch's profiler; the model of time is bench/compiled/cost.py.", _kernels,
     {"precision": "precision", "kernel": "kernel", "launches": "launches", "us_per_atom": "µs/atom",
      "model_us_per_atom": "model", "ratio": "measured/model", "limit": "limited by, says the model"}),
    ("CUDA graph", "", lambda f: f.of("graph"),
     {"case": "case", "precision": "precision", "us_per_atom": "µs/atom", "plain_us_per_atom": "without",
      "host_ms": "ms of the host", "plain_host_ms": "without", "captures": "captures", "replays": "replays",
      "other_bits": "steps with other bits", "right": ""}),
    ("DeePMD-kit 3.2.0 on this card", "Both from coordinates to forces, lists included, float32, the same file.", _peer,
     {"model": "model", "form": "form", "settings": "settings", "case": "case", "us_per_atom": "µs/atom",
      "ours_us_per_atom": "ours", "times": "times faster", "ours_on_card_us_per_atom": "ours, networks alone",
      "force_difference": "forces differ by"}),
    ("Eager autograd", "", lambda f: f.of("eager"),
     {"case": "case", "precision": "precision", "us_per_atom": "µs/atom", "force": "force error", "right": "forces"}),
    ("Whole evaluations against float64", "RMS over the RMS force.", lambda f: f.of("evaluations"),
     {**JUDGED, "atoms": "atoms", "force": "force error", "limit": "limit", "energy": "eV/atom", "virial": "virial",
      "first_call_s": "first call, s", "right": ""}),
    ("Each kernel against Triton's interpreter", "", lambda f: f.of("kernels"),
     {"model": "model", "precision": "precision", "kernel": "kernel", "worst": "error", "argument": "of",
      "elsewhere": "written elsewhere", "limit": "limit", "right": ""}),
    ("DeePMD-kit's files", "", lambda f: f.of("deepmd"),
     {"model": "model", "precision": "precision", "cases": "cases", "worst": "worst", "limit": "limit", "right": ""}),
    ("The same bits again", "", lambda f: f.of("repeats"),
     {"case": "case", "precision": "precision", "repeats": "repeats", "other_bits": "with other bits", "right": ""}),
    ("The card's most", "torch's copy and matrix products on random data.", lambda f: f.of("ceilings"),
     {"copy_TB_per_s": "copy, TB/s", "precision": "precision", "side": "side", "tflops": "Tflop/s"}),
    ("Under strain", "", lambda f: [*f.of("scheduler"), *f.of("memory")],
     {"step": "step", "structures": "structures", "per_second": "per second", "worst": "worst", "warned": "warned",
      "right": ""}),
    ("compute-sanitizer", "", lambda f: f.of("sanitize"),
     {"step": "step", "summary": "summary", "said": "", "right": ""}),
    ("Counters", "By ncu.", lambda f: f.of("ncu"),
     {"kernel": "kernel", "precision": "precision", "ns": "ns", "sm_percent": "SM %", "memory_percent": "memory %",
      "dram_percent": "DRAM %", "tensor_percent": "tensor %", "issue_percent": "issue %", "warps_percent": "warps %",
      "waits_for_memory": "waits: memory", "waits_at_barriers": "barriers", "waits_for_shared": "shared",
      "registers": "registers", "said": ""}),
    ("Launch configurations", "", lambda f: f.of("tune"),
     {"precision": "precision", "part": "part", "kernel": "kernel", "launched": "rows, chunk, warps, stages, keys",
      "us_per_atom": "µs/atom", "why": "rejected", "chosen": "chosen", "shipped": "as shipped"}),
)  # fmt: skip


def page(found: Findings, picture: bytes | None) -> str:
    """All of it."""
    device = found.device
    out = [f"<!doctype html><html lang=en><meta charset=utf-8><title>First light: {html.escape(device)}</title>"]
    out += [
        f"<style>{STYLE}</style><h1>First light: {html.escape(device)}</h1>",
        f'<p class="small">{about(found)}</p>',
    ]
    if not found.rows:
        out.append("<p>Nothing is known yet.</p>")
    marks = {True: '<span class="yes">yes</span>', False: '<span class="no">NO</span>', None: "–"}
    told = "".join(
        f"<tr><td>{html.escape(what)}</td><td>{marks[right]}</td><td>{html.escape(words)}</td></tr>"
        for what, words, right in verdicts(found)
    )
    out.append(f'<h2>Is it right?</h2><div class="wide"><table>{told}</table></div>')
    if picture:
        out.append(
            f'<p><img alt="µs per atom by size" src="data:image/png;base64,{base64.b64encode(picture).decode()}"></p>'
        )
    for title, note, rows_of, columns in SECTIONS:
        if rows := rows_of(found):
            note = f'<p class="small">{html.escape(note)}</p>' if note else ""
            out.append(f"<h2>{html.escape(title)}</h2>{note}{table(rows, columns)}")
    if wrong := found.wrong():
        out.append("<h2>What is not right, in full</h2>")
        out += [f"<pre>{html.escape(json.dumps(r, indent=1, ensure_ascii=False))}</pre>" for r in wrong[:40]]
    ended = [{"step": s, "end": e, "seconds": found.times.get(s)} for s, e in found.ends.items()]
    out.append(f"<h2>Steps</h2>{table(ended, {'step': 'step', 'end': 'ended', 'seconds': 'seconds'})}")
    return "\n".join(out) + "</html>\n"


def about(found: Findings) -> str:
    """Versions and the kit, in a line."""
    versions = found.value("facts", "versions") or {}
    parts = [f"{k} {v}" for k, v in versions.items() if v] + [f"Python {found.value('facts', 'python')}"]
    smi = found.value("facts", "smi") or {}
    if smi:
        parts.append(f"driver {smi.get('driver_version')}")
    return html.escape(", ".join([*parts, f"code {found.kit}"]))


def main() -> int:
    """Exit status 2 where there is nothing to read."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    options = parser.parse_args()
    if not (options.folder / NAME).exists():
        print(
            f"{options.folder / NAME} is not there: run `python3 -m bench.speed.first_light --out {options.folder}`",
            file=sys.stderr,
        )
        return 2
    found = gather(read(options.folder))
    from .picture import draw

    png = options.folder / "first_light.png"
    drawn = draw(found, png)
    target = options.folder / "first_light.html"
    target.write_text(page(found, png.read_bytes() if drawn else None), encoding="utf-8")
    print(f"{target}" + (f", {png}" if drawn else " (no picture: nothing was timed, or matplotlib is missing)"))
    return 0


if __name__ == "__main__":
    sys.exit(main())
