"""The picture of a learning curve."""

from __future__ import annotations

from pathlib import Path

from ..plotting import can_draw
from .lcurve import present, read_curve

LABELS = {
    "rmse": "√loss",
    "rmse_e": "energy (eV/atom)",
    "rmse_f": "force (eV/Å)",
    "rmse_v": "virial (eV/atom)",
    "rmse_ae": "atomic energy (eV)",
}


def draw(curve: Path, target: Path) -> bool:
    """Draws RMSE and learning rate against the step. Returns False where matplotlib is not installed.

    Raises:
        TrainingError: the curve cannot be read.
    """
    if not can_draw():
        return False
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    columns = read_curve(curve)
    steps, ending = columns["step"], ("_val", "_trn")
    kinds = [k for k in LABELS if any(present(columns.get(k + end, [])) for end in ending)]
    figure = Figure(figsize=(3.2 * (len(kinds) + 1), 3.0), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots(1, len(kinds) + 1, squeeze=False)[0]
    for axis, kind in zip(axes, kinds, strict=False):
        for end, label, color in ((ending[1], "training", "#9db8d2"), (ending[0], "validation", "#1f4e79")):
            values = columns.get(kind + end, [])
            if present(values):
                axis.plot(steps, values, color=color, label=label, linewidth=1.2, marker="." if len(steps) < 3 else "")
        axis.set_ylabel(LABELS[kind])
        axis.legend(frameon=False, fontsize=8)
    axes[-1].plot(steps, columns["lr"], color="#555555", linewidth=1.2)
    axes[-1].set_ylabel("learning rate")
    for axis in axes:
        axis.set_yscale("log")
        axis.set_xlabel("step")
        axis.grid(True, which="both", color="#eeeeee", linewidth=0.5)
    figure.savefig(target, dpi=120)
    return True
