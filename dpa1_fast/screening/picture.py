"""One picture of a screening job: how energies and forces are distributed, and which structures came out best."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq

INK, BLUE, ORANGE, GREY = "#1f2933", "#2f6fab", "#d9822b", "#9aa5b1"


def draw(table: Path, picture: Path, best: list[dict[str, Any]]) -> bool:
    """Draws ``picture`` (PNG) from the Parquet ``table``. Returns False where matplotlib is not installed."""
    try:
        import matplotlib
    except ImportError:
        return False
    matplotlib.use("Agg")
    import matplotlib.pyplot as plt
    from matplotlib.ticker import MaxNLocator

    columns = pq.read_table(table, columns=["energy_per_atom", "max_force", "status"]).to_pydict()
    ok = np.array([s == "ok" for s in columns["status"]])
    energy = np.array(columns["energy_per_atom"], dtype=float)[ok]
    force = np.array(columns["max_force"], dtype=float)[ok]
    plt.rcParams.update({"font.size": 9, "axes.edgecolor": GREY, "text.color": INK, "axes.labelcolor": INK})
    figure, (left, middle, right) = plt.subplots(1, 3, figsize=(12, 3.6), layout="constrained")
    left.hist(energy, bins=min(40, max(8, len(energy) // 3)), color=BLUE)
    left.set(xlabel="energy (eV/atom)", ylabel="structures", title="Energies")
    middle.scatter(energy, force, s=14, color=ORANGE, alpha=0.7, edgecolor="none")
    middle.set(xlabel="energy (eV/atom)", ylabel="largest force (eV/Å)", title="Forces")
    if len(force) and force.max() > 20 * max(np.median(force), 1e-9):
        middle.set_yscale("symlog", linthresh=max(float(np.median(force)), 1e-3))
    names = [f"{r['formula']}  #{r['index']}" for r in best][::-1]
    values = [r["energy_per_atom"] for r in best][::-1]
    rows = list(range(len(names)))
    right.hlines(rows, min(values, default=0.0), values, color=GREY, linewidth=0.8)
    right.scatter(values, rows, s=30, color=BLUE, zorder=3)
    right.set_yticks(rows, names)
    right.xaxis.set_major_locator(MaxNLocator(4))
    right.set(xlabel="energy (eV/atom)", title=f"Lowest {len(names)}")
    for axes in (left, middle, right):
        axes.spines[["top", "right"]].set_visible(False)
    failed = int((~ok).sum())
    figure.suptitle(f"{int(ok.sum())} structures evaluated" + (f", {failed} failed" if failed else ""), fontsize=11)
    figure.savefig(picture, dpi=130)
    plt.close(figure)
    return True
