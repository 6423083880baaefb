"""Learning rates against the step, as DeePMD-kit defines them."""

from __future__ import annotations

import math
from collections.abc import Callable

from .options import ScheduleOptions


def learning_rate(options: ScheduleOptions, steps: int) -> Callable[[int], float]:
    """The learning rate at each step of ``steps``: a linear warm-up to ``start_lr``, then the decay.

    exp: lr0·r^⌊t/s⌋ (r^(t/s) where ``smooth``), not below ``stop_lr``, with r such that it ends there.
    cosine: half a wave from ``start_lr`` to ``stop_lr``.
    wsd: constant, then over the last ``decay_phase_ratio`` of all steps down to ``stop_lr``.
    """
    after = steps - options.warmup_steps
    decay = {"exp": _exponential, "cosine": _cosine, "wsd": _stable}[options.kind](options, steps, after)
    low, high, warm = options.warmup_start_factor * options.start_lr, options.start_lr, options.warmup_steps

    def value(step: int) -> float:
        if step < warm:
            return low + (high - low) * (step / warm)
        return decay(step - warm)

    return value


def _exponential(o: ScheduleOptions, steps: int, after: int) -> Callable[[int], float]:
    every, rate = o.decay_steps, o.decay_rate
    if rate is None:
        if every >= after:  # fewer steps than one decay: DeePMD-kit chooses a shorter one
            every = 100 if after // 10 > 100 else after // 100 + 1
        rate = math.exp(math.log(max(o.stop_lr, 1e-10) / o.start_lr) / (after / every))

    def value(step: int) -> float:
        return max(o.start_lr * rate ** (step / every if o.smooth else step // every), o.stop_lr)

    return value


def _cosine(o: ScheduleOptions, steps: int, after: int) -> Callable[[int], float]:
    ratio = o.stop_lr / o.start_lr

    def value(step: int) -> float:
        if step >= after:
            return o.stop_lr
        return o.start_lr * (ratio + 0.5 * (1 - ratio) * (1 + math.cos(math.pi * step / after)))

    return value


def _stable(o: ScheduleOptions, steps: int, after: int) -> Callable[[int], float]:
    length = max(1, min(int(o.decay_phase_ratio * steps), after))
    stable, first, last = after - length, o.start_lr, o.stop_lr

    def value(step: int) -> float:
        if step < stable:
            return first
        t = min((step - stable) / length, 1.0)
        if o.decay_type == "inverse_linear":
            return 1.0 / (t / last + (1 - t) / first)
        if o.decay_type == "cosine":
            return last + 0.5 * (first - last) * (1 + math.cos(math.pi * t))
        return first + (last - first) * t

    return value
