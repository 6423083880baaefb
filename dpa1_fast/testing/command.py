"""What ``dpa1-fast test`` does and prints."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

from rich.console import Console
from rich.table import Table

from ..engine import Engine
from ..train.data import frames
from ..train.options import TrainingError
from .compare import compared, count
from .details import Details
from .picture import Parity
from .tally import Report, Tally

COLUMNS = (("ea", "energy", "meV/atom"), ("f", "force", "meV/Å"), ("va", "virial", "meV/atom"))
MOST_ROWS = 20


def errors_command(
    engine: Engine, model: str, data: Sequence[str], output: Path | None = None, as_json: bool = False
) -> int:
    """Tests a model and prints errors. Returns the exit code.

    Args:
        model: what the report calls it.

    Raises:
        TrainingError: no structure has a label.
    """
    report, parity = tested(engine, data, output)
    if not report.whole.sums:
        raise TrainingError("no structure of the data has an energy, force or virial to test against; give other data")
    told = {"model": model, "data": list(data), **report.told()}
    if output is not None:
        (output / "errors.json").write_text(json.dumps(told, indent=2, ensure_ascii=False), encoding="utf-8")
        (output / "parity.png").unlink(missing_ok=True)
        parity.draw(output / "parity.png", report.whole)
    if as_json:
        print(json.dumps(told, indent=2, ensure_ascii=False))
        return 0
    console = Console(highlight=False, width=None if sys.stdout.isatty() else 120)
    console.print(table("", {"all": report.whole}))
    for name, parts in (("system", report.systems), ("element", report.elements), ("kind", report.kinds)):
        if len(parts) > 1:
            console.print(table(name, parts if name != "system" else _short(parts)))
    if output is not None:
        written = sorted(p for p in output.iterdir() if p.name.startswith(("errors.", "parity.", "detail.")))
        console.print("wrote " + ", ".join(map(str, written)), soft_wrap=True)
    return 0


def _short(parts: Mapping[str, Tally]) -> dict[str, Tally]:
    """The same without the folder that all names begin with."""
    if len({os.path.isabs(name) for name in parts}) > 1:
        return dict(parts)
    common = os.path.commonpath(list(parts))
    return {os.path.relpath(name, common) if common else name: tally for name, tally in parts.items()}


def tested(engine: Engine, data: Sequence[str], output: Path | None) -> tuple[Report, Parity]:
    """Errors of a model over data; details go to files in ``output``."""
    report, parity = Report(), Parity()
    if output is not None:
        output.mkdir(parents=True, exist_ok=True)
    stream = compared(engine, frames(data, engine.config.type_map))
    if output is None:
        for one in stream:
            count(report, one, engine.config.type_map)
        return report, parity
    with Details(output) as details:
        for one in stream:
            count(report, one, engine.config.type_map)
            parity.add(one)
            details.write(one)
    return report, parity


def table(name: str, parts: Mapping[str, Tally]) -> Table:
    """RMSE and MAE of each part, the worst forces first where there are many."""
    rows = sorted(parts.items(), key=lambda x: -x[1].errors().get("rmse_f", x[1].errors().get("rmse_ea", 0.0)))
    out = Table(box=None, title=f"by {name}" if name else None, title_justify="left")
    out.add_column(name)
    for head in ("structures", "atoms"):
        out.add_column(head, justify="right")
    for _, what, unit in COLUMNS:
        out.add_column(f"{what} RMSE ({unit})", justify="right")
        out.add_column("MAE", justify="right")
    for label, tally in rows[:MOST_ROWS]:
        errors = tally.errors()
        numbers = []
        for short, _, _ in COLUMNS:
            for how in ("rmse", "mae"):
                value = errors.get(f"{how}_{short}")
                numbers.append("–" if value is None else f"{value * 1e3:.4g}")
        out.add_row(label, f"{tally.structures:,}", f"{tally.atoms:,}", *numbers)
    if len(rows) > MOST_ROWS:
        out.caption, out.caption_justify = f"{len(rows) - MOST_ROWS} more", "left"
    return out
