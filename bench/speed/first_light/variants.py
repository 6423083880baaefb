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
            channels, warps. forward, backward: (rows, keys, chunk, warps, block) of the full layer.
    """

    name: str
    programs: int = 2
    reduced: tuple[int, int, int, int] | None = None
    forward: tuple[int, int, int, int, int] | None = None
    backward: tuple[int, int, int, int, int] | None = None


def variants(precision: str) -> list[Variant]:
    """The shipped one first, then those that need nothing compiled."""
    out = [Variant("shipped"), *(Variant(f"programs {k}", programs=k) for k in (1, 3, 4, 6, 8, 16))]
    reduced = [
        (128, 32, 32, 4), (128, 32, 32, 8), (64, 64, 32, 4), (64, 32, 64, 4), (64, 16, 32, 4), (64, 32, 32, 8),
        (64, 32, 32, 2), (64, 64, 64, 8), (32, 32, 32, 4), (32, 32, 32, 2), (64, 32, 16, 4), (64, 32, 32, 4),
        (128, 64, 64, 8), (16, 16, 16, 1), (32, 16, 16, 2),
    ]  # fmt: skip
    forward = [
        (32, 16, 128, 16, 128), (32, 16, 128, 8, 128), (32, 32, 128, 8, 128), (32, 32, 128, 8, 64),
        (32, 16, 128, 8, 64), (32, 32, 128, 4, 32), (32, 16, 128, 4, 32), (32, 32, 128, 4, 64), (64, 32, 128, 8, 64),
        (64, 32, 128, 8, 128), (64, 64, 128, 8, 128), (32, 32, 128, 16, 128), (64, 32, 128, 4, 64),
    ]  # fmt: skip
    backward = [
        (128, 16, 128, 8, 128), (64, 16, 128, 8, 128), (64, 32, 128, 8, 64), (64, 16, 128, 8, 64), (32, 32, 128, 8, 32),
        (32, 16, 128, 8, 32), (32, 16, 128, 4, 32), (64, 32, 128, 4, 64), (128, 32, 128, 8, 128),
        (128, 16, 128, 16, 128), (64, 16, 128, 4, 64), (64, 32, 128, 16, 64), (32, 32, 128, 4, 32),
    ]  # fmt: skip
    out += [Variant(f"reduced {x}", reduced=x) for x in reduced if x not in WRONG.get(precision, ())]
    out += [Variant(f"forward {x}", forward=x) for x in forward]
    out += [Variant(f"backward {x}", backward=x) for x in backward]
    return out


@contextmanager
def applied(run: Any, variant: Variant, architecture: str, precision: str, most: int) -> Iterator[None]:
    """An evaluator under a variant."""
    from dpa1_fast.kernels.triton import launch_configurations as shipped

    before = run.tiles, run.programs, dict(shipped.REDUCED)
    tiles = shipped.tiles_for(architecture, precision, most)
    if variant.reduced:
        shipped.REDUCED[architecture, precision] = variant.reduced
    run.tiles = shipped.Tiles(
        shipped.Tile(*variant.forward) if variant.forward else tiles.forward,
        shipped.Tile(*variant.backward) if variant.backward else tiles.backward,
    )
    run.programs = run.programs // 2 * variant.programs
    try:
        yield
    finally:
        run.tiles, run.programs = before[:2]
        shipped.REDUCED.clear()
        shipped.REDUCED.update(before[2])


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
