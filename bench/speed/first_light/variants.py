"""Launch configurations around the shipped ones, each timed kernel by kernel: what a card says of them.

``dpa1-fast tune`` times whole passes of a user's model; these are few, compiled ahead with the kit, and include what
that does not vary: programs a multiprocessor, and the kernels of the first layer in coordinates.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from . import BARS
from .lines import Log
from .place import Place, verdict

CASE = "water1536"
"""Small enough to be quick and large enough for 264 programs: five to six atoms each. Programs are varied on more."""

WRONG = {"tf32": ((64, 32, 64, 4), (128, 32, 32, 4), (16, 16, 16, 1))}
"""In coordinates, with Triton 3.6 on an H100. The first one's backward pass ended in a misaligned address, which no
later variant survives, and the last one's has the same mistake of LLVM's in its code (``bench/compiled/sass.py``). The
second one's forces were wrong by 3.8 of their RMS, although its PTX, run on a CPU, is right to 1.7e-3."""


@dataclass(frozen=True)
class Variant:
    """What differs from the shipped configuration.

    Attributes:
        name: in the log. programs: a multiprocessor. reduced: rows of a block, those that pass by, rows in all
            channels, warps. phases: (rows, chunk, warps, stages, keys) of the kernels of the full layer, in the order
            of ``launch_configurations.Phases``; their times add up, so one run tries a candidate of each.
    """

    name: str
    programs: int = 2
    reduced: tuple[int, int, int, int] | None = None
    phases: tuple[tuple[int, ...], ...] | None = None
    coordinates: tuple[tuple[int, ...], ...] | None = None


WIDE = 128
HALF = {
    "project": [
        (64, 128, 4), (64, 32, 4, 3), (64, 64, 4, 2), (32, 128, 4), (128, 128, 8), (64, 128, 8), (32, 64, 4, 2),
        (64, 64, 8, 2), (128, 64, 8, 2), (32, 128, 2), (16, 128, 2), (32, 128, 8),
    ],
    "scores": [
        (64, WIDE, 4, 1, 32), (64, WIDE, 4, 2, 32), (32, WIDE, 4, 1, 32), (64, WIDE, 4, 1, 64), (32, WIDE, 2, 1, 32),
        (64, WIDE, 4, 2, 16), (32, WIDE, 4, 2, 64), (32, WIDE, 4, 3, 32), (32, WIDE, 4, 2, 16), (16, WIDE, 2, 1, 32),
        (64, WIDE, 8, 1, 32), (64, WIDE, 4, 3, 32),
    ],
    "output": [
        (32, 128, 4), (64, 128, 4), (64, 64, 8, 2), (32, 32, 4, 3), (32, 64, 4, 2), (16, 64, 4, 2), (64, 128, 8),
        (32, 128, 8), (16, 128, 4), (32, 64, 8), (16, 128, 2), (64, 64, 4, 2),
    ],
    "norm_bwd": [
        (16, WIDE, 4), (8, WIDE, 4), (8, WIDE, 2), (4, WIDE, 4), (16, WIDE, 8), (32, WIDE, 8), (16, WIDE, 2),
        (4, WIDE, 1), (8, WIDE, 1), (32, WIDE, 4), (4, WIDE, 2), (8, WIDE, 8),
    ],
    "output_bwd": [
        (32, 128, 4), (64, 128, 4), (64, 64, 8, 2), (32, 32, 4, 3), (32, 64, 4, 2), (16, 64, 4, 2), (64, 128, 8),
        (32, 128, 8), (16, 128, 4), (128, 128, 8), (128, 64, 8, 2), (64, 64, 4, 2),
    ],
    "scores_bwd": [
        (64, WIDE, 4, 1, 16), (64, WIDE, 4, 1, 32), (128, WIDE, 8, 1, 16), (128, WIDE, 8, 1, 32), (32, WIDE, 4, 1, 32),
        (64, WIDE, 8, 1, 32), (32, WIDE, 4, 1, 16), (32, WIDE, 2, 1, 32), (64, WIDE, 4, 2, 32), (32, WIDE, 8, 1, 32),
        (32, WIDE, 2, 1, 16), (128, WIDE, 4, 1, 16),
    ],
    "project_bwd": [
        (64, 128, 4), (64, 32, 4, 3), (64, 64, 4, 2), (32, 128, 4), (128, 128, 8), (64, 128, 8), (32, 64, 4, 2),
        (64, 64, 8, 2), (128, 64, 8, 2), (32, 128, 2), (16, 128, 4), (32, 32, 4, 3),
    ],
}  # fmt: skip
FULL = {
    "project": [
        (32, 16, 4), (64, 32, 4, 2), (32, 64, 4), (32, 32, 4), (64, 32, 8, 2), (32, 32, 4, 3), (32, 64, 8), (64, 64, 8),
        (16, 64, 4), (16, 32, 4, 2), (32, 128, 4), (64, 128, 8),
    ],
    "scores": [
        (32, WIDE, 4, 1, 16), (64, WIDE, 8, 1, 32), (32, WIDE, 4, 1, 32), (32, WIDE, 8, 1, 32), (64, WIDE, 8, 1, 16),
        (16, WIDE, 4, 1, 32), (32, WIDE, 4, 2, 32), (32, 32, 4, 1, 32), (64, WIDE, 4, 1, 16), (64, 32, 4, 2, 32),
        (16, WIDE, 4, 1, 16), (32, WIDE, 4, 2, 16),
    ],
    "output": [
        (32, 16, 4), (64, 32, 8), (32, 32, 4), (32, 32, 4, 2), (64, 32, 8, 2), (16, 32, 4, 2), (32, 64, 4),
        (64, 32, 4, 2), (16, 64, 4), (32, 32, 8, 2), (32, 128, 4), (16, 128, 4),
    ],
    "norm_bwd": [
        (16, WIDE, 4), (8, WIDE, 4), (8, WIDE, 2), (4, WIDE, 4), (16, WIDE, 8), (32, WIDE, 8), (16, WIDE, 2),
        (4, WIDE, 1), (8, WIDE, 1), (32, WIDE, 4), (4, WIDE, 2), (8, WIDE, 8),
    ],
    "output_bwd": [
        (32, 16, 4), (64, 32, 8), (32, 32, 4), (32, 32, 4, 2), (64, 32, 8, 2), (16, 32, 4, 2), (32, 64, 4),
        (64, 32, 4, 2), (16, 64, 4), (64, 64, 8, 2), (32, 128, 4), (64, 128, 8),
    ],
    "scores_bwd": [
        (32, WIDE, 4, 1, 16), (64, WIDE, 8, 1, 16), (32, WIDE, 4, 1, 32), (64, WIDE, 8, 1, 32), (64, WIDE, 4, 1, 16),
        (32, 32, 4, 1, 16), (128, WIDE, 8, 1, 16), (32, WIDE, 8, 1, 32), (16, WIDE, 4, 1, 16), (64, 32, 4, 1, 32),
        (32, WIDE, 8, 1, 16), (16, WIDE, 4, 1, 32),
    ],
    "project_bwd": [
        (32, 16, 4), (64, 32, 4, 2), (32, 64, 4), (32, 32, 4), (64, 32, 8, 2), (32, 32, 4, 3), (32, 64, 8), (64, 64, 8),
        (16, 64, 4), (16, 32, 4, 2), (32, 128, 4), (64, 128, 8),
    ],
}  # fmt: skip
COORDINATES = {
    "project": [
        (64, 128, 4), (32, 128, 4), (32, 128, 2), (128, 128, 4), (128, 128, 8), (64, 128, 2), (32, 128, 1), (16, 128, 1),
        (16, 128, 2), (64, 128, 8), (128, 128, 2), (64, 128, 1),
    ],
    "scores": [
        (64, 128, 4, 1, 32), (32, 128, 4, 1, 32), (32, 128, 2, 1, 32), (64, 128, 4, 1, 64), (128, 128, 4, 1, 32),
        (64, 128, 2, 1, 32), (16, 128, 1, 1, 32), (32, 128, 1, 1, 32), (32, 128, 2, 1, 16), (64, 128, 4, 1, 16),
        (32, 128, 2, 1, 64), (128, 128, 8, 1, 32),
    ],
    "output": [
        (32, 128, 4), (16, 128, 4), (16, 128, 2), (64, 128, 4), (32, 128, 8), (64, 128, 8), (16, 128, 1), (32, 128, 2),
        (128, 128, 8), (16, 128, 8), (128, 128, 4), (64, 128, 2),
    ],
    "norm_bwd": [(16, 128, 4)] * 12,
    "output_bwd": [
        (32, 32, 4), (16, 32, 4), (16, 32, 2), (32, 16, 4), (32, 64, 4), (32, 128, 4), (16, 64, 4), (16, 128, 4),
        (16, 64, 2), (32, 64, 8), (64, 64, 8), (16, 16, 4),
    ],
    "scores_bwd": [
        (64, 128, 4, 1, 32), (32, 128, 4, 1, 32), (32, 128, 2, 1, 32), (128, 128, 4, 1, 32), (128, 128, 8, 1, 32),
        (64, 128, 2, 1, 32), (64, 128, 4, 1, 16), (64, 128, 4, 1, 64), (32, 128, 2, 1, 16), (32, 128, 1, 1, 32),
        (128, 128, 4, 1, 16), (64, 128, 2, 1, 16),
    ],
    "project_bwd": [
        (64, 128, 4), (32, 128, 4), (32, 128, 2), (16, 128, 4), (16, 128, 2), (64, 128, 2), (16, 128, 1), (32, 128, 1),
        (128, 128, 4), (64, 128, 8), (128, 128, 8), (64, 128, 4),
    ],
}  # fmt: skip
"""Candidates by kernel: (rows, chunk, warps[, stages[, keys]]), for half precisions and for the others."""


def variants(precision: str) -> list[Variant]:
    """The shipped one first, then those that need nothing compiled."""
    found = HALF if precision in ("bfloat16", "float16") else FULL
    out = [Variant("shipped")]
    for k in range(len(found["project"])):
        layer, first = (tuple(x[k] for x in y.values()) for y in (found, COORDINATES))
        out += [Variant(f"phases {k}", phases=layer, coordinates=first)]
    return out


@contextmanager
def applied(run: Any, variant: Variant, architecture: str, precision: str, most: int) -> Iterator[None]:
    """An evaluator under a variant."""
    from dpa1_fast.kernels.triton import launch_configurations as shipped

    before = run.phases, run.programs, run.coordinate_phases
    if variant.phases:
        run.phases = shipped._fitted(shipped.Phases(*(shipped.Block(*x) for x in variant.phases)), most, run.model.mp)
    if variant.coordinates and run.model.coordinates:
        blocks = shipped.Phases(*(shipped.Block(*x) for x in variant.coordinates))
        run.coordinate_phases = shipped._fitted(blocks, most, run.model.coordinates.width)
    run.programs = run.programs // 2 * variant.programs
    try:
        yield
    finally:
        run.phases, run.programs, run.coordinate_phases = before


def measure(place: Place, log: Log, precision: str) -> None:
    """µs an atom of each attention kernel under each variant, and whether forces are right."""
    from dpa1_fast.kernels import dispatch

    from .place import device_of
    from .speed import kernel_times

    step = f"variants-{precision}"
    if not place.on_card:
        log.say(step, said="needs a card")
        return
    model = place.model()
    run = place.engine(model, precision).evaluator
    architecture = dispatch.card_of(device_of(place)).architecture or ""
    small = place.batch(model, CASE).to(place.device)
    large = place.batch(model, "water12288").to(place.device)
    most = int(small.counts.max())
    for variant in variants(precision):
        more = variant.programs != 2 or variant.name == "shipped"
        for case, batch in (("water12288", large), (CASE, small)) if more else ((CASE, small),):
            try:
                with applied(run, variant, architecture, precision, most):
                    judged = verdict(run(batch), place.judge(case), BARS[precision])
                    times = kernel_times(place, lambda batch=batch: run(batch))
            except Exception as error:  # one that does not compile or fit must not take the others with it
                log.say(step, variant=variant.name, error=f"{type(error).__name__}: {error}"[:200])
                continue
            each = {k.strip("_").removesuffix("_kernel"): round(us / batch.n_atoms, 4) for k, us, _ in times}
            log.say(
                step, variant=variant.name, case=case, precision=precision, right=judged.get("right"),
                force=judged.get("force"), us_per_atom=round(sum(each.values()), 4), kernels=each,
            )  # fmt: skip
