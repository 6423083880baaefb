"""What ``dpa1-fast screen`` prints."""

from __future__ import annotations

import gc
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NoReturn

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from .folder import FAILURES
from .job import Outcome, StoppedError, run
from .options import Options
from .progress import Watch
from .rows import TOO_CLOSE
from .sinks import summary
from .summary_statistics import SummaryStatistics


class Terminated(BaseException):
    """The process was asked to end."""


def screen_command(options: Options) -> int:
    """Runs a job and prints what came out. Returns the exit code."""
    console = Console(highlight=False, width=None if sys.stdout.isatty() else 120)
    gc.freeze()  # what was imported stays: it need not be looked through again and again
    try:
        with _terminated(), Watch() as watch:
            outcome = run(options, watch)
    except StoppedError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    except (KeyboardInterrupt, Terminated) as error:
        print("interrupted; what is written is safe, and the same command goes on from there", file=sys.stderr)
        return 130 if isinstance(error, KeyboardInterrupt) else 143
    _print(console, outcome, options)
    return outcome.statistics.exit_code


@contextmanager
def _terminated() -> Iterator[None]:
    """A polite signal, as from a batch system whose time is up, ends a job like Ctrl-C does."""

    def end(*_: Any) -> NoReturn:
        raise Terminated

    before = signal.signal(signal.SIGTERM, end)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def _print(console: Console, outcome: Outcome, options: Options) -> None:
    found, engine = outcome.statistics, outcome.engine
    if found.best:
        console.print(best_table(found, options.by))
    if found.failed:
        console.print(failures_table(found))
    count = found.ok + found.failed
    if outcome.complete:
        console.print(f"{count:,} structures, {found.atoms:,} atoms: this job was complete, nothing was left to do")
    else:
        seconds = max(outcome.seconds, 1e-9)
        again = f" ({outcome.resumed:,} of them in an earlier run)" if outcome.resumed else ""
        speed = f"{outcome.structures / seconds:,.0f} structures/s"
        console.print(
            f"{count:,} structures{again}, {found.atoms:,} atoms in {seconds:.1f} s, {speed} on {engine.device} "
            f"({options.precision}); {found.failed:,} failed",
            soft_wrap=True,
        )
    if found.not_converged:
        console.print(f"{found.not_converged:,} relaxations did not converge in {options.steps} steps (see converged)")
    if found.too_close:
        console.print(
            f"structures with atoms closer than {TOO_CLOSE} Å to each other, where models know nothing: "
            f"{found.too_close:,} (see closest; --min-distance refuses them)",
            soft_wrap=True,
        )
    if found.flags is not None:
        told = ", ".join(f"{name} {n:,}" for name, n in found.flags.most_common())
        console.print(f"{found.flagged:,} structures are not to be trusted{': ' * bool(told)}{told} (see flags)")
    names = [summary.NAME, *sorted(p.name for p in outcome.folder.glob("results.*"))]
    names += [x for x in (FAILURES, "report.html") if (outcome.folder / x).exists()]
    console.print("wrote " + ", ".join(str(outcome.folder / x) for x in names), soft_wrap=True)


def best_table(found: SummaryStatistics, by: str) -> Table:
    """The structures with the smallest ``by``."""
    title = {"energy_per_atom": "energy per atom"}.get(by, by)
    table = Table(title=f"lowest {len(found.best)} in {title}", title_justify="left", box=None)
    extra = [] if by in ("energy_per_atom", "energy", "max_force") else [by]
    for name in ("#", "formula", "atoms", "E/atom (eV)", "E (eV)", "max |F| (eV/Å)", *extra, "source"):
        table.add_column(name, justify="left" if name in ("formula", "source") else "right", no_wrap=True)
    for row in found.best:
        numbers = [f"{row['energy_per_atom']:.4f}", f"{row['energy']:.3f}", f"{row['max_force']:.3f}"]
        numbers += [f"{row[x]:.4f}" for x in extra]
        source = f"{Path(row['source']).name}:{row['frame']}"
        table.add_row(str(row["index"]), row["formula"], str(row["natoms"]), *numbers, escape(source))
    return table


def failures_table(found: SummaryStatistics) -> Table:
    """The first failures, and how many more there are."""
    table = Table(title="failed", title_justify="left", box=None)
    for name in ("#", "source", "frame", "reason"):
        table.add_column(name, justify="right" if name in ("#", "frame") else "left", overflow="fold")
    for row in found.failures:
        table.add_row(str(row["index"]), escape(row["source"]), str(row["frame"]), escape(row["error"]))
    if found.failed > len(found.failures):
        table.add_row("…", f"{found.failed - len(found.failures):,} more", "", f"see {FAILURES}")
    return table
