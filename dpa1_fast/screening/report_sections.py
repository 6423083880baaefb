"""The sections of a report: what each shows, in pictures, figures, sentences and tables."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from markupsafe import Markup

from . import report_pictures as pictures
from .folder import FAILURES
from .report_numbers import NO_FORCE, Column, Numbers
from .report_pace import Pace
from .report_text import QUANTITIES, axis, count, duration, formula, number, place, quantity, rate, share, system, times
from .summary_statistics import SummaryStatistics

POINTS = 2_500
"""Dots of a picture at most."""
DOTTED = 25
REASONS = 12
HEADS = {
    "energy_per_atom": "E / atom\n(eV)",
    "energy": "E\n(eV)",
    "max_force": "max |F|\n(eV/Å)",
    "pressure": "pressure\n(eV/Å³)",
    "volume": "volume\n(Å³)",
    "steps": "steps",
    "max_devi_f": "deviation\n(eV/Å)",
    "e_above_hull": "above hull\n(eV/atom)",
}
"""Of the table's columns, in two lines."""
UNITS = (("s", 1), ("min", 60), ("h", 3600))

Rows = Mapping[int, Mapping[str, Any]]


@dataclass
class Table:
    """Columns are (name, class); cells are text, or Markup where they are more."""

    title: str
    columns: Sequence[tuple[str, str]]
    rows: list[list[Any]]


@dataclass
class Section:
    """A part of the page."""

    name: str
    title: str
    pictures: list[tuple[Markup, str]] = field(default_factory=list)
    figures: list[tuple[str, str]] = field(default_factory=list)
    text: list[str] = field(default_factory=list)
    tables: list[Table] = field(default_factory=list)
    wide: bool = False

    def draw(self, words: str, function: Callable[..., str], *arguments: Any) -> None:
        """Adds a picture, where pictures can be drawn. ``words``: for those who do not see it."""
        if pictures.available():
            self.pictures.append((Markup(function(*arguments)), words))


FLAG_WORDS = {
    "unseen_element": "an element that the training set does not have",
    "unseen_pair": "two elements within the cut-off that are never neighbours in the training set",
    "closer_than_trained": "two atoms closer than any two of their kinds in the training set",
    "far_from_training": "an atom whose surroundings the training set says less about than about any of its own",
}


def trust(found: SummaryStatistics) -> Section:
    """How many structures have flags, by flag."""
    out = Section("trust", "What not to trust")
    flags: Mapping[str, int] = found.flags or {}
    out.figures.append(("flagged", count(found.flagged)))
    out.tables.append(
        Table("", [("flag", "text"), ("structures", "num"), ("what it means", "text")],
              [[name, count(flags.get(name, 0)), words] for name, words in FLAG_WORDS.items()])
    )  # fmt: skip
    return out


def best(found: SummaryStatistics, by: str) -> Section:
    """The structures with the smallest ``by``: a table and a picture."""
    words = QUANTITIES[by][0]
    out = Section(
        "best", f"Lowest {len(found.best)} in {words}" if len(found.best) > 1 else f"Lowest in {words}", wide=True
    )
    wanted = ["energy_per_atom", "energy", "max_force"]
    wanted += [c for c in (by, "steps", "max_devi_f", "e_above_hull") if c not in wanted and c in found.best[0]]
    columns = [("#", "num"), ("formula", "formula"), ("atoms", "num"), *((HEADS[c], "num") for c in wanted)]
    out.tables.append(Table("", [*columns, ("source", "source")], [
        [count(r["index"]), formula(r["formula"]), count(r["natoms"]),
         *(count(r[c]) if c == "steps" and r[c] is not None else number(r[c], 3 if c == "energy" else 4)
           for c in wanted),
         place(r)] for r in found.best
    ]))  # fmt: skip
    dotted = found.best[:DOTTED]
    if len(dotted) > 1:
        labels = [f"{pictures.short(r['formula'])}  #{r['index']}" for r in dotted]
        told = f"The {words} of the best {len(dotted)}, from {quantity(dotted[0][by], by)} to "
        out.draw(told + quantity(dotted[-1][by], by), pictures.dots, labels, [r[by] for r in dotted], axis(by))
    return out


def energies(numbers: Numbers, known: Rows) -> Section:
    """How energies are distributed, and by kinds of structures."""
    out = _distribution(numbers, "energy_per_atom", "Energies")
    if numbers.kind:
        what = "formula" if numbers.kind == "formula" else "elements"
        out.text.append("Energies of different compositions do not compare with each other directly.")
        columns = [
            (what, "formula"),
            ("structures", "num"),
            ("lowest (eV/atom)", "num"),
            ("that is", "formula"),
            ("#", "num"),
        ]
        out.tables.append(Table("", columns, [
            [_kind(g.label, numbers.kind), count(g.count), number(g.energy), formula(known[g.index]["formula"]),
             count(g.index)] for g in numbers.groups
        ]))  # fmt: skip
    return out


def forces(numbers: Numbers) -> Section:
    """How the largest forces are distributed."""
    out = _distribution(numbers, "max_force", "Largest forces")
    out.text.insert(0, "Of each structure the longest of its force vectors.")
    return out


def energies_and_forces(numbers: Numbers) -> Section:
    """A dot a structure."""
    out = Section("scatter", "Energies and forces")
    x, y = numbers.columns["energy_per_atom"].histogram, numbers.columns["max_force"].histogram
    xs, ys, group = (numbers.sample[n][:POINTS] for n in ("energy_per_atom", "max_force", "group"))
    (left, *_, right), (bottom, *_, top) = x.shown()[0], y.shown()[0]
    if y.log:
        bottom, top = bottom / 1.3, top * 1.3
        tiny = ys < NO_FORCE
        ys = np.where(tiny, bottom * 1.05, ys)
        if tiny.any():
            out.text.append(f"{count(int(tiny.sum()))} with practically no force are drawn at the lower edge.")
    else:
        bottom, top = bottom - 0.04 * (top - bottom), top + 0.04 * (top - bottom)
    left, right = left - 0.03 * (right - left), right + 0.03 * (right - left)
    inside = (xs >= left) & (xs <= right) & (ys >= bottom) & (ys <= top)
    labels, drawn_as = _labels(numbers)
    drawn = np.array([drawn_as.get(int(g), 0) for g in group[inside]])
    out.draw(
        f"Largest force against energy per atom of {count(int(inside.sum()), 'structure')}", pictures.scatter,
        xs[inside], ys[inside], drawn, labels, (axis("energy_per_atom"), axis("max_force")),
        ((left, right), (bottom, top)), y.log,
    )  # fmt: skip
    if len(xs) < numbers.ok:
        out.text.insert(0, f"A random sample of {count(len(xs))} of {count(numbers.ok, 'structure')}.")
    if not inside.all():
        some = int((~inside).sum())
        out.text.append(f"{count(some)} of them {'lies' if some == 1 else 'lie'} outside what is drawn.")
    return out


def relaxation(numbers: Numbers, found: SummaryStatistics, identity: Mapping[str, Any]) -> Section:
    """How many relaxations converged, in how many steps."""
    out = _distribution(numbers, "steps", "Relaxation", digits=0)
    done = found.ok - found.not_converged
    out.figures.insert(0, ("converged", f"{count(done)} of {count(found.ok)} ({share(done, found.ok)})"))
    what = "Atoms and cells were" if identity["relax"] == "cell" else "Atoms were"
    out.text.insert(0, f"{what} relaxed until no force was larger than {identity['fmax']:g} eV/Å.")
    if found.not_converged:
        out.text.append(
            f"{count(found.not_converged)} did not get there in {count(identity['steps'], 'step')}; "
            "their energies are those of the last step (column converged)."
        )
    return out


def deviation(numbers: Numbers, known: Rows) -> Section:
    """How far several models disagree."""
    out = _distribution(numbers, "max_devi_f", "Disagreement of the models")
    out.text.insert(0, "Of each structure the largest standard deviation of a force between the models.")
    column = numbers.columns["max_devi_f"]
    columns = [("#", "num"), ("formula", "formula"), ("deviation (eV/Å)", "num"), ("source", "source")]
    for title, ends in (("The models agree best on", column.low), ("The models disagree most on", column.high[::-1])):
        if column.count > 5 or title.endswith("best on"):
            out.tables.append(Table(title, columns, [
                [count(k), formula(known[k]["formula"]), number(value), place(known[k])]
                for value, k in ends
            ]))  # fmt: skip
    return out


def hull(numbers: Numbers) -> Section:
    """Where the structures lie by the hull of the references."""
    out = _distribution(numbers, "e_above_hull", "Energy above the hull")
    column = numbers.columns["e_above_hull"]
    stable = f"{count(column.at_most_zero)} of {count(column.count)} ({share(column.at_most_zero, column.count)})"
    out.figures.insert(0, ("on or below the hull", stable))
    if column.count < numbers.ok:
        missing = numbers.ok - column.count
        out.text.append(f"{count(missing, 'structure')} with an element that has no reference: not counted.")
    return out


def throughput(went: Pace) -> Section:
    """How fast the job went."""
    out = Section("throughput", "Throughput")
    mean = went.structures / went.seconds
    out.figures = [("mean", f"{rate(mean)} structures/s"), ("atoms", f"{rate(went.atoms / went.seconds)} atoms/s"),
                   ("running", duration(went.seconds))]  # fmt: skip
    unit, size = next((u for u in UNITS if went.seconds < 200 * u[1]), ("days", 86400))
    rates = np.array(went.rates)
    told = f"Structures per second while the job was running, between {rate(rates.min())} and {rate(rates.max())}"
    out.draw(told, pictures.throughput, np.array(went.edges) / size, rates, [m / size for m in went.marks], unit)
    if went.marks:
        gap = f"the {duration(went.away)} between its runs are left out"
        out.text.append(f"The job was interrupted and resumed {times(len(went.marks))}; {gap}.")
    return out


def failures(found: SummaryStatistics) -> Section:
    """Why structures failed."""
    out = Section("failures", "Failures", wide=True)
    common = found.reasons.most_common(REASONS)
    most = max(n for _, n in common)
    bar = Markup('<span class="bar" style="width:{:.1f}%"></span>')
    lines = [[reason, count(n), bar.format(max(100 * n / most, 0.5))] for reason, n in common]
    rest = found.failed - sum(n for _, n in common)
    if rest:
        lines.append(
            [count(len(found.reasons) - len(common), "other reason"), count(rest), bar.format(100 * rest / most)]
        )
    columns = [("reason", "reason"), ("structures", "num"), ("", "bars")]
    out.tables.append(Table("By reason (… stands for a number)", columns, lines))
    columns = [("#", "num"), ("formula", "formula"), ("reason", "reason"), ("source", "source")]
    title = f"The first {len(found.failures)}" if found.failed > len(found.failures) else "Each of them"
    out.tables.append(Table(title, columns, [
        [count(r["index"]), formula(r["formula"]), r["error"], place(r)] for r in found.failures
    ]))  # fmt: skip
    out.text.append(
        f"All {count(found.failed)} are in {FAILURES}." if found.failed > 1 else f"It is in {FAILURES} too."
    )
    return out


def _distribution(numbers: Numbers, name: str, title: str, digits: int = 4) -> Section:
    """A histogram, its range and middle, and what it leaves out."""
    column, out = numbers.columns[name], Section(name, title)
    edges, counts = column.histogram.shown()
    labels, places = _labels(numbers) if len(counts) > 1 else ([""], {0: 0})
    counts = counts[list(places)]
    about = "≈ " if numbers.sampled else ""
    ends = f"{number(column.least, digits)} to {quantity(column.largest, name, digits)}"
    out.figures = [("from", ends), ("median", about + quantity(column.median, name, digits))]
    words = f"Histogram of {count(int(counts.sum()), 'structure')} by {axis(name)}, from {ends}"
    if column.least < column.largest:
        log, whole = column.histogram.log, name == "steps"
        out.draw(words, pictures.histogram, edges, counts, labels, axis(name), log, whole)
    out.text += _outside(column, name, float(edges[0]), float(edges[-1]))
    return out


def _outside(column: Column, name: str, left: float, right: float) -> list[str]:
    """Sentences on the values that a picture leaves out."""
    out, unit = [], QUANTITIES[name][1]
    if column.tiny:
        verb = "is" if column.tiny == 1 else "are"
        out.append(f"{count(column.tiny)} {verb} practically 0 (below {NO_FORCE:g} {unit}) and not drawn.")
    below, above = column.histogram.below, column.histogram.above
    ends = [f"{count(below)} below {number(left, 2)} (down to {number(column.least, 2)})"] if below else []
    ends += [f"{count(above)} above {number(right, 2)} (up to {number(column.largest, 2)})"] if above else []
    if ends:
        verb = "lies" if below + above == 1 else "lie"
        out.append(f"{' and '.join(ends)} {unit} {verb} outside the picture, so that it shows the others.")
    return out


def _labels(numbers: Numbers) -> tuple[list[str], dict[int, int]]:
    """Names of the kinds that came up, and from each one's number to its place among them."""
    if not numbers.kind:
        return [""], {0: 0}
    return [_kind(g.label, numbers.kind) for g in numbers.groups], {g.number: k for k, g in enumerate(numbers.groups)}


def _kind(label: str, kind: str) -> str:
    return system(label) if kind == "elements" else label
