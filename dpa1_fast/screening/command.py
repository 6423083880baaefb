"""What ``dpa1-fast screen`` shows and in which order it does things."""

from __future__ import annotations

import sys
import time
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, Progress, SpinnerColumn, TextColumn, TimeElapsedColumn
from rich.table import Table

from .. import __version__
from ..checkpoint import find
from ..describe import file_hash
from ..loading import load
from .job import Tally, run
from .sinks import EXTXYZ, PARQUET
from .sources import expand, read_items


def screen_command(
    inputs: list[str],
    model: str,
    output: Path,
    head: str | None,
    device: str,
    backend: str,
    precision: str,
    threads: int | None,
    top: int,
    plot: bool,
) -> int:
    """Screens ``inputs`` into ``output`` and prints what came out. Returns the exit code."""
    paths = expand(inputs)
    engine = load(model, device=device, backend=backend, precision=precision, head=head, threads=threads)
    provenance = {
        "version": __version__,
        "model": str(model),
        "model_sha256": file_hash(find(model)),
        "head": head or "",
        "device": str(engine.device),
        "backend": engine.backend,
        "precision": precision,
    }
    console = Console(highlight=False, width=None if sys.stdout.isatty() else 120)
    began = time.perf_counter()
    columns = (SpinnerColumn(), TextColumn("{task.description}"), BarColumn(), TimeElapsedColumn())
    with Progress(*columns, console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task("structures", total=None)

        def progress(done: int, failed: int) -> None:
            rate = (done + failed) / (time.perf_counter() - began)
            said = f"{done + failed:,} structures, {rate:,.0f}/s" + (f", {failed:,} failed" if failed else "")
            bar.update(task, description=said)

        items = read_items(paths, engine.config.type_map)
        tally = run(engine, items, output, provenance, progress, max(top, 10))
    spent = time.perf_counter() - began
    _print(console, tally, top)
    rate = f"{tally.done + tally.failed:,} structures, {tally.atoms:,} atoms in {spent:.1f} s"
    console.print(f"{rate} on {engine.device} ({precision}); {tally.failed:,} failed")
    console.print(f"wrote {output / EXTXYZ} and {output / PARQUET}", soft_wrap=True)
    if plot:
        _plot(console, tally, output, top)
    return tally.exit_code


def _plot(console: Console, tally: Tally, output: Path, top: int) -> None:
    from .picture import draw

    picture = output / "overview.png"
    drawn = draw(output / PARQUET, picture, tally.best[:top])
    console.print(f"drew {picture}" if drawn else "no picture: pip install 'dpa1-fast[plot]'", soft_wrap=True)


def _print(console: Console, tally: Tally, top: int) -> None:
    if tally.best and top > 0:
        table = Table(title=f"lowest {min(top, len(tally.best))} in energy per atom", title_justify="left", box=None)
        for name in ("#", "formula", "atoms", "E/atom (eV)", "E (eV)", "max |F| (eV/Å)", "source"):
            table.add_column(name, justify="left" if name in ("formula", "source") else "right", no_wrap=True)
        for row in tally.best[:top]:
            table.add_row(*_cells(row))
        console.print(table)
    if tally.failures:
        table = Table(title="failed", title_justify="left", box=None)
        for name in ("#", "source", "frame", "reason"):
            table.add_column(name, justify="right" if name in ("#", "frame") else "left", overflow="fold")
        for row in tally.failures[:top]:
            table.add_row(str(row["index"]), row["source"], str(row["frame"]), row["error"])
        if tally.failed > len(tally.failures[:top]):
            table.add_row("…", f"{tally.failed - len(tally.failures[:top]):,} more", "", "see the table's error column")
        console.print(table)


def _cells(row: dict[str, Any]) -> list[str]:
    return [
        str(row["index"]),
        row["formula"],
        str(row["natoms"]),
        f"{row['energy_per_atom']:.4f}",
        f"{row['energy']:.3f}",
        f"{row['max_force']:.3f}",
        f"{Path(row['source']).name}:{row['frame']}",
    ]
