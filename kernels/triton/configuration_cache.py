"""Tiles that ``dpa1-fast tune`` measured on this user's card: a file in the user's cache folder.

It is read when an evaluator is made, and never after. One file for a card, widths and version of Triton:
precision → bucket → direction → [rows, keys, chunk, warps, block].
"""

from __future__ import annotations

import json
import os
import re
import warnings
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from ...errors import DPA1Warning
from .launch_configurations import BUCKETS, Tile

Tuned = dict[str, dict[str, dict[str, Tile]]]
"""precision → bucket → "forward" or "backward" → tile."""


def path_for(card: str, config: Any) -> Path:
    """Where the tiles for a card (by its name) and a model's widths are kept."""
    folder = os.environ.get("XDG_CACHE_HOME", "")
    base = Path(folder) if os.path.isabs(folder) else Path.home() / ".cache"  # others are to be ignored
    widths = "-".join(map(str, config.neuron)) + (f"-attn{config.attn}" if config.attn_layer else "")
    try:
        triton = version("triton")
    except PackageNotFoundError:
        triton = "none"
    name = "-".join(re.sub(r"[^A-Za-z0-9.]+", "_", x).strip("_") for x in (card, widths.replace("-", "."), triton))
    return base / "dpa1_fast" / f"tiles-{name}.json"


def read(path: Path) -> Tuned:
    """The tiles in a file, none where there is no file. A file that is not what it should be is ignored, with a warning
    that names it."""
    try:
        whole = json.loads(path.read_text(encoding="utf-8"))
        return {p: {b: _directions(b, x) for b, x in by_bucket.items()} for p, by_bucket in whole.items()}
    except FileNotFoundError:
        return {}
    except (OSError, ValueError, TypeError, AttributeError) as error:
        reason = f"{type(error).__name__}: {error}"
        warnings.warn(
            f"{path}: damaged, so its tiles are not used ({reason}); delete it or run dpa1-fast tune again",
            DPA1Warning,
            stacklevel=2,
        )
        return {}


def _directions(bucket: str, found: dict[str, list[int]]) -> dict[str, Tile]:
    if bucket not in map(str, BUCKETS) or not set(found) <= {"forward", "backward"}:
        raise ValueError(f"unknown bucket or direction in {bucket!r}: {list(found)}")
    return {k: _tile(*x) for k, x in found.items()}


def _tile(rows: int, keys: int, chunk: int, warps: int, block: int = 32) -> Tile:
    numbers, least = (rows, keys, chunk, warps, block), (16, 16, 16, 1, 16)
    good = all(type(x) is int and least[k] <= x <= 256 and x & (x - 1) == 0 for k, x in enumerate(numbers))
    if not good or keys > rows or warps > 16:
        raise ValueError(f"{list(numbers)} is no tile")
    return Tile(rows, keys, chunk, warps, block)


def write(path: Path, tuned: Tuned) -> None:
    """Puts tiles into a file; those of other precisions that stand there stay.

    Raises:
        OSError: it cannot be written.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DPA1Warning)  # what is damaged is replaced
        whole = read(path) | tuned
    numbers = {
        p: {b: {k: list(vars(t).values()) for k, t in x.items()} for b, x in by_bucket.items()}
        for p, by_bucket in whole.items()
    }
    path.parent.mkdir(parents=True, exist_ok=True)
    fresh = path.with_suffix(f".{os.getpid()}")
    fresh.write_text(json.dumps(numbers, indent=1) + "\n", encoding="utf-8")
    fresh.replace(path)
