"""How long each kernel of attention takes, by torch's profiler: all of an evaluation's at once, told apart by name.

The first layer in coordinates shares some kernels with the layers in all channels. It is the first to go forward and
the last to go backward, chunk by chunk: so launches in order tell which is whose.
"""

from __future__ import annotations

import statistics
from collections.abc import Callable, Sequence
from dataclasses import fields
from typing import Any

import torch

from .launch_configurations import Kernel, LayerConfigurations

Launches = Sequence[tuple[str, float]]
"""Function and seconds of each launch of an evaluation, in order."""
Clock = Callable[[Callable[[], Any]], Launches]
"""Makes a call, several times if it likes, and says how long its launches took."""

WARM_UP, REPEATS = 2, 7
NAMES = tuple(f.name for f in fields(LayerConfigurations))
SHARED = {f"_attention_{name}_kernel": name for name in NAMES}
"""Function → kernel; which layer's a launch is, its place among the others says."""
REDUCED = {f"_reduced_{name}_kernel": name for name in ("output", "output_bwd", "project_bwd")}
"""Those of the layer in coordinates alone."""


def profile(call: Callable[[], Any]) -> Launches:
    """The median of a few calls, launch by launch, on the current GPU.

    Raises:
        RuntimeError: the profiler did not see the launches.
    """
    from torch.autograd import DeviceType  # type: ignore[attr-defined]
    from torch.profiler import ProfilerActivity
    from torch.profiler import profile as profiler

    for _ in range(WARM_UP):
        call()
    torch.cuda.synchronize()
    with profiler(activities=[ProfilerActivity.CPU, ProfilerActivity.CUDA]) as seen:
        for _ in range(REPEATS):
            call()
        torch.cuda.synchronize()
    found = [
        (e.time_range.start, e.name, e.time_range.elapsed_us() / 1e6)
        for e in seen.events() or ()
        if e.device_type == DeviceType.CUDA and e.name in {**SHARED, **REDUCED}
    ]
    return median_of([(name, seconds) for _, name, seconds in sorted(found)], REPEATS)


def median_of(launches: Launches, repeats: int) -> Launches:
    """One evaluation's launches, from those of several.

    Raises:
        RuntimeError: they are not the same launches again and again.
    """
    n, rest = divmod(len(launches), repeats)
    names = [name for name, _ in launches]
    if not n or rest or names != names[:n] * repeats:
        raise RuntimeError(f"torch's profiler saw {len(launches)} launches in {repeats} evaluations, not all of them")
    return [(names[k], statistics.median(s for _, s in launches[k::n])) for k in range(n)]


def by_kernel(launches: Launches, layers: int, coordinates: bool) -> dict[Kernel, float]:
    """Seconds of each kernel that was launched, in the order of ``LayerConfigurations``, the layers' first.

    Args:
        layers: of attention. coordinates: whether the first one was taken in them.
    """
    out: dict[Kernel, float] = {}
    for function, name in (*SHARED.items(), *REDUCED.items()):
        taken = [s for f, s in launches if f == function]
        if not taken:
            continue
        if function in REDUCED:
            out[Kernel("coordinates", name)] = sum(taken)
        elif coordinates and f"_reduced_{name}_kernel" not in REDUCED and name != "norm_bwd":
            place = layers - 1 if name.endswith("bwd") else 0
            first = sum(taken[place::layers])
            out[Kernel("coordinates", name)] = first
            if layers > 1:
                out[Kernel("layer", name)] = sum(taken) - first
        else:
            out[Kernel("layer", name)] = sum(taken)
    return dict(sorted(out.items(), key=lambda x: (x[0].part != "layer", NAMES.index(x[0].name))))
