"""The pictures of the page, in the screening report's style."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from ..screening.report_pictures import LINE, MARK, SERIES, axes_for, legend, plain_numbers

Points = Sequence[tuple[float, float]]


DECADES = 30
"""Where values differ by more than this factor, their axis is logarithmic."""


def lines(series: Sequence[tuple[str, Points]], names: tuple[str, str]) -> str:
    """Values against others, which are on a logarithmic axis; the values' axis begins at 0 or is logarithmic too."""
    values = [y for _, points in series for _, y in points]
    log = max(values) > DECADES * min(values)
    with axes_for(*names) as (axes, out):
        for k, (label, points) in enumerate(series):
            x, y = zip(*points, strict=True)
            axes.plot(x, y, color=SERIES[k], linewidth=1.2, marker="o", markersize=3.2, label=label)
        _logarithmic(axes, "x")
        if log:
            _logarithmic(axes, "y")
        else:
            axes.set_ylim(0, 1.1 * max(values))
            plain_numbers(axes.yaxis, False)
        axes.grid()
        legend(axes, [label for label, _ in series])
    return out[0]


def _logarithmic(axes: Any, which: str) -> None:
    """A logarithmic axis with numbers within a decade too, where there are few decades."""
    from matplotlib.ticker import LogLocator

    getattr(axes, f"set_{which}scale")("log")
    axis = getattr(axes, f"{which}axis")
    plain_numbers(axis, True)
    low, high = getattr(axes, f"get_{which}lim")()
    if high < 3000 * low:
        axis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0) if high < 100 * low else (1.0, 3.0), numticks=12))


def bars(parts: Sequence[tuple[str, float]], name: str) -> str:
    """Shares of a whole, one a line."""
    with axes_for(name, "", height=0.6 + 0.26 * len(parts)) as (axes, out):
        places = list(range(len(parts)))[::-1]
        axes.barh(places, [v for _, v in parts], color=SERIES[0], height=0.6)
        axes.set_yticks(places, [label for label, _ in parts])
        axes.tick_params(axis="y", length=0)
        axes.spines["left"].set_visible(False)
        plain_numbers(axes.xaxis, False)
        axes.grid(axis="x")
    return out[0]


def labelled(points: Sequence[tuple[str, float, float]], names: tuple[str, str]) -> str:
    """Named dots, x linear from 0, y logarithmic."""
    with axes_for(*names) as (axes, out):
        for k, (label, x, y) in enumerate(points):
            axes.scatter([x], [y], s=22, color=SERIES[k % len(SERIES)], linewidths=0, zorder=3)
            right = x < 0.7 * max(p[1] for p in points)
            axes.annotate(
                label, (x, y), xytext=(5 if right else -5, 0), textcoords="offset points", va="center", fontsize=7,
                ha="left" if right else "right",
            )  # fmt: skip
        axes.set_yscale("log")
        axes.set_xlim(0, 1.15 * max(p[1] for p in points))
        axes.margins(y=0.2)
        plain_numbers(axes.xaxis, False)
        plain_numbers(axes.yaxis, True)
        axes.grid()
    return out[0]


def roofline(flops: float, bytes_per_second: float, intensity: float, reached: float) -> str:
    """What the machine allows at each intensity, and where the kernels are; operations and bytes a second."""
    with axes_for("operations a byte that must move", "Gflop/s") as (axes, out):
        ridge = flops / bytes_per_second
        low, high = min(ridge, intensity) / 10, max(ridge, intensity) * 10
        axes.plot(
            [low, ridge, high], [low * bytes_per_second / 1e9, flops / 1e9, flops / 1e9], color=LINE, linewidth=1.6
        )
        axes.scatter([intensity], [reached / 1e9], s=26, color=SERIES[0], linewidths=0, zorder=3)
        axes.annotate(
            "kernels", (intensity, reached / 1e9), xytext=(-5, -4), textcoords="offset points", ha="right", va="top"
        )
        axes.annotate(
            "products of matrices, measured", (high, flops / 1e9), xytext=(0, 4), textcoords="offset points",
            ha="right", color=MARK, fontsize=6.5,
        )  # fmt: skip
        axes.margins(y=0.15)
        _logarithmic(axes, "x")
        _logarithmic(axes, "y")
        axes.grid()
    return out[0]
