"""The report: what a job screened, how it went and what came out best, on one page that needs nothing but a browser.

``report_sections.py`` says what is shown, ``report.html.j2`` how it looks; sections without data are left out.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined, Template

from . import report_pictures as pictures
from . import report_sections as sections
from .report_numbers import Numbers, read, rows
from .report_pace import Pace, pace
from .report_sections import Section
from .report_text import count, duration, listed, number, rate, share, times
from .rows import TOO_CLOSE
from .sinks import summary
from .sinks.base import write_file
from .summary_statistics import SummaryStatistics

NAME = "report.html"
INPUTS = 8
COLUMNS = ("energy_per_atom", "max_force", "steps", "max_devi_f", "e_above_hull")


def write_report(
    folder: Path, identity: Mapping[str, Any], blocks: Sequence[Mapping[str, Any]], found: SummaryStatistics, by: str
) -> None:
    """Writes ``report.html``, whole or not at all, from a finished summary; in constant memory.

    Args:
        folder: of the job. identity: what the job is, see ``Options.identity``. blocks: of the journal.
        found: the summary's statistics. by: the column by which structures are best.

    Raises:
        OSError: it cannot be written.
    """
    write_file(folder / NAME, page(folder, identity, blocks, found, by).encode("utf-8", "backslashreplace"))


def page(
    folder: Path, identity: Mapping[str, Any], blocks: Sequence[Mapping[str, Any]], found: SummaryStatistics, by: str
) -> str:
    """The page as HTML; see ``write_report``."""
    went = pace(blocks)
    before: list[Section] = []
    beside: list[Section] = []
    numbers = None
    if found.ok:
        table = folder / summary.NAME
        numbers = read(table, found.ok, COLUMNS, extremes=("max_devi_f",), steps=identity.get("steps", 0))
        before = [sections.best(found, by)] if found.best else []
        beside = _on_structures(table, numbers, identity, found)
        if found.flags is not None:
            beside.append(sections.trust(found))
    if len(went.rates) > 2:
        beside.append(sections.throughput(went))
    return template().render(
        title=f"Screening of {_inputs(identity)}",
        verdict=_verdict(found),
        figures=_figures(found, numbers, went),
        facts=_facts(identity, blocks),
        before=before,
        beside=beside,
        after=[sections.failures(found)] if found.failed else [],
        pictures=pictures.available(),
        version=identity["version"],
        again="delete this file, and give the same command again; nothing is evaluated twice.",
        source="summary.parquet, which has a row for every structure",
    )


def _on_structures(
    table: Path, numbers: Numbers, identity: Mapping[str, Any], found: SummaryStatistics
) -> list[Section]:
    deviation = numbers.columns.get("max_devi_f")
    wanted = {g.index for g in numbers.groups} if numbers.kind else set()
    wanted |= {k for _, k in [*deviation.low, *deviation.high]} if deviation else set()
    known = rows(table, sorted(wanted)) if wanted else {}
    out = []
    if found.ok > 1:  # one alone has its line in the table
        out += [sections.energies(numbers, known), sections.forces(numbers), sections.energies_and_forces(numbers)]
    if "steps" in numbers.columns:
        out.append(sections.relaxation(numbers, found, identity))
    if deviation:
        out.append(sections.deviation(numbers, known))
    if "e_above_hull" in numbers.columns and numbers.columns["e_above_hull"].count:
        out.append(sections.hull(numbers))
    return out


def _verdict(found: SummaryStatistics) -> tuple[str, str]:
    """How a job went: a class, and a sentence."""
    every = found.ok + found.failed
    if not every:
        return "bad", "There was no structure in the input."
    if not found.ok:
        return "bad", "The structure failed." if every == 1 else f"All {count(every, 'structure')} failed."
    if found.failed:
        failed = f"{count(found.failed)} of {count(every, 'structure')} failed ({share(found.failed, every)})"
        return "some", f"{failed}, all others were evaluated."
    return "good", "The structure was evaluated." if every == 1 else f"All {count(every, 'structure')} were evaluated."


def _figures(found: SummaryStatistics, numbers: Numbers | None, went: Pace) -> list[tuple[str, Any, Any]]:
    """The key figures: (what, value, remark)."""
    every = found.ok + found.failed
    out: list[tuple[str, Any, Any]] = [
        ("evaluated", count(found.ok), f"of {count(every, 'structure')}" if found.failed else "all structures"),
        *([("failed", count(found.failed), share(found.failed, every))] if found.failed else []),
    ]
    if numbers is not None:
        out.append(("atoms", count(found.atoms), f"{found.atoms / found.ok:,.1f} a structure"))
        lowest = min(numbers.groups, key=lambda g: g.energy)
        out.append(("lowest energy", number(lowest.energy), f"eV/atom, #{lowest.index:,}"))
        out.append(("largest force", number(numbers.columns["max_force"].median, 3), "eV/Å, in the median structure"))
    if found.too_close:
        out.append(("overlapping", count(found.too_close), f"atoms closer than {TOO_CLOSE} Å"))
    if numbers is not None and "steps" in numbers.columns:
        converged = found.ok - found.not_converged
        out.append(("converged", share(converged, found.ok), f"{count(found.not_converged)} not"))
    if numbers is not None and "max_devi_f" in numbers.columns:
        out.append(("disagreement", number(numbers.columns["max_devi_f"].median), "eV/Å, median"))
    if numbers is not None and "e_above_hull" in numbers.columns:
        column = numbers.columns["e_above_hull"]
        out.append(("on or below hull", count(column.at_most_zero), f"of {count(column.count)}"))
    if went.seconds > 0 and found.ok:
        out.append(("speed", rate(went.structures / went.seconds), "structures/s"))
        out.append(("time", duration(went.seconds), f"resumed {times(len(went.marks))}" if went.marks else ""))
    return out


def _facts(identity: Mapping[str, Any], blocks: Sequence[Mapping[str, Any]]) -> list[tuple[str, list[str]]]:
    """What made the job what it is: (name, lines)."""
    names = list(identity["inputs"])
    more = [f"and {count(len(names) - INPUTS)} more"] if len(names) > INPUTS else []
    models = [f"{name} (SHA-256 {digest[:12]}…)" for name, digest in identity["models"].items()]
    out = [
        ("inputs" if len(names) > 1 else "input", names[:INPUTS] + more),
        ("models" if len(models) > 1 else "model", models),
        ("head", [identity["head"]] if identity.get("head") else []),
        ("precision", [identity["precision"]]),
        ("ran on", [f"{identity['device']}, backend {identity['backend']}"]),
    ]
    if "relax" in identity:
        what = "atoms and cells" if identity["relax"] == "cell" else "atoms"
        limits = f"to {identity['fmax']:g} eV/Å, at most {count(identity['steps'], 'step')}"
        out.append(("relaxed", [f"{what}, {limits}"]))
    if "min_distance" in identity:
        out.append(("refused", [f"structures with atoms closer than {identity['min_distance']:g} Å"]))
    if "references" in identity:
        out.append(("references", list(identity["references"])))
    if identity["write"]:
        out.append(("also written", [f"structures as {listed(identity['write'])}"]))
    if blocks:
        out.append(("finished", [time.strftime("%Y-%m-%d %H:%M UTC", time.gmtime(blocks[-1]["time"]))]))
    out.append(("dpa1-fast", [identity["version"]]))
    return [(name, lines) for name, lines in out if lines]


def _inputs(identity: Mapping[str, Any]) -> str:
    names = [Path(n).name or n for n in identity["inputs"]]
    return names[0] + (f" and {count(len(names) - 1)} more" if len(names) > 1 else "")


@cache
def template() -> Template:
    """The page that all reports are: one file, nothing fetched, everything escaped but pictures."""
    environment = Environment(
        loader=PackageLoader("dpa1_fast.screening", "."), autoescape=True, undefined=StrictUndefined,
        trim_blocks=True, lstrip_blocks=True,
    )  # fmt: skip
    return environment.get_template("report.html.j2")
