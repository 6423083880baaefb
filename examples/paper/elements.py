"""The type embeddings of a model beside the periodic table: a correlation with a permutation test, and a map.

    python examples/paper/elements.py [--model dpa1-68] [--picture docs/paper/elements.png]

Distances of embeddings against distances in the table (columns and rows), by Spearman's correlation over all pairs of
elements; by chance: elements permuted (a Mantel test), and models of the same shape with random parameters.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import results
import torch
from ase.data import atomic_numbers
from numpy.typing import NDArray
from scipy.stats import rankdata

from dpa1_fast import DPA1
from dpa1_fast.checkpoint import find, read_model

Array = NDArray[np.float64]
PERMUTATIONS, RANDOM = 9999, 100
LAST = (2, 10, 18, 36, 54, 86, 118)
"""Atomic numbers of noble gases, where rows of the table end."""


def place(symbol: str) -> tuple[int, int]:
    """Row and column (1 to 18) of an element; lanthanides and actinides stand in column 3."""
    z = atomic_numbers[symbol]
    row = next(k for k, last in enumerate(LAST, 1) if z <= last)
    first = 1 if row == 1 else LAST[row - 2] + 1
    k, length = z - first, LAST[row - 1] - first + 1
    if length == 32:
        return row, k + 1 if k < 3 else 3 if k < 17 else k - 13
    left = 1 if length == 2 else 2
    return row, k + 1 if k < left or length == 18 else 18 - (length - 1 - k)


def embeddings(model: DPA1) -> Array:
    """(types, T)."""
    with torch.no_grad():
        found: Array = model.set_dtype(torch.float64).type_table().numpy()
    return found


def pairs(points: Array) -> Array:
    """Ranks of the distances between all points, as a symmetric matrix around 0 with length 1 off its diagonal."""
    n = len(points)
    distance = np.linalg.norm(points[:, None] - points[None], axis=2)
    upper = np.triu_indices(n, 1)
    ranks = rankdata(distance[upper])
    ranks = (ranks - ranks.mean()) / max(float(np.linalg.norm(ranks - ranks.mean())), 1e-300)
    out = np.zeros((n, n))
    out[upper] = ranks
    return out + out.T


def correlation(a: Array, b: Array) -> float:
    """Spearman's, of two matrices of ``pairs``."""
    return float((a * b).sum() / 2)


def by_chance(a: Array, b: Array, count: int, seed: int = 0) -> Array:
    """Correlations where elements were permuted."""
    rng = np.random.default_rng(seed)
    orders = (rng.permutation(len(a)) for _ in range(count))
    return np.array([correlation(a[np.ix_(p, p)], b) for p in orders])


def compared(model: DPA1) -> results.Run:
    """The numbers of a model."""
    symbols = model.config.type_map
    table = pairs(np.array([place(s) for s in symbols], np.float64))
    own = pairs(embeddings(model))
    found = correlation(own, table)
    chance = by_chance(own, table, PERMUTATIONS)
    random = []
    for seed in range(RANDOM):
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            random.append(correlation(pairs(embeddings(DPA1(model.config))), table))
    return {
        "elements": len(symbols),
        "spearman": round(found, 4),
        "p": (1 + int((chance >= found).sum())) / (1 + PERMUTATIONS),
        "random_mean": round(float(np.mean(random)), 4),
        "random_sd": round(float(np.std(random)), 4),
        "random_max": round(float(np.max(random)), 4),
    }


def components(points: Array) -> tuple[Array, Array]:
    """The first two principal components (n, 2), and their shares of the variance."""
    centred = points - points.mean(0)
    _, s, v = np.linalg.svd(centred, full_matrices=False)
    return centred @ v[:2].T, (s**2 / (s**2).sum())[:2]


def draw(model: DPA1, path: Path) -> None:
    """The map: above the model's embeddings, below random ones, by column and by row of the table."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    symbols = model.config.type_map
    row, column = np.array([place(s) for s in symbols]).T
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        random = DPA1(model.config)
    figure, axes = plt.subplots(2, 2, figsize=(12, 11), layout="constrained")
    for line, (name, net) in zip(axes, (("trained", model), ("random", random)), strict=True):
        places, share = components(embeddings(net))
        for axis, (what, values, colours) in zip(
            line, (("group", column, "turbo"), ("period", row, "viridis")), strict=True
        ):
            _panel(axis, places, symbols, values, colours, figure)
            axis.set_title(f"{name}, coloured by {what}")
            axis.set_xlabel(f"first component ({share[0]:.0%} of the variance)")
            axis.set_ylabel(f"second ({share[1]:.0%})")
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=90)
    plt.close(figure)


def _panel(axis: Any, places: Array, symbols: Sequence[str], values: Any, colours: str, figure: Any) -> None:
    dots = axis.scatter(*places.T, c=values, cmap=colours, s=260, alpha=0.55, linewidths=0)
    for name, at in zip(symbols, places, strict=True):
        axis.annotate(name, at, ha="center", va="center", fontsize=8)
    figure.colorbar(dots, ax=axis, fraction=0.04)


def main(arguments: Sequence[str] | None = None) -> None:
    """See the top of this file."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="dpa1-68")
    parser.add_argument("--picture", type=Path, default=Path("docs/paper/elements.png"))
    parser.add_argument("--results", type=Path, default=results.FILE)
    given = parser.parse_args(arguments)
    path = Path(find(given.model))
    model = read_model(path).model
    run = {"experiment": "elements", "model": results.digest(path)}
    results.do([run], lambda _: compared(model), given.results)
    draw(model, given.picture)


if __name__ == "__main__":
    main()
