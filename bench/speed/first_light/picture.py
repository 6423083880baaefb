"""µs an atom by size and precision, and each kernel beside the model of time."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from .findings import Findings

COLORS = {"bfloat16": "#2a6fbb", "tf32": "#2f9e77", "float32": "#c8662b", "float64": "#7b4fa3", "float16": "#b8860b"}


def draw(found: Findings, path: Path) -> bool:
    """Writes the picture; False where there is nothing to draw, or no matplotlib."""
    sizes = [
        r for r in [*found.of("sizes"), *found.of("largest")] if r.get("us_per_atom") and r.get("right") is not False
    ]
    kernels = [r for r in found.of("by_kernel") if r.get("us_per_atom")]
    if not sizes and not kernels:
        return False
    try:
        import matplotlib
    except ImportError:
        return False
    matplotlib.use("Agg")
    from matplotlib import pyplot as plt

    groups = [p for p in COLORS if any(r["precision"] == p for r in kernels)]
    figure, axes = plt.subplots(
        1, 1 + len(groups), figsize=(5.5 + 5.0 * len(groups), 4.6), squeeze=False, layout="constrained"
    )
    _sizes(axes[0, 0], sizes)
    for axis, precision in zip(axes[0, 1:], groups, strict=True):
        _kernels(axis, [r for r in kernels if r["precision"] == precision], precision)
    figure.suptitle(f"dpa1-fast on {found.device}", fontsize=11)
    figure.supxlabel(f"code {found.kit}", fontsize=7, color="#666666")
    figure.savefig(path, dpi=150)
    plt.close(figure)
    return True


def _sizes(axis: Any, rows: list[dict[str, Any]]) -> None:
    for precision, color in COLORS.items():
        mine = sorted((r for r in rows if r["precision"] == precision), key=lambda r: r["atoms"])
        liquid = [r for r in mine if r.get("structures", 1) == 1]
        if liquid:
            axis.plot(
                [r["atoms"] for r in liquid],
                [r["us_per_atom"] for r in liquid],
                "o-",
                color=color,
                markersize=4,
                label=precision,
            )
            axis.annotate(f"{liquid[-1]['us_per_atom']:.3g}", (liquid[-1]["atoms"], liquid[-1]["us_per_atom"]), (6, 0),
                          textcoords="offset points", va="center", fontsize=8, color=color)  # fmt: skip
        for r in (r for r in mine if r.get("structures", 1) > 1):
            axis.plot(r["atoms"], r["us_per_atom"], "D", color=color, markerfacecolor="white", markersize=5)
    axis.set_xscale("log")
    axis.set_yscale("log")
    axis.margins(x=0.15)
    axis.set_xlabel("atoms; open: 64 clusters", fontsize=8)
    axis.set_ylabel("µs per atom", fontsize=8)
    axis.grid(color="#e4e4e4", linewidth=0.7, which="both")
    axis.set_axisbelow(True)
    axis.spines[["top", "right"]].set_visible(False)
    if axis.get_legend_handles_labels()[0]:
        axis.legend(fontsize=8, frameon=False)


def _kernels(axis: Any, rows: list[dict[str, Any]], precision: str) -> None:
    rows = sorted(rows, key=lambda r: r["us_per_atom"])
    for y, r in enumerate(rows):
        axis.barh(y, r["us_per_atom"], height=0.55, color=COLORS[precision])
        model = r.get("model_us_per_atom")
        if model:
            axis.plot([model, model], [y - 0.4, y + 0.4], color="#222222", linewidth=1.6)
        axis.annotate(f"{r['us_per_atom']:.3g}", (max(r["us_per_atom"], model or 0.0), y), (5, 0),
                      textcoords="offset points", va="center", fontsize=7)  # fmt: skip
    axis.set_yticks(range(len(rows)), [r["kernel"].removesuffix("_kernel").strip("_") for r in rows], fontsize=7)
    axis.set_xlabel(f"µs per atom, {precision}; bar: measured, line: model", fontsize=8)
    axis.margins(x=0.2)
    axis.spines[["top", "right"]].set_visible(False)
