"""Launch configurations that ``dpa1-fast tune`` measured on this user's card: a file in the user's cache folder.

It is read when an evaluator is made, and never after. One file for a card, widths and version of Triton: precision →
bucket → layer or coordinates → kernel → [rows, chunk, warps, stages, keys].
"""

from __future__ import annotations

import json
import os
import re
import warnings
from dataclasses import fields
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from ...errors import DPA1Warning
from .launch_configurations import ALL, BUCKETS, SHIPPED, Configurations, LaunchConfiguration, LayerConfigurations

Tuned = dict[str, dict[str, Configurations]]
"""precision → bucket → configurations."""

SHORTEST = 16
"""The least side of a product."""
MEASURED = ("layer", "coordinates")
"""Parts of ``Configurations`` that are tuned."""
PAIRWISE = ("scores", "scores_bwd")
"""Kernels that look at all pairs of neighbours."""


def path_for(card: str, config: Any) -> Path:
    """Where those for a card (by its name) and a model's widths are kept."""
    folder = os.environ.get("XDG_CACHE_HOME", "")
    base = Path(folder) if os.path.isabs(folder) else Path.home() / ".cache"  # others are to be ignored
    widths = "-".join(map(str, config.neuron)) + (f"-attn{config.attn}" if config.attn_layer else "")
    try:
        triton = version("triton")
    except PackageNotFoundError:
        triton = "none"
    name = "-".join(re.sub(r"[^A-Za-z0-9.]+", "_", x).strip("_") for x in (card, widths.replace("-", "."), triton))
    return base / "dpa1_fast" / f"launches-{name}.json"


def read(path: Path) -> Tuned:
    """What a file holds, nothing where there is no file. A file that is not what it should be is ignored, with a
    warning that names it."""
    try:
        whole = json.loads(path.read_text(encoding="utf-8"))
        return {p: {b: _configurations(p, b, x) for b, x in by_bucket.items()} for p, by_bucket in whole.items()}
    except FileNotFoundError:
        return {}
    except (OSError, ValueError, TypeError, AttributeError, KeyError) as error:
        reason = f"{type(error).__name__}: {error}"
        warnings.warn(
            f"{path}: damaged, so its launch configurations are not used ({reason}); delete it or run dpa1-fast tune "
            "again",
            DPA1Warning,
            stacklevel=2,
        )
        return {}


def _configurations(precision: str, bucket: str, found: dict[str, dict[str, list[int]]]) -> Configurations:
    if bucket not in map(str, BUCKETS):
        raise ValueError(f"unknown bucket {bucket!r}")
    layer, coordinates = (_layer(found[part]) for part in MEASURED)
    return Configurations(layer, coordinates, SHIPPED[precision].embedding)


def _layer(found: dict[str, list[int]]) -> LayerConfigurations:
    return LayerConfigurations(*(_configuration(f.name, *found[f.name]) for f in fields(LayerConfigurations)))


def _configuration(kernel: str, rows: int, chunk: int, warps: int, stages: int, keys: int) -> LaunchConfiguration:
    numbers = (rows, chunk, warps, stages, keys)
    least = (1 if kernel == "norm_bwd" else SHORTEST, SHORTEST, 1, 1, SHORTEST if kernel in PAIRWISE else 0)
    most = (256, ALL, 16, 8, 256)
    good = all(type(x) is int and a <= x <= b for a, x, b in zip(least, numbers, most, strict=True))
    if not good or any(x & (x - 1) for x in (rows, chunk, warps, keys)):
        raise ValueError(f"{list(numbers)} is no launch configuration of {kernel}")
    return LaunchConfiguration(*numbers)


def write(path: Path, tuned: Tuned) -> None:
    """Puts configurations into a file; those of other precisions and buckets that stand there stay.

    Raises:
        OSError: it cannot be written.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DPA1Warning)  # what is damaged is replaced
        known = read(path)
    whole = known | {p: known.get(p, {}) | by_bucket for p, by_bucket in tuned.items()}
    numbers = {
        p: {
            b: {part: {k: list(vars(c).values()) for k, c in vars(getattr(x, part)).items()} for part in MEASURED}
            for b, x in by_bucket.items()
        }
        for p, by_bucket in whole.items()
    }
    path.parent.mkdir(parents=True, exist_ok=True)
    fresh = path.with_suffix(f".{os.getpid()}")
    fresh.write_text(json.dumps(numbers, indent=1) + "\n", encoding="utf-8")
    fresh.replace(path)
