"""Which tile a kernel is launched with: by architecture, precision and neighbour count, from ``tiles.json``.

The table is made by ``bench/static_report.py`` from what each variant compiles to.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from functools import cache
from pathlib import Path

BUCKETS = (16, 32, 64, 128, 256)
"""Neighbour counts that tiles are chosen for; an atom goes by the next one up, or the last."""


@dataclass(frozen=True)
class Tile:
    """rows: of one atom that a program holds at a time. keys: neighbours at a time. chunk: of the inner dimension.
    warps: of a program. Rows are a multiple of keys."""

    rows: int
    keys: int
    chunk: int
    warps: int


@dataclass(frozen=True)
class Tiles:
    """The way there, and the way back."""

    forward: Tile
    backward: Tile


SMALL, PLAIN = Tile(16, 16, 16, 4), Tile(32, 16, 16, 8)
"""What serves on a card that the table does not know: small tiles, which fit any."""

INTERPRETED = Tile(32, 32, 64, 4)
"""The interpreter pays by the operation, so it gets few and large ones."""


def bucket(most: int) -> int:
    """The neighbour count, of those that tiles are chosen for, that serves atoms with up to ``most``."""
    return next((b for b in BUCKETS if most <= b), BUCKETS[-1])


@cache
def table() -> dict[str, dict[str, dict[str, dict[str, list[int]]]]]:
    """architecture → precision → bucket → direction → [rows, keys, chunk, warps]."""
    path = Path(__file__).with_name("tiles.json")
    return json.loads(path.read_text()) if path.exists() else {}


def tiles_for(architecture: str | None, precision: str, most: int) -> Tiles:
    """The tiles for atoms with up to ``most`` neighbours.

    Args:
        architecture: "sm_90" and the like; None in the interpreter.
        precision: see ``precision.py``.
    """
    if architecture is None:
        return Tiles(INTERPRETED, INTERPRETED)
    plain = SMALL if most <= 16 else PLAIN
    found = table().get(architecture, {}).get(precision, {}).get(str(bucket(most)), {})
    return Tiles(*(Tile(*found[k]) if k in found else plain for k in ("forward", "backward")))
