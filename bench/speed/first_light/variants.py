"""The candidates of ``dpa1-fast tune``, the k-th of each kernel at once, timed kernel by kernel on a card.

Tune tries each by itself, so that what is wrong can be named; here few runs say it of all, compiled ahead with the kit.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

from dpa1_fast.kernels.triton.launch_candidates import candidates_for
from dpa1_fast.kernels.triton.launch_configurations import SHIPPED, Configurations

from . import BARS
from .lines import Log
from .place import Place, verdict

CASE = "water1536"
"""Small enough to be quick; the shipped ones are timed on more."""


@dataclass(frozen=True)
class Variant:
    """Launch configurations, and their name in the log."""

    name: str
    configurations: Configurations | None = None


def variants(precision: str) -> list[Variant]:
    """The shipped ones, and as many more as the kernel with the most candidates has; those with fewer begin again."""
    candidates = candidates_for(precision)
    most = max(len(x) for of_part in candidates.values() for x in of_part.values())
    out = [Variant("shipped")]
    for k in range(1, most):
        parts = {
            part: replace(getattr(SHIPPED[precision], part), **{kernel: x[k % len(x)] for kernel, x in of_part.items()})
            for part, of_part in candidates.items()
        }
        out.append(Variant(f"candidates {k}", Configurations(**parts)))
    return out


@contextmanager
def applied(run: Any, variant: Variant) -> Iterator[None]:
    """An evaluator under a variant."""
    before = run.configurations
    run.configurations = variant.configurations or before
    try:
        yield
    finally:
        run.configurations = before


def measure(place: Place, log: Log, precision: str) -> None:
    """µs an atom of each attention kernel under each variant, and whether forces are right."""
    from .speed import IDLE, kernel_times

    step = f"variants-{precision}"
    if not place.on_card:
        log.say(step, said="needs a card")
        return
    model = place.model()
    run = place.engine(model, precision).evaluator
    small = place.batch(model, CASE).to(place.device)
    large = place.batch(model, "water12288").to(place.device)
    for variant in variants(precision):
        both = (("water12288", large), (CASE, small))
        for case, batch in both if variant.configurations is None else both[1:]:
            try:
                with applied(run, variant):
                    judged = verdict(run(batch), place.judge(case), BARS[precision])
                    times = kernel_times(place, lambda batch=batch: run(batch))
            except Exception as error:  # one that does not compile or fit must not take the others with it
                log.say(step, variant=variant.name, error=f"{type(error).__name__}: {error}"[:200])
                continue
            each = {k.strip("_").removesuffix("_kernel"): round(us / batch.n_atoms, 4) for k, us, _ in times}
            log.say(
                step, variant=variant.name, case=case, precision=precision, right=judged.get("right"),
                force=judged.get("force"), kernels=each,
                us_per_atom=round(sum(us for k, us in each.items() if k != IDLE), 4),
            )  # fmt: skip
