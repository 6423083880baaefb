"""Which tile a kernel is launched with: by architecture, precision and neighbour count, from a table.

``launch_configurations.json`` is made by ``bench/compiled/static_report.py`` from what each variant compiles to. What
``dpa1-fast tune`` measured on a card comes before it (``configuration_cache.py``).
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path

BUCKETS = (16, 32, 64, 128, 256)
"""Neighbour counts that tiles are chosen for; an atom goes by the next one up, or the last."""


@dataclass(frozen=True)
class Tile:
    """block: rows of one atom at a time, of products with weights and of queries, at least ``rows``. keys: that pass by
    at a time. rows: of keys in the backward pass, where queries pass by. chunk: of the inner dimension of scores;
    where it is whole, rows stay on chip. warps: of a program. Block is a multiple of rows, and rows of keys."""

    rows: int
    keys: int
    chunk: int
    warps: int
    block: int = 32

    @property
    def most(self) -> int:
        """The rows that a program takes at a time, and for a multiple of which it has memory."""
        return max(self.rows, self.block)


@dataclass(frozen=True)
class Tiles:
    """The forward pass, and the backward pass."""

    forward: Tile
    backward: Tile


SMALL, PLAIN = Tile(16, 16, 16, 4), Tile(32, 16, 16, 8)
"""What serves on a card that the table does not know: small tiles, which fit any."""

RELATIVES = {
    "sm_86": "sm_80", "sm_87": "sm_80", "sm_89": "sm_80", "sm_120": "sm_80", "sm_121": "sm_80", "sm_103": "sm_100",
    "gfx950": "gfx942",
}  # fmt: skip
"""Architectures without tiles of their own → the one whose tiles serve. Both have the same products (mma.sync, tcgen05,
mfma), as many registers, and the shared memory that those tiles take: the ones for sm_80 need 43 kB of the 99 kB that
GeForce cards have. ``bench.compiled.shape_report`` compiles them for any of these; with the se_atten model none needs
more than 8 bytes of stack (looked at on sm_89, sm_103, sm_120 and gfx950)."""


def table_for(architecture: str) -> str:
    """The architecture whose tiles are taken: its own, a relative's, or itself where none is known."""
    return RELATIVES.get(architecture, architecture)


REDUCED = {
    ("sm_90", "tf32"): (64, 16, 32, 4),
    ("sm_90", "bfloat16"): (64, 32, 32, 4),
    ("sm_90", "float16"): (64, 32, 32, 4),
    ("sm_100", "bfloat16"): (64, 32, 32, 4),
    ("sm_100", "float16"): (64, 32, 32, 4),
}
"""Of the first layer in coordinates: rows of a block, those that pass by, rows at a time in all channels, warps. Where
none is known that needs no stack, the layer is taken in all its channels."""


def reduced_tile(architecture: str | None, precision: str, most: int) -> dict[str, int] | None:
    """The tile of the first layer in coordinates as its kernels take it, for atoms with up to ``most`` neighbours."""
    found = (64, 32, 32, 4) if architecture is None else REDUCED.get((table_for(architecture), precision))
    if found is None:
        return None
    most = max(16, 1 << max(0, most - 1).bit_length())
    block, keys, rows, warps = found
    return {"B": min(block, most), "K": min(keys, most), "R": min(rows, most), "num_warps": warps}


def reduced_back_tile(
    architecture: str | None, precision: str, most: int, width: int, *, ends: bool
) -> dict[str, int]:  # fmt: skip
    """The same for the backward pass in ``width`` coordinates; ``ends``: of a layer that is the last."""
    tile = reduced_tile(architecture, precision, most) or {}
    # Of more coordinates fewer rows pass by at a time.
    tile |= {"Q": tile["R"], "E": tile["R"], "K": min(tile["K"], max(16, 512 // width))}
    if ends:  # X's gradient is held besides: what needs no stack then
        tile |= {"R": 16} if most > 32 else dict.fromkeys("RQEK", 16)
    return tile


INTERPRETED = Tile(32, 32, 128, 4, 64)
"""The interpreter pays by the operation, so it gets few and large ones."""


CANDIDATES: dict[str, dict[bool, list[tuple[int, int, int, int, int]]]] = {
    "forward": {
        False: [
            (32, 16, 128, 16, 128), (32, 16, 128, 8, 128), (32, 32, 128, 8, 64), (32, 16, 128, 8, 64),
            (32, 32, 128, 8, 32), (32, 32, 128, 4, 32), (32, 16, 128, 4, 32), (16, 16, 128, 4, 16),
            (32, 16, 64, 8, 64), (32, 16, 64, 8, 32), (32, 32, 64, 4, 32), (16, 16, 16, 4, 16),
        ],
        True: [(32, 16, 128, 4, 64), (32, 16, 128, 4, 32), (32, 16, 32, 4, 32), (16, 16, 16, 4, 16)],
    },
    "backward": {
        False: [
            (128, 16, 128, 8, 128), (64, 16, 128, 8, 128), (64, 32, 128, 8, 64), (64, 16, 128, 8, 64),
            (32, 32, 128, 8, 32), (32, 16, 128, 8, 32), (16, 16, 128, 4, 16), (64, 16, 64, 8, 64), (32, 16, 64, 8, 32),
            (16, 16, 16, 4, 16),
        ],
        True: [(32, 16, 128, 4, 64), (32, 16, 128, 4, 32), (32, 16, 16, 4, 32), (16, 16, 16, 4, 16)],
    },
}  # fmt: skip
"""Tiles (rows, keys, chunk, warps, block) to choose from, for NVIDIA (False) and AMD (True, warps twice as wide):
``bench/compiled/tile_search.py`` by what they compile to, ``dpa1-fast tune`` by the clock."""


def bucket(most: int) -> int:
    """The neighbour count, of those that tiles are chosen for, that serves atoms with up to ``most``."""
    return next((b for b in BUCKETS if most <= b), BUCKETS[-1])


@cache
def table() -> dict[str, dict[str, dict[str, dict[str, list[int]]]]]:
    """architecture → precision → bucket → direction → [rows, keys, chunk, warps, block]."""
    path = Path(__file__).with_name("launch_configurations.json")
    return json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}


def tiles_for(
    architecture: str | None, precision: str, most: int, tuned: Mapping[str, Mapping[str, Tile]] | None = None
) -> Tiles:
    """The tiles for atoms with up to ``most`` neighbours.

    Args:
        architecture: "sm_90" and the like; None in the interpreter.
        precision: see ``precision.py``.
        tuned: what was measured for this precision, bucket → direction → tile; comes before the table.
    """
    if architecture is None:
        shipped = Tiles(INTERPRETED, INTERPRETED)
    else:
        plain = SMALL if most <= 16 else PLAIN
        found = table().get(table_for(architecture), {}).get(precision, {}).get(str(bucket(most)), {})
        shipped = Tiles(*(Tile(*found[k]) if k in found else plain for k in ("forward", "backward")))
    own = (tuned or {}).get(str(bucket(most)), {})
    return Tiles(own.get("forward", shipped.forward), own.get("backward", shipped.backward))


@dataclass(frozen=True)
class Block:
    """rows: of a program. chunk: of the inner dimension of its products. keys: that pass by at a time."""

    rows: int
    chunk: int
    warps: int
    stages: int = 1
    keys: int = 0

    def options(self, rows: str, chunk: str, keys: str = "") -> dict[str, int]:
        """As a kernel takes them, by its names for the three."""
        out = {rows: self.rows, chunk: self.chunk, "num_warps": self.warps, "num_stages": self.stages}
        return {**out, keys: self.keys} if keys else out


@dataclass(frozen=True)
class Phases:
    """The kernels of a layer of attention, forward and backward."""

    project: Block
    scores: Block
    output: Block
    norm_bwd: Block
    output_bwd: Block
    scores_bwd: Block
    project_bwd: Block


def coordinate_phases_for(precision: str, most: int, width: int) -> Phases:
    """The blocks of the first layer in coordinates. chunk: of products with them, all; in ``output_bwd`` of the
    channels that become coordinates again."""
    found = Phases(
        Block(64, 128, 4), Block(64, 128, 4, keys=32), Block(32, 128, 4), Block(16, 128, 4), Block(32, 32, 4),
        Block(64, 128, 4, keys=32), Block(64, 128, 4),
    )  # fmt: skip
    return _fitted(found, most, width)


def _fitted(phases: Phases, most: int, width: int) -> Phases:
    """No more rows and keys than the next power of two holds, and no larger chunks than there are channels."""
    least = max(16, 1 << max(0, most - 1).bit_length())
    return Phases(
        *(
            replace(x, rows=min(x.rows, least), chunk=min(x.chunk, width), keys=min(x.keys, least))
            for x in vars(phases).values()
        )
    )


def phases_for(architecture: str | None, precision: str, most: int, mp: int) -> Phases:
    """The blocks for atoms with up to ``most`` neighbours and ``mp`` channels, filled up."""
    if architecture is None:
        found = Phases(
            Block(64, mp, 4), Block(64, mp, 4, keys=64), Block(64, mp, 4), Block(64, mp, 4), Block(64, mp, 4),
            Block(64, mp, 4, keys=64), Block(64, mp, 4),
        )  # fmt: skip
    elif precision in ("bfloat16", "float16"):
        found = Phases(
            Block(64, 32, 4), Block(64, mp, 4, keys=32), Block(32, 32, 4), Block(16, mp, 4), Block(32, 32, 4),
            Block(64, mp, 4, keys=16), Block(64, 32, 4),
        )  # fmt: skip
    else:
        found = Phases(
            Block(32, 16, 4), Block(32, 16, 4, keys=16), Block(32, 16, 4), Block(16, mp, 4), Block(32, 16, 4),
            Block(32, 16, 4, keys=16), Block(32, 16, 4),
        )  # fmt: skip
    return _fitted(found, most, mp)
