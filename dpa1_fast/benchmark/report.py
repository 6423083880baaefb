"""The page of a benchmark: readable without a network, light and dark, on a screen of any width."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from .. import __version__
from ..screening import report_pictures
from ..screening.report import template
from ..screening.report_sections import Section, Table
from ..screening.report_text import count
from . import pictures
from .measure import Memory, Precision, Results, Roofline, Size, Throughput

PEER = "DeePMD-kit"


def page(r: Results) -> str:
    """The page as HTML."""
    sections: list[Section] = []
    if r.right:
        sections = [_sizes(r.sizes), _batches(r.batches), _stages(r), _precisions(r.precisions)]
        if r.roofline is not None:
            sections.append(_roofline(r.roofline))
        if r.memory is not None:
            sections.append(_memory(r.memory))
    else:
        sections = [_precisions(r.precisions)]
    return template().render(
        title=f"Speed of {r.facts['model']}",
        verdict=_verdict(r),
        figures=_figures(r),
        facts=[(name.replace("_", " "), [str(value)]) for name, value in r.facts.items() if value not in (None, "")],
        before=[],
        beside=sections,
        after=[],
        pictures=report_pictures.available(),
        version=__version__,
        again="and give the same command again.",
        source="bench.json, which has all that was measured",
    )


def _verdict(r: Results) -> tuple[str, str]:
    wanted = r.facts["precision"]
    (found,) = [p for p in r.precisions if p.name == wanted]
    if not r.right:
        return (
            "bad",
            f"Forces in {wanted} differ from the float64 reference by {found.error:.1e} of their RMS: no speed.",
        )
    return "good", f"Forces in {wanted} are the float64 reference's to {found.error:.0e} of their RMS."


def _figures(r: Results) -> list[tuple[str, Any, Any]]:
    if not r.right:
        (wrong,) = [p for p in r.precisions if p.name == r.facts["precision"]]
        return [("force error", f"{wrong.error:.1e}", "of the RMS force")]
    best = min(r.sizes, key=lambda s: s.us_per_atom)
    out = [
        ("an atom", short(best.us_per_atom), f"µs, {count(best.atoms)} atoms"),
        (
            "a neighbour",
            short(1e3 * best.us_per_atom / max(best.neighbors, 1e-9)),
            f"ns, {best.neighbors:.0f} of each atom",
        ),
        ("MD of the same", short(0.0864 / best.time.median), f"ns/day, steps of 1 fs, {count(best.atoms)} atoms"),
    ]
    if r.batches:
        top = max(r.batches, key=lambda b: b.structures / b.time.median)
        out.append(
            (
                "small structures",
                count(round(top.structures / top.time.median)),
                f"a second, {top.atoms / top.structures:.0f} atoms each",
            )
        )
    ratios = [s.peer / s.time.median for s in r.sizes if s.peer is not None]
    if ratios:
        out.append((f"against {PEER}", f"{min(ratios):.1f} – {max(ratios):.1f}", "times as fast"))
    if r.memory is not None and r.memory.largest is not None:
        out.append(("largest system", _about(r.memory.largest), "atoms, extrapolated"))
    return out


def _sizes(sizes: Sequence[Size]) -> Section:
    out = Section("size", "Time against size")
    series = [("dpa1-fast", [(s.atoms, s.us_per_atom) for s in sizes])]
    peer = [(s.atoms, 1e6 * s.peer / s.atoms) for s in sizes if s.peer is not None]
    if peer:
        series.append((PEER, peer))
    out.draw("time an atom against the number of atoms", pictures.lines, series, ("atoms", "µs an atom"))
    columns = [
        ("atoms", "num"),
        ("neigh-\nbours", "num"),
        ("ms", "num"),
        ("µs an\natom", "num"),
        ("ns a\nneighbour", "num"),
    ]
    rows: list[list[Any]] = []
    for s in sizes:
        t = s.time
        each = 1e3 * s.us_per_atom / max(s.neighbors, 1e-9)
        row = [count(s.atoms), f"{s.neighbors:.0f}", short(1e3 * t.median), short(s.us_per_atom), short(each)]
        if peer:
            row.append("–" if s.peer is None else f"{s.peer / t.median:.1f}")
        rows.append(row)
    out.tables.append(Table("", [*columns, *([("times\nas fast", "num")] if peer else [])], rows))
    out.text.append("From ase.Atoms to energies, forces and virials, neighbour search included. Medians.")
    if peer:
        out.text.append(
            f"{PEER} has the same model, atoms and threads, from coordinates to energies, forces and virials."
        )
    return out


def _batches(batches: Sequence[Throughput]) -> Section:
    out = Section("throughput", "Many structures in one call")
    points = [(b.structures, b.structures / b.time.median) for b in batches]
    out.draw(
        "structures a second against structures in a call",
        pictures.lines,
        [("", points)],
        ("structures in a call", "structures/s"),
    )
    out.tables.append(
        Table("", [("structures", "num"), ("atoms", "num"), ("ms", "num"), ("a second", "num"), ("µs an\natom", "num")],
              [[count(b.structures), count(b.atoms), short(1e3 * b.time.median),
                count(round(b.structures / b.time.median)), short(1e6 * b.time.median / b.atoms)] for b in batches])
    )  # fmt: skip
    return out


def _stages(r: Results) -> Section:
    out = Section("stages", "Where the time goes")
    whole = sum(r.stages.values()) or 1.0
    parts = [(name, 1e3 * x) for name, x in r.stages.items()]
    out.draw(
        "milliseconds of each stage of an evaluation",
        pictures.bars,
        parts,
        f"ms, {count(r.timed_atoms)} atoms",
    )
    out.tables.append(
        Table("", [("stage", "text"), ("ms", "num"), ("share", "num")],
              [[name, short(x), f"{100 * x / 1e3 / whole:.0f} %"] for name, x in parts])
    )  # fmt: skip
    return out


def _precisions(precisions: Sequence[Precision]) -> Section:
    out = Section("precision", "Precision against error")
    points = [(p.name, p.us_per_atom, max(p.error, 1e-16)) for p in precisions if p.us_per_atom is not None]
    if points:
        out.draw(
            "force error against time an atom, by precision",
            pictures.labelled,
            points,
            ("µs an atom", "force error / RMS force"),
        )
    told = [
        [p.name, f"{p.error:.1e}", "wrong: no speed" if p.us_per_atom is None else short(p.us_per_atom)]
        for p in precisions
    ]
    out.tables.append(Table("", [("precision", "text"), ("force error", "num"), ("µs an atom", "num")], told))
    out.text.append("Errors are RMS differences from the float64 reference over the RMS force.")
    return out


def _roofline(r: Roofline) -> Section:
    out = Section("roofline", "Against what the machine can do")
    out.draw(
        "operations a second against operations a byte",
        pictures.roofline,
        r.flops,
        r.bytes_per_second,
        r.intensity,
        r.reached,
    )
    most = min(r.flops, r.intensity * r.bytes_per_second)
    out.figures += [
        ("products of matrices", f"{short(r.flops / 1e9)} Gflop/s"),
        ("copies", f"{short(r.bytes_per_second / 1e9)} GB/s"),
        ("kernels", f"{short(r.reached / 1e9)} Gflop/s, {100 * r.reached / most:.0f} %"),
    ]  # fmt: skip
    out.text.append(
        "Peaks were measured here. Operations are counted as the paper writes the model; merged products and "
        "series need fewer, so that more than 100 % is possible."
    )
    return out


def _memory(m: Memory) -> Section:
    out = Section("memory", "Memory")
    points = [(a, b / 1e6) for a, b in m.peaks]
    out.draw(
        "peak memory of a process against atoms",
        pictures.lines,
        [("", points)],
        ("atoms", "MB, peak of a process"),
    )
    out.tables.append(
        Table("", [("atoms", "num"), ("peak, MB", "num")], [[count(a), count(round(b / 1e6))] for a, b in m.peaks])
    )
    if m.per_atom is None or m.largest is None:
        out.text.append("These systems differ too little in memory to say how large one could be.")
    else:
        out.text.append(
            f"Each further atom takes {short(m.per_atom / 1e3)} kB, so that {m.available / 1e9:.0f} GB would hold "
            f"about {_about(m.largest)} atoms; that is extrapolated and was not tried."
        )
    return out


def short(x: float) -> str:
    """Three digits."""
    return f"{x:,.0f}" if x >= 100 else f"{x:.3g}"


def _about(n: int) -> str:
    return f"{n / 1e6:.1f} million" if n >= 1e6 else count(round(n, -3) if n > 10_000 else n)
