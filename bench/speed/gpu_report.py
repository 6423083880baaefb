"""What ``gpu.py`` measured, as a table, a JSON file and a picture, and the machine that it was measured on."""

from __future__ import annotations

import json
import platform
import subprocess
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import torch
from rich.table import Table

LIMITS = {"float64": 1e-10, "float32": 2e-5}
"""Largest RMS force error over the RMS force; other precisions are told, not judged."""

COLORS = {"triton": "#2a6fbb", "reference": "#8a8a8a", "DeePMD-kit": "#c8662b"}


@dataclass(frozen=True)
class Row:
    """One engine in one precision on one case; None is what was not measured.

    Attributes:
        force_error: RMS against the judge over the RMS force. energy_error: eV per atom, the worst structure.
        spread: how far float64 forces go when the structure is moved as a whole; see ``bench/speed/gpu.py``.
        backend_us: µs per atom and step on a batch that lies on the card. evaluate_us: of ``Engine.evaluate``, from
            ``ase.Atoms`` to results.
        peak_bytes: most device memory allocated. chunks: pieces that the batch was cut into.
        launches, triton_launches: kernels that ran per piece, and those of them that are Triton's.
        said: what went wrong, or what there is to know.
    """

    case: str
    atoms: int
    engine: str
    precision: str
    force_error: float | None = None
    energy_error: float | None = None
    spread: float = 0.0
    backend_us: float | None = None
    evaluate_us: float | None = None
    peak_bytes: int | None = None
    chunks: int | None = None
    launches: float | None = None
    triton_launches: float | None = None
    failed: bool = False
    said: str = ""

    @property
    def limit(self) -> float | None:
        """What the force error is judged by."""
        return max(LIMITS[self.precision], self.spread) if self.precision in LIMITS else None

    @property
    def parity(self) -> bool | None:
        """Whether the forces are right; None where nothing is judged."""
        if self.failed:
            return False
        return None if self.limit is None or self.force_error is None else self.force_error <= self.limit


def driver_version() -> str:
    """The graphics driver's version, or nothing."""
    query = ["nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader"]
    try:
        return subprocess.run(query, capture_output=True, text=True, check=True).stdout.strip().splitlines()[0]
    except (OSError, subprocess.CalledProcessError, IndexError):
        return ""


def about(device: torch.device) -> dict[str, Any]:
    """The machine, and what runs on it."""
    from importlib.metadata import PackageNotFoundError, version

    try:
        triton = version("triton")
    except PackageNotFoundError:
        triton = ""
    card = torch.cuda.get_device_properties(device)
    return {
        "device": torch.cuda.get_device_name(device), "capability": f"{card.major}.{card.minor}",
        "multiprocessors": card.multi_processor_count, "memory_bytes": card.total_memory, "driver": driver_version(),
        "cuda": torch.version.cuda or "", "hip": torch.version.hip or "", "torch": torch.__version__,
        "triton": triton, "python": platform.python_version(), "dpa1_fast": version("dpa1-fast"),
        "date": datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC"),
    }  # fmt: skip


def speedups(rows: Sequence[Row]) -> dict[tuple[str, str, str], float]:
    """(case, engine, precision) → how many times faster than eager autograd in the same precision, else in float32."""
    eager = {(r.case, r.precision): r.backend_us for r in rows if r.engine == "reference"}
    out = {}
    for r in rows:
        base = eager.get((r.case, r.precision)) or eager.get((r.case, "float32"))
        if r.engine == "triton" and r.backend_us and base:
            out[r.case, r.engine, r.precision] = base / r.backend_us
    return out


def table(rows: Sequence[Row], machine: dict[str, Any]) -> Table:
    """The table, for a terminal of some 170 columns."""
    out = Table(title=f"dpa1-fast on {machine['device']}", caption=stamp(machine))
    left = ("case", "engine", "precision", "parity", "")
    for name in (
        "case", "engine", "precision", "force error", "eV/atom", "parity", "µs/atom", "of evaluate", "times eager",
        "peak MiB", "chunks", "launches each (Triton's)", "",
    ):  # fmt: skip
        out.add_column(name, justify="left" if name in left else "right")
    faster = speedups(rows)
    for r in rows:
        mark = {True: "[green]right[/]", False: "[red]not right[/]", None: "not judged"}[r.parity]
        mark += "" if r.limit is None or r.failed else f" (≤ {r.limit:.0e})"
        times = faster.get((r.case, r.engine, r.precision))
        launched = "–" if r.launches is None else f"{r.launches:.0f} ({r.triton_launches or 0:.0f})"
        out.add_row(
            f"{r.case} ({r.atoms:,})", r.engine, r.precision, number(r.force_error, ".1e"),
            number(r.energy_error, ".1e"), mark, number(r.backend_us, ".3g"), number(r.evaluate_us, ".3g"),
            number(times, ".1f"), number(None if r.peak_bytes is None else r.peak_bytes / 2**20, ",.0f"),
            number(r.chunks, "d"), launched, r.said,
        )  # fmt: skip
    return out


def number(x: float | None, how: str) -> str:
    """A number, or a dash."""
    return "–" if x is None else format(x, how)


def stamp(machine: dict[str, Any]) -> str:
    """Where and when, in one line."""
    names = {"driver": "driver", "cuda": "CUDA", "torch": "torch", "triton": "triton", "python": "Python"}
    parts = [f"{text} {machine[key]}" for key, text in names.items() if machine.get(key)]
    return ", ".join([str(machine["device"]), *parts, str(machine["date"])])


def write_json(rows: Sequence[Row], machine: dict[str, Any], path: Path) -> None:
    """Everything measured, with verdicts."""
    told = [{**asdict(r), "limit": r.limit, "parity": r.parity} for r in rows]
    path.write_text(json.dumps({"machine": machine, "rows": told}, indent=1), encoding="utf-8")


def write_picture(rows: Sequence[Row], machine: dict[str, Any], path: Path) -> bool:
    """µs per atom and step, a panel for each case; False without matplotlib."""
    try:
        import matplotlib
    except ImportError:
        return False
    matplotlib.use("Agg")
    from matplotlib import pyplot as plt
    from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

    shown = [r for r in rows if r.backend_us or r.evaluate_us]
    cases = list(dict.fromkeys(r.case for r in shown)) or ["nothing was measured"]
    heights = [max(1, sum(r.case == c for r in shown)) for c in cases]
    figure, axes = plt.subplots(
        len(cases), 1, figsize=(9, 1.4 + 0.28 * sum(heights) + 0.5 * len(cases)), squeeze=False, sharex=True,
        height_ratios=heights, layout="constrained",
    )  # fmt: skip
    for axis, case in zip(axes[:, 0], cases, strict=True):
        here = [r for r in shown if r.case == case][::-1]
        for y, r in enumerate(here):
            color = COLORS.get(r.engine, "#555555")
            if r.backend_us and r.evaluate_us:
                axis.plot([r.backend_us, r.evaluate_us], [y, y], color=color, linewidth=1.2, zorder=1)
            if r.backend_us:
                axis.plot(r.backend_us, y, "o" if r.parity else "D", color=color, markersize=6)
            if r.evaluate_us:
                axis.plot(r.evaluate_us, y, "o", markerfacecolor="white", markeredgecolor=color, markersize=6)
            values = [f"{x:.3g}" for x in (r.backend_us, r.evaluate_us) if x]
            at = max(r.backend_us or 0.0, r.evaluate_us or 0.0)
            axis.annotate(" / ".join(values), (at, y), (8, 0), textcoords="offset points", va="center", fontsize=8)
        axis.set_ylim(-0.7, max(0, len(here) - 1) + 0.7)
        axis.grid(axis="x", color="#e4e4e4", linewidth=0.7)
        axis.set_axisbelow(True)
        axis.set_yticks(range(len(here)), [f"{r.engine} {r.precision}" for r in here], fontsize=8)
        axis.set_title(f"{case}, {here[0].atoms:,} atoms" if here else case, loc="left", fontsize=9)
        axis.spines[["top", "right"]].set_visible(False)
    if shown:
        axes[0, 0].set_xscale("log")
        seen = [x for r in shown for x in (r.backend_us, r.evaluate_us) if x]
        axes[0, 0].set_xlim(min(seen) / 1.5, max(seen) * 3.0)
        axes[0, 0].xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        axes[0, 0].xaxis.set_major_formatter(FuncFormatter(lambda x, _: f"{x:g}"))
        axes[0, 0].xaxis.set_minor_formatter(NullFormatter())
    axes[-1, 0].set_xlabel(
        "µs per atom and step, logarithmic. Full: the networks (diamond: forces not judged). Open: all of evaluate",
        fontsize=8,
    )
    figure.suptitle(f"dpa1-fast on {machine['device']}", fontsize=11)
    figure.supxlabel(stamp(machine), fontsize=7, color="#555555")
    figure.savefig(path, dpi=150)
    plt.close(figure)
    return True
