"""Parity plots: results against labels."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from ..plotting import can_draw
from .compare import Compared
from .tally import Tally

Array = NDArray[np.float64]
MOST = 200_000
"""Points that a panel keeps; of more, every other one is dropped, again and again."""
PANELS = {
    "energy": ("energy per atom (eV)", "ea", 1e3, "meV/atom"),
    "force": ("force (eV/Å)", "f", 1e3, "meV/Å"),
    "virial": ("virial per atom (eV)", "va", 1e3, "meV/atom"),
}


class Points:
    """Labels and results of one quantity, thinned so that they take bounded memory."""

    def __init__(self) -> None:
        self._kept: list[Array] = []
        self._count, self._every, self._seen = 0, 1, 0

    def add(self, label: Array, found: Array) -> None:
        """Takes points in."""
        both = np.stack([label.ravel(), found.ravel()], 1)
        places = np.arange(self._seen, self._seen + len(both))
        self._seen += len(both)
        self._kept.append(both[places % self._every == 0])
        self._count += len(self._kept[-1])
        if self._count > MOST:
            self._kept = [np.concatenate(self._kept)[::2]]
            self._count, self._every = len(self._kept[0]), 2 * self._every

    def all(self) -> Array:
        """(points, 2) labels and results."""
        return np.concatenate(self._kept) if self._kept else np.zeros((0, 2))


class Parity:
    """Gathers what the picture shows."""

    def __init__(self) -> None:
        self._points = {name: Points() for name in PANELS}

    def add(self, one: Compared) -> None:
        """Takes a structure in; energies per atom."""
        s, r, n = one.sample, one.result, len(one.sample.structure)
        if s.energy is not None:
            self._points["energy"].add(np.array([s.energy / n]), np.array([r.energy / n]))
        if s.force is not None:
            self._points["force"].add(s.force, r.forces)
        if s.virial is not None:
            self._points["virial"].add(s.virial / n, r.virial / n)

    def draw(self, target: Path, whole: Tally) -> bool:
        """Draws a panel for each quantity that has labels. Returns False where matplotlib is not installed."""
        if not can_draw():
            return False
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure

        there = {name: p for name in PANELS if len(p := self._points[name].all())}
        if not there:
            return True
        figure = Figure(figsize=(3.6 * len(there), 3.6), layout="constrained")
        FigureCanvasAgg(figure)
        errors = whole.errors()
        for axis, (name, points) in zip(figure.subplots(1, len(there), squeeze=False)[0], there.items(), strict=True):
            label, short, scale, unit = PANELS[name]
            low, high = float(points.min()), float(points.max())
            margin = 0.04 * (high - low) or 1.0
            ends = (low - margin, high + margin)
            axis.plot(ends, ends, color="#bbbbbb", linewidth=1, zorder=1)
            size = 12 if len(points) < 500 else 3
            axis.scatter(points[:, 0], points[:, 1], s=size, color="#1f4e79", alpha=0.5, linewidths=0, rasterized=True)
            axis.set(xlim=ends, ylim=ends, xlabel=f"label: {label}", ylabel="model")
            axis.set_aspect("equal")
            told = f"RMSE {errors[f'rmse_{short}'] * scale:.4g} {unit}\nMAE {errors[f'mae_{short}'] * scale:.4g} {unit}"
            axis.text(0.04, 0.96, told, transform=axis.transAxes, va="top", fontsize=9)
        figure.savefig(target, dpi=150)
        return True
