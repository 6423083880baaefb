"""How kernels are launched: rows of a program, chunks of its products, warps, by precision.

What an H100 said of some hundred of them is in kernels/README.md. What ``dpa1-fast tune`` measured on a card comes
before the table (``configuration_cache.py``).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from typing import Any, NamedTuple

BUCKETS = (16, 32, 64, 128, 256)
"""Neighbour counts that are tuned for; an atom goes by the next one up, or the last."""


class Kernel(NamedTuple):
    """A kernel as launch configurations name it. part: "layer" and the like, see ``Configurations``."""

    part: str
    name: str

    def words(self) -> str:
        """What a user reads."""
        return self.name + (" in coordinates" if self.part == "coordinates" else "")


@dataclass(frozen=True)
class LaunchConfiguration:
    """Of one kernel.

    Attributes:
        rows: of a program. chunk: of the inner dimension of its products. warps: of a program. stages: of the pipeline
            that loads chunks ahead. keys: that pass by at a time, where all pairs of neighbours are looked at.
    """

    rows: int
    chunk: int
    warps: int
    stages: int = 1
    keys: int = 0

    def options(self, rows: str, chunk: str = "", keys: str = "") -> dict[str, int]:
        """As a kernel takes them, by its names for the three."""
        named = {rows: self.rows, chunk: self.chunk, keys: self.keys}
        return {**{k: v for k, v in named.items() if k}, "num_warps": self.warps, "num_stages": self.stages}

    def words(self) -> str:
        """What a user reads: rows × chunk, or rows × chunk × keys."""
        sides = " × ".join("all" if x == ALL else str(x) for x in (self.rows, self.chunk, self.keys) if x)
        return f"{sides}, {self.warps} warps" + (f", {self.stages} stages" if self.stages > 1 else "")


@dataclass(frozen=True)
class LayerConfigurations:
    """Of the kernels of a layer of attention, named as they are."""

    project: LaunchConfiguration
    scores: LaunchConfiguration
    output: LaunchConfiguration
    norm_bwd: LaunchConfiguration
    output_bwd: LaunchConfiguration
    scores_bwd: LaunchConfiguration
    project_bwd: LaunchConfiguration

    def fitted(self, most: int, channels: int) -> LayerConfigurations:
        """The same for atoms with up to ``most`` neighbours: no more rows or keys than the next power of two holds, and
        no larger chunks than there are channels."""
        least = power_of_two(most)
        return LayerConfigurations(
            *(
                replace(x, rows=min(x.rows, least), chunk=min(x.chunk, channels), keys=min(x.keys, least))
                for x in (getattr(self, f.name) for f in fields(self))
            )
        )


EDGE_ROWS = 32
"""Edges of a program in most kernels that go over edges."""


@dataclass(frozen=True)
class EmbeddingConfigurations:
    """Of the kernels of the embedding: the net forward, and backward without and with attention; or coordinates; or,
    without attention, moments by series."""

    embedding_fwd: LaunchConfiguration = LaunchConfiguration(EDGE_ROWS, 0, 4)
    embedding_bwd: LaunchConfiguration = LaunchConfiguration(16, 0, 8)
    embedding_edges_bwd: LaunchConfiguration = LaunchConfiguration(16, 0, 4)
    coordinates: LaunchConfiguration = LaunchConfiguration(EDGE_ROWS, 0, 1)
    series_moments: LaunchConfiguration = LaunchConfiguration(EDGE_ROWS, 32, 1)
    series_moments_bwd: LaunchConfiguration = LaunchConfiguration(EDGE_ROWS, 32, 1)

    def fitted(self, most: int, channels: int) -> EmbeddingConfigurations:
        """The same for atoms with up to ``most`` neighbours: no more rows than the next power of two holds, for few of
        them half of the warps, and no larger chunks than there are channels."""
        least = power_of_two(most)

        def fit(x: LaunchConfiguration) -> LaunchConfiguration:
            warps = x.warps if least >= EDGE_ROWS else min(x.warps, max(4, x.warps // 2))
            return replace(x, rows=min(x.rows, least), chunk=min(x.chunk, channels), warps=warps)

        return EmbeddingConfigurations(*(fit(getattr(self, f.name)) for f in fields(self)))


@dataclass(frozen=True)
class Configurations:
    """Of layers in all channels, of the first layer in coordinates, which has no ``norm_bwd`` of its own, and of the
    embedding net."""

    layer: LayerConfigurations
    coordinates: LayerConfigurations
    embedding: EmbeddingConfigurations = EmbeddingConfigurations()

    def of(self, kernel: Kernel) -> LaunchConfiguration:
        """A kernel's."""
        found: LaunchConfiguration = getattr(getattr(self, kernel.part), kernel.name)
        return found

    def changed(self, kernel: Kernel, to: LaunchConfiguration) -> Configurations:
        """The same but for one kernel's."""
        part = replace(getattr(self, kernel.part), **{kernel.name: to})
        return replace(self, **{kernel.part: part})

    def launched(self, kernel: Kernel, most: int, model: Any) -> LaunchConfiguration:
        """A kernel's as a ``DeviceModel`` needs it for atoms with up to ``most`` neighbours."""
        channels = model.coordinates.width if kernel.part == "coordinates" else model.mp
        found: LaunchConfiguration = getattr(getattr(self, kernel.part).fitted(most, channels), kernel.name)
        return found


def power_of_two(most: int) -> int:
    """The next one that is at least ``most``, and 16."""
    return max(16, 1 << max(0, most - 1).bit_length())


def _layer(*kernels: tuple[int, ...]) -> LayerConfigurations:
    return LayerConfigurations(*(LaunchConfiguration(*x) for x in kernels))


ALL = 1 << 10
"""A chunk that is the whole inner dimension, whatever that is."""

_HALF = _layer(
    (128, ALL, 8), (32, ALL, 2, 1, 32), (32, 64, 4, 2), (4, ALL, 1), (64, ALL, 4), (128, ALL, 8, 1, 16), (64, ALL, 4)
)
_TF32 = _layer(
    (32, 32, 4), (32, ALL, 4, 2, 32), (32, 32, 4, 2), (4, ALL, 1), (32, 32, 4, 2), (128, ALL, 8, 1, 16), (32, 64, 4)
)
_WIDE = _layer((32, 16, 4), (32, 16, 4, 1, 16), (32, 16, 4), (4, ALL, 1), (32, 16, 4), (32, 16, 4, 1, 16), (32, 16, 4))
_COORDINATES = _layer(
    (32, ALL, 2), (32, ALL, 2, 1, 32), (32, ALL, 4), (16, ALL, 4), (16, 32, 2), (32, ALL, 2, 1, 32), (32, ALL, 2)
)
_COORDINATES_WIDE = replace(_COORDINATES, scores_bwd=LaunchConfiguration(32, ALL, 4, 1, 16))
_COORDINATES_TF32 = _layer(
    (64, ALL, 4), (32, ALL, 1, 1, 32), (32, ALL, 2), (16, ALL, 4), (16, 32, 2), (64, ALL, 4, 1, 16), (32, ALL, 2)
)
_EIGHT_WARPS = replace(EmbeddingConfigurations(), embedding_fwd=LaunchConfiguration(EDGE_ROWS, 0, 8))
_EMBEDDING_FLOAT64 = replace(
    _EIGHT_WARPS, embedding_edges_bwd=LaunchConfiguration(16, 0, 8),
    series_moments=LaunchConfiguration(16, 32, 2), series_moments_bwd=LaunchConfiguration(32, 32, 4),
)  # fmt: skip
_EMBEDDING_HALF = replace(EmbeddingConfigurations(), series_moments_bwd=LaunchConfiguration(32, 32, 2))
SHIPPED = {
    "bfloat16": Configurations(_HALF, _COORDINATES, _EMBEDDING_HALF),
    "float16": Configurations(_HALF, _COORDINATES, _EMBEDDING_HALF),
    "tf32": Configurations(_TF32, _COORDINATES_TF32),
    "float32": Configurations(_WIDE, _COORDINATES_WIDE, _EIGHT_WARPS),
    "float64": Configurations(_WIDE, _COORDINATES_WIDE, _EMBEDDING_FLOAT64),
}
"""By precision. Those of bfloat16 were the fastest of eight for each kernel on an H100, and those of tf32 of thirteen
but for ``project`` and ``scores_bwd``: their fastest need a stack of 8 and 40 bytes with Triton 3.9 (0.23 and 0.508 µs
an atom, these 0.25 and 0.515). Of the others those ran there that need no stack, or the next."""

_LARGE = _layer(*[(64, ALL, 4, 1, 64)] * 7)
INTERPRETED = Configurations(_LARGE, _LARGE)
"""The interpreter pays by the operation, so it gets few and large ones."""


def bucket(most: int) -> int:
    """The neighbour count, of those that are tuned for, that serves atoms with up to ``most``."""
    return next((b for b in BUCKETS if most <= b), BUCKETS[-1])


def configurations_for(
    architecture: str | None, precision: str, most: int, tuned: Mapping[str, Configurations] | None = None
) -> Configurations:
    """For atoms with up to ``most`` neighbours; still to be fitted to them.

    Args:
        architecture: "sm_90" and the like; None in the interpreter.
        precision: see ``precision.py``.
        tuned: what was measured for this precision, by bucket; comes before what is shipped.
    """
    shipped = INTERPRETED if architecture is None else SHIPPED[precision]
    return (tuned or {}).get(str(bucket(most)), shipped)
