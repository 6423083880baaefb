"""What may be launched instead of what is shipped: ``dpa1-fast tune`` tries these, kernel by kernel.

Those that ``launch_configurations.py`` ships come first. Not all of the others need to compile or be right on every
card: tune finds that out before it takes their time.
"""

from __future__ import annotations

from .launch_configurations import ALL, SHIPPED, LaunchConfiguration

Candidates = dict[str, dict[str, list[LaunchConfiguration]]]
"""part, as in ``Configurations`` → kernel → what may be tried."""

HALF: dict[str, list[tuple[int, ...]]] = {
    "project": [
        (128, ALL, 8), (64, ALL, 4), (64, 32, 4, 3), (64, 64, 4, 2), (32, ALL, 4), (64, ALL, 8), (32, 64, 4, 2),
        (64, 64, 8, 2), (128, 64, 8, 2), (32, ALL, 2), (16, ALL, 2), (32, ALL, 8),
    ],
    "scores": [
        (32, ALL, 2, 1, 32), (64, ALL, 4, 1, 32), (64, ALL, 4, 2, 32), (32, ALL, 4, 1, 32), (64, ALL, 4, 1, 64),
        (64, ALL, 4, 2, 16), (32, ALL, 4, 2, 64), (32, ALL, 4, 3, 32), (32, ALL, 4, 2, 16), (16, ALL, 2, 1, 32),
        (64, ALL, 8, 1, 32), (64, ALL, 4, 3, 32),
    ],
    "output": [
        (32, 64, 4, 2), (32, ALL, 4), (64, ALL, 4), (64, 64, 8, 2), (32, 32, 4, 3), (16, 64, 4, 2), (64, ALL, 8),
        (32, ALL, 8), (16, ALL, 4), (32, 64, 8), (16, ALL, 2), (64, 64, 4, 2),
    ],
    "norm_bwd": [
        (4, ALL, 1), (16, ALL, 4), (8, ALL, 4), (8, ALL, 2), (4, ALL, 4), (16, ALL, 8), (32, ALL, 8), (16, ALL, 2),
        (8, ALL, 1), (32, ALL, 4), (4, ALL, 2), (8, ALL, 8),
    ],
    "output_bwd": [
        (64, ALL, 4), (32, ALL, 4), (64, 64, 8, 2), (32, 32, 4, 3), (32, 64, 4, 2), (16, 64, 4, 2), (64, ALL, 8),
        (32, ALL, 8), (16, ALL, 4), (128, ALL, 8), (128, 64, 8, 2), (64, 64, 4, 2),
    ],
    "scores_bwd": [
        (128, ALL, 8, 1, 16), (64, ALL, 4, 1, 16), (64, ALL, 4, 1, 32), (128, ALL, 8, 1, 32), (32, ALL, 4, 1, 32),
        (64, ALL, 8, 1, 32), (32, ALL, 4, 1, 16), (32, ALL, 2, 1, 32), (64, ALL, 4, 2, 32), (32, ALL, 8, 1, 32),
        (32, ALL, 2, 1, 16), (128, ALL, 4, 1, 16),
    ],
    "project_bwd": [
        (64, ALL, 4), (64, 32, 4, 3), (64, 64, 4, 2), (32, ALL, 4), (128, ALL, 8), (64, ALL, 8), (32, 64, 4, 2),
        (64, 64, 8, 2), (128, 64, 8, 2), (32, ALL, 2), (16, ALL, 4), (32, 32, 4, 3),
    ],
}  # fmt: skip
FULL: dict[str, list[tuple[int, ...]]] = {
    "project": [
        (32, 16, 4), (64, 32, 4, 2), (32, 64, 4), (32, 32, 4), (64, 32, 8, 2), (32, 32, 4, 3), (32, 64, 8),
        (64, 64, 8), (16, 64, 4), (16, 32, 4, 2), (32, ALL, 4), (64, ALL, 8),
    ],
    "scores": [
        (32, 16, 4, 1, 16), (32, ALL, 4, 1, 16), (64, ALL, 8, 1, 32), (32, ALL, 4, 1, 32), (32, ALL, 8, 1, 32),
        (64, ALL, 8, 1, 16), (16, ALL, 4, 1, 32), (32, ALL, 4, 2, 32), (32, 32, 4, 1, 32), (64, ALL, 4, 1, 16),
        (64, 32, 4, 2, 32), (16, ALL, 4, 1, 16), (32, ALL, 4, 2, 16),
    ],
    "output": [
        (32, 16, 4), (64, 32, 8), (32, 32, 4), (32, 32, 4, 2), (64, 32, 8, 2), (16, 32, 4, 2), (32, 64, 4),
        (64, 32, 4, 2), (16, 64, 4), (32, 32, 8, 2), (32, ALL, 4), (16, ALL, 4),
    ],
    "norm_bwd": [
        (16, ALL, 4), (8, ALL, 4), (8, ALL, 2), (4, ALL, 4), (16, ALL, 8), (32, ALL, 8), (16, ALL, 2), (4, ALL, 1),
        (8, ALL, 1), (32, ALL, 4), (4, ALL, 2), (8, ALL, 8),
    ],
    "output_bwd": [
        (32, 16, 4), (64, 32, 8), (32, 32, 4), (32, 32, 4, 2), (64, 32, 8, 2), (16, 32, 4, 2), (32, 64, 4),
        (64, 32, 4, 2), (16, 64, 4), (64, 64, 8, 2), (32, ALL, 4), (64, ALL, 8),
    ],
    "scores_bwd": [
        (32, 16, 4, 1, 16), (32, 16, 8, 1, 16), (16, 16, 8, 1, 16), (16, 16, 4, 1, 16), (32, ALL, 4, 1, 16),
        (64, ALL, 8, 1, 16), (32, ALL, 4, 1, 32), (64, ALL, 8, 1, 32),
        (64, ALL, 4, 1, 16), (32, 32, 4, 1, 16), (128, ALL, 8, 1, 16), (32, ALL, 8, 1, 32), (16, ALL, 4, 1, 16),
        (64, 32, 4, 1, 32), (32, ALL, 8, 1, 16), (16, ALL, 4, 1, 32),
    ],
    "project_bwd": [
        (32, 16, 4), (64, 32, 4, 2), (32, 64, 4), (32, 32, 4), (64, 32, 8, 2), (32, 32, 4, 3), (32, 64, 8),
        (64, 64, 8), (16, 64, 4), (16, 32, 4, 2), (32, ALL, 4), (64, ALL, 8),
    ],
}  # fmt: skip
COORDINATES: dict[str, list[tuple[int, ...]]] = {
    "project": [
        (32, ALL, 2), (64, ALL, 4), (32, ALL, 4), (128, ALL, 4), (128, ALL, 8), (64, ALL, 2), (32, ALL, 1),
        (16, ALL, 1), (16, ALL, 2), (64, ALL, 8), (128, ALL, 2), (64, ALL, 1),
    ],
    "scores": [
        (32, ALL, 2, 1, 32), (64, ALL, 4, 1, 32), (32, ALL, 4, 1, 32), (64, ALL, 4, 1, 64), (128, ALL, 4, 1, 32),
        (64, ALL, 2, 1, 32), (16, ALL, 1, 1, 32), (32, ALL, 1, 1, 32), (32, ALL, 2, 1, 16), (64, ALL, 4, 1, 16),
        (32, ALL, 2, 1, 64), (128, ALL, 8, 1, 32),
    ],
    "output": [
        (32, ALL, 4), (16, ALL, 4), (16, ALL, 2), (64, ALL, 4), (32, ALL, 8), (64, ALL, 8), (16, ALL, 1),
        (32, ALL, 2), (128, ALL, 8), (16, ALL, 8), (128, ALL, 4), (64, ALL, 2),
    ],
    "output_bwd": [
        (16, 32, 2), (32, 32, 4), (16, 32, 4), (32, 16, 4), (32, 32, 8), (64, 32, 8), (16, 16, 4), (64, 32, 4),
    ],
    "scores_bwd": [
        (32, ALL, 2, 1, 32), (64, ALL, 4, 1, 32), (32, ALL, 4, 1, 32), (128, ALL, 4, 1, 32), (128, ALL, 8, 1, 32),
        (64, ALL, 2, 1, 32), (64, ALL, 4, 1, 16), (64, ALL, 4, 1, 64), (32, ALL, 2, 1, 16), (32, ALL, 1, 1, 32),
        (128, ALL, 4, 1, 16), (64, ALL, 2, 1, 16),
    ],
    "project_bwd": [
        (32, ALL, 2), (64, ALL, 4), (32, ALL, 4), (16, ALL, 4), (16, ALL, 2), (64, ALL, 2), (16, ALL, 1),
        (32, ALL, 1), (128, ALL, 4), (64, ALL, 8), (128, ALL, 8),
    ],
}  # fmt: skip
EMBEDDING: dict[str, list[tuple[int, ...]]] = {
    "embedding_fwd": [(32, 0, 4), (32, 0, 8), (16, 0, 4), (16, 0, 8), (32, 0, 16), (16, 0, 16)],
    "embedding_bwd": [(16, 0, 8), (16, 0, 4), (16, 0, 16), (16, 0, 2)],
    "embedding_edges_bwd": [(16, 0, 4), (16, 0, 8), (16, 0, 16), (16, 0, 2)],
    "coordinates": [(32, 0, 1), (32, 0, 2), (16, 0, 1), (16, 0, 2), (32, 0, 4)],
    "series_moments": [
        (32, 32, 1),
        (32, 32, 2),
        (16, 32, 1),
        (32, 32, 4),
        (16, 16, 1),
        (16, 16, 2),
        (16, 16, 4),
        (16, 16, 8),
    ],
    "series_moments_bwd": [(32, 32, 1), (32, 32, 2), (16, 32, 1), (32, 32, 4), (16, 16, 1), (16, 16, 2), (16, 16, 4)],
}
"""By kernel (rows, chunk, warps[, stages[, keys]]), beside what is shipped: in all channels for half precisions and for
the others, and in coordinates, where a chunk is never more than ``coordinates.MOST``."""


def candidates_for(precision: str) -> Candidates:
    """What is tried at a precision, what is shipped first."""
    layer = HALF if precision in ("bfloat16", "float16") else FULL
    return {
        part: {kernel: _with_shipped(precision, part, kernel, numbers) for kernel, numbers in of.items()}
        for part, of in (("layer", layer), ("coordinates", COORDINATES))
    }


def fallbacks_for(precision: str) -> Candidates:
    """What may serve where something is wrong with what is shipped: the same, and those of the embedding."""
    embedding = {
        kernel: _with_shipped(precision, "embedding", kernel, numbers) for kernel, numbers in EMBEDDING.items()
    }  # fmt: skip
    return {**candidates_for(precision), "embedding": embedding}


def _with_shipped(
    precision: str, part: str, kernel: str, numbers: list[tuple[int, ...]]
) -> list[LaunchConfiguration]:  # fmt: skip
    first = getattr(getattr(SHIPPED[precision], part), kernel)
    return [first, *(x for x in (LaunchConfiguration(*y) for y in numbers) if x != first)]
