"""Many structures by the scheduler, and a card that is almost full."""

from __future__ import annotations

import time
import warnings

import numpy as np
import torch

from .lines import Log
from .place import Place, structures

LEFT_FREE = 400 << 20
"""Bytes that are left on the card."""


def scheduler(place: Place, log: Log, precision: str) -> None:
    """Packs on threads, copies on a stream of their own: the results of structures evaluated in one batch."""
    clusters = structures("molecules64") if place.on_card else structures(place.cases(("molecules64",))[0])
    many = clusters * (30 if place.on_card else 2)
    engine = place.engine(place.model(), precision)
    alone = engine.evaluate(clusters)
    engine.scheduler.budget = engine.scheduler._most = 1 << 22  # so small that there are many packs
    began = time.perf_counter()
    found = list(engine.stream(many))
    took = time.perf_counter() - began
    worst = max(float(np.abs(r.forces - alone[k % len(clusters)].forces).max()) for k, r in enumerate(found))
    largest = max(float(np.abs(r.forces).max()) for r in alone)
    log.say(
        "scheduler", precision=precision, structures=len(found), seconds=took, per_second=len(found) / took,
        worst=worst / largest, right=len(found) == len(many) and worst <= 1e-3 * largest,
    )  # fmt: skip


def memory(place: Place, log: Log, precision: str) -> None:
    """With all but a little of the card taken, the same structures give the same."""
    if not place.on_card:
        log.say("memory", said="needs a card")
        return
    boxes = structures("water192") * 4
    free = place.engine(place.model(), precision).evaluate(boxes)
    torch.cuda.empty_cache()
    held = torch.empty(max(1, torch.cuda.mem_get_info()[0] - LEFT_FREE), dtype=torch.uint8, device=place.device)
    engine = place.engine(place.model(), precision)
    # Both believe in a card that is free, and have to find out.
    engine.scheduler.budget = engine.scheduler._most = 1 << 31
    engine.evaluator.chunk_bytes = 1 << 31  # type: ignore[attr-defined]
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        tight = engine.evaluate(boxes * 16)
    worst = max(float(np.abs(r.forces - free[k % 4].forces).max()) for k, r in enumerate(tight))
    largest = max(float(np.abs(r.forces).max()) for r in free)
    log.say(
        "memory", precision=precision, held=len(held), structures=len(tight), worst=worst / largest,
        right=worst <= 1e-3 * largest, warned=[str(w.message)[:160] for w in said][:3],
    )  # fmt: skip
