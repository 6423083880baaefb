"""The pictures of a report: SVG by matplotlib, to stand inside a page.

Colours are names there (``var(--ink)``), so that a page shows the same picture in a light and a dark scheme.
"""

from __future__ import annotations

import io
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np

from ..plotting import can_draw

INK, LINE, MARK = "#100001", "#100002", "#100003"
SERIES = tuple(f"#20000{k}" for k in range(6))
"""Stand-ins that become names: matplotlib takes no others."""
STYLE = {
    "svg.fonttype": "none",  # text stays text: sharp, small, in the reader's own font
    "text.parse_math": False,  # a dollar in a file's name is a dollar
    "font.size": 7,
    "axes.labelsize": 7,
    "axes.edgecolor": LINE,
    "axes.labelcolor": INK,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "text.color": INK,
    "xtick.color": LINE,
    "ytick.color": LINE,
    "xtick.labelcolor": INK,
    "ytick.labelcolor": INK,
    "axes.linewidth": 0.6,
    "grid.linewidth": 0.5,
    "grid.color": LINE,
    "legend.frameon": False,
    "legend.fontsize": 6.5,
    "figure.facecolor": "none",
    "axes.facecolor": "none",
}


def available() -> bool:
    """Whether pictures can be drawn: they need matplotlib."""
    return can_draw()


def histogram(edges: np.ndarray, counts: np.ndarray, labels: Sequence[str], name: str, log: bool, ticks: bool) -> str:
    """How values are distributed, one colour a label, on top of each other.

    Args:
        edges: (B + 1,). counts: (labels, B). labels: [""] where there is one kind only. name: of the axis.
        log: values on a logarithmic axis. ticks: they are whole numbers.
    """
    with axes_for(name, "structures") as (axes, out):
        base = np.zeros(counts.shape[1])
        for k, (row, label) in enumerate(zip(counts, labels, strict=True)):
            label = short(label)
            axes.stairs(base + row, edges, baseline=base, fill=True, color=SERIES[k], linewidth=0, label=label or None)
            base = base + row
        if log:
            axes.set_xscale("log")
        plain_numbers(axes.xaxis, log)
        _whole(axes.yaxis)
        if ticks:
            _whole(axes.xaxis)
        axes.set_xlim(edges[0], edges[-1])
        axes.grid(axis="y")
        legend(axes, labels)
    return out[0]


def scatter(
    x: np.ndarray, y: np.ndarray, group: np.ndarray, labels: Sequence[str], names: tuple[str, str],
    limits: tuple[tuple[float, float], tuple[float, float]], log: bool,
) -> str:  # fmt: skip
    """Values against others, a dot a structure; ``log``: of y."""
    with axes_for(*names) as (axes, out):
        size = 16 if len(x) < 100 else 9 if len(x) < 600 else 4
        for k, label in enumerate(labels):
            here = group == k
            axes.scatter(x[here], y[here], s=size, color=SERIES[k], alpha=0.7, linewidths=0, label=short(label) or None)
        if log:
            axes.set_yscale("log")
        plain_numbers(axes.yaxis, log)
        plain_numbers(axes.xaxis, False)
        axes.set_xlim(*limits[0])
        axes.set_ylim(*limits[1])
        axes.grid()
        legend(axes, labels)
    return out[0]


def dots(names: Sequence[str], values: Sequence[float], name: str) -> str:
    """The best structures, one a line, the best on top."""
    with axes_for(name, "", height=max(2.5, 0.5 + 0.17 * len(names))) as (axes, out):
        places = list(range(len(names)))[::-1]
        axes.hlines(places, min(values), values, color=LINE, linewidth=0.8)
        axes.scatter(values, places, s=16, color=SERIES[0], linewidths=0, zorder=3)
        axes.set_yticks(places, names)
        axes.tick_params(axis="y", length=0)
        axes.margins(x=0.06)
        plain_numbers(axes.xaxis, False, most=3)
        axes.spines["left"].set_visible(False)
        axes.grid(axis="x")
    return out[0]


def throughput(edges: np.ndarray, rates: np.ndarray, marks: Sequence[float], unit: str) -> str:
    """Structures per second over the time that the job was running; ``marks``: where it was resumed."""
    with axes_for(f"time the job was running ({unit})", "structures/s") as (axes, out):
        axes.stairs(rates, edges, fill=True, color=SERIES[0], alpha=0.25, linewidth=0)
        axes.stairs(rates, edges, color=SERIES[0], linewidth=1.0, baseline=None)
        top = float(rates.max()) * 1.18
        for k, mark in enumerate(marks):
            axes.axvline(mark, color=MARK, linewidth=0.9, linestyle=(0, (3, 2)))
            if k == 0:
                left = mark < (edges[0] + edges[-1]) / 2
                axes.annotate(
                    "resumed", (mark, top), xytext=(3 if left else -3, 0), textcoords="offset points", color=MARK,
                    ha="left" if left else "right", va="top", fontsize=6.5,
                )  # fmt: skip
        axes.set_ylim(0, top)
        axes.set_xlim(edges[0], edges[-1])
        plain_numbers(axes.xaxis, False)
        plain_numbers(axes.yaxis, False)
        axes.grid(axis="y")
    return out[0]


@contextmanager
def axes_for(x: str, y: str, height: float = 2.5) -> Iterator[tuple[Any, list[str]]]:
    """Axes to draw on; the list holds the picture afterwards. Nothing of the caller's matplotlib is changed."""
    import matplotlib
    from matplotlib.backends.backend_svg import FigureCanvasSVG
    from matplotlib.figure import Figure

    out: list[str] = []
    # The same picture is the same text, and its identifiers are no other picture's.
    settings: Any = {**matplotlib.rcParamsDefault, **STYLE, "svg.hashsalt": f"{x} {y}"}
    with matplotlib.rc_context(settings):
        figure = Figure(figsize=(3.8, height), layout="constrained")
        FigureCanvasSVG(figure)
        axes = figure.add_subplot()
        axes.set_axisbelow(True)
        yield axes, out
        axes.set(xlabel=x, ylabel=y)
        buffer = io.StringIO()
        figure.savefig(buffer, format="svg", metadata=dict.fromkeys(("Date", "Creator", "Format", "Type")))
    out.append(_inline(buffer.getvalue()))


def _inline(svg: str) -> str:
    """What a page needs of an SVG file: no prolog, no fixed size, no identifiers that another picture has too."""
    svg = svg[svg.index("<svg") :]
    box = re.search(r'viewBox="[^"]*"', svg)
    assert box is not None
    body = svg[svg.index(">") + 1 :]
    body = re.sub(r"<metadata>.*?</metadata>", "", body, flags=re.S)
    body = re.sub(r'<g id="[^"]*">', "<g>", body)
    body = re.sub(r"#(1000|2000)(0\d)", lambda m: f"var(--{'p' if m[1] == '1000' else 's'}{int(m[2])})", body)
    return f"<svg {box[0]} focusable='false' aria-hidden='true'>{body}"


def short(label: str) -> str:
    """A label that leaves room for the picture; tables have the whole of it."""
    return label if len(label) <= 18 else f"{label[:17]}…"


def legend(axes: Any, labels: Sequence[str]) -> None:
    """Names of the series above the picture, where there are several."""
    if len(labels) > 1:
        columns = 3 if max(map(len, labels)) <= 12 else 2
        drawn = axes.legend(loc="lower left", bbox_to_anchor=(0, 1.0), ncols=columns, borderaxespad=0,
                             handlelength=0.9, columnspacing=1.2, handletextpad=0.5)  # fmt: skip
        for handle in drawn.legend_handles:
            handle.set_alpha(1.0)
            if hasattr(handle, "set_sizes"):
                handle.set_sizes([18])


def plain_numbers(axis: Any, log: bool, most: int = 5) -> None:
    """Numbers as people write them: no powers, no offsets, few of them."""
    from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator, NullLocator

    if log:
        axis.set_major_locator(LogLocator(numticks=6))
        axis.set_minor_locator(NullLocator())
    else:
        axis.set_major_locator(MaxNLocator(most))
    axis.set_major_formatter(FuncFormatter(lambda x, _: plain(x, () if log else axis.get_majorticklocs())))


def _whole(axis: Any) -> None:
    from matplotlib.ticker import MaxNLocator

    axis.set_major_locator(MaxNLocator(5, integer=True))
    axis.set_major_formatter("{x:,.0f}")


def plain(x: float, others: Sequence[float] = ()) -> str:
    """A number for an axis, with as many decimals as the ``others`` on it need."""
    if x != 0 and not 1e-6 <= abs(x) < 1e7:
        return f"{x:.3g}".replace("-", "−")
    texts = [f"{v:.8f}".rstrip("0").partition(".")[2] for v in (x, *others)]
    return f"{x:,.{max(map(len, texts))}f}".replace("-", "−")
