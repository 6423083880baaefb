"""How fast: whole evaluations by size, kernel by kernel against the model of time, and replayed as a CUDA graph."""

from __future__ import annotations

import json
from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING, Any

import torch

from . import BARS
from .lines import Log
from .place import FULL, LARGEST, SIZES, Place, verdict

if TYPE_CHECKING:
    from dpa1_fast import Engine
    from dpa1_fast.structures.batch import Batch
    from dpa1_fast.structures.on_device.search import Found


IN_A_ROW = 6
"""Evaluations that are launched without waiting for one another, as a stream of batches is."""


def sizes(place: Place, log: Log, precision: str, cases: tuple[str, ...] = SIZES) -> None:
    """µs an atom, ns a neighbour, peak memory and launches of one evaluation of a batch that lies on the card."""
    from bench.speed import gpu

    model, device = place.model(), torch.device(place.device)
    engine = place.engine(model, precision)
    for case in place.cases(cases):
        batch = place.batch(model, case)
        here = batch.to(device)
        gpu.released(device)
        found = engine.run(here)
        place.wait()
        peak = torch.cuda.max_memory_allocated(device) if place.on_card else 0
        judged = verdict(found, place.judge(case), BARS[precision])
        del found
        card, host = place.timed(lambda here=here: engine.run(here), repeats=15 if place.on_card else 1)
        in_a_row = IN_A_ROW if place.on_card else 1
        many, _ = place.timed(
            lambda here=here, k=in_a_row: [engine.run(here) for _ in range(k)], repeats=5 if place.on_card else 1
        )
        ran = gpu.kernels(device, lambda here=here: engine.run(here))
        n, edges = batch.n_atoms, len(batch.neighbor)
        log.say(
            f"sizes-{precision}" if cases is SIZES else f"largest-{precision}", case=case, precision=precision, atoms=n,
            structures=batch.n_structures, neighbors=round(edges / n, 1), us_per_atom=card / n,
            us_per_atom_in_a_row=many / n / in_a_row,
            ns_per_neighbor=1e3 * card / max(1, edges), ms=card / 1e3, host_ms=host / 1e3, peak_bytes=peak,
            chunks=gpu.pieces(engine, here), launches=ran and ran[0], triton_launches=ran and ran[1], **judged,
        )  # fmt: skip


def largest(place: Place, log: Log, precision: str) -> None:
    """The same for a hundred thousand atoms."""
    sizes(place, log, precision, (LARGEST,))


def whole(place: Place, log: Log, precision: str) -> None:
    """µs an atom of ``Engine.evaluate``: from ``ase.Atoms`` to results, on the host's clock, lists by card and host;
    how long lists alone take, and a step of moving atoms; and whether both have the same edges, bit for bit."""
    from .place import structures

    model, repeats = place.model(), 15 if place.on_card else 1
    engines = {path: place.engine(model, precision, neighbors=path) for path in ("device", "host")}
    for case in place.cases(("water192", "water1536", "water12288", "molecules64")):
        atoms = structures(case)
        n = sum(len(a) for a in atoms)
        for path, engine in engines.items():
            search = partial(searched, engine, atoms) if path == "device" else partial(engine.batch, atoms)
            calls = {"": partial(engine.evaluate, atoms), "search_": search, "step_": steps(engine, atoms)}
            said = {}
            for name, call in calls.items():
                call()
                said[f"{name}us_per_atom"] = place.timed(call, repeats=repeats, spell=1.0)[1] / n
            equal = same_edges(engine, atoms) if path == "device" else {}
            log.say(f"whole-{precision}", case=case, precision=precision, atoms=n, lists=path, **said, **equal)


def steps(engine: Engine, atoms: list[Any]) -> Callable[[], Any]:
    """A step of moving atoms, as calculators and relaxation do it; they move so little that kept lists serve."""
    import numpy as np

    from dpa1_fast.dynamics.stepper import Moving
    from dpa1_fast.structures.structure import from_ase

    moving = Moving(engine)
    moving.select([from_ase(engine.config, a, str(k)) for k, a in enumerate(atoms)])
    positions, cells = np.concatenate([a.positions for a in atoms]), np.stack([a.cell[:] for a in atoms])
    return partial(moving.step, positions, cells)


def searched(engine: Engine, atoms: list[Any]) -> Found:
    """A batch whose neighbour lists are made on the engine's device, from ``ase.Atoms``."""
    from dpa1_fast.structures.on_device.rows import Rows
    from dpa1_fast.structures.structure import from_ase

    assert engine.search is not None
    return engine.search.batch(Rows.of([from_ase(engine.config, a, str(k)) for k, a in enumerate(atoms)]))


def same_edges(engine: Engine, atoms: list[Any]) -> dict[str, Any]:
    """Whether device and host find the same edges, with vectors of the same bits, whatever order they stand in."""
    found = searched(engine, atoms)
    here, there = (_sorted_edges(b) for b in (found.batch.to("cpu"), engine.batch(atoms)))
    equal = len(here) == len(there) and bool((here == there).all())
    return {"edges": len(here), "edges_of_host": len(there), "right": equal, "transfers": found.transfers}


def _sorted_edges(batch: Batch) -> Any:
    """(e, 5): centre, neighbour and vector, in order."""
    import numpy as np

    rows = np.concatenate([batch.center[:, None], batch.neighbor[:, None], batch.vector], axis=1)
    return rows[np.lexsort(rows.T[::-1])]


def by_kernel(place: Place, log: Log, precision: str) -> None:
    """µs an atom of each kernel, launch by launch in their order, beside what ``bench/compiled/cost.py`` expects."""
    model = place.model()
    engine = place.engine(model, precision)
    (case,) = place.cases((FULL,))
    batch = place.batch(model, case).to(place.device)
    engine.run(batch)
    place.wait()
    expected = modelled(place, precision)
    for name, us, launches in kernel_times(place, lambda: engine.run(batch)):
        mine = expected.get(name)
        log.say(
            f"by_kernel-{precision}", case=case, precision=precision, kernel=name, us_per_atom=us / batch.n_atoms,
            launches=launches, model_us_per_atom=mine and mine["model_us_per_atom"], limit=mine and mine["limit"],
        )  # fmt: skip


def modelled(place: Place, precision: str) -> dict[str, dict[str, Any]]:
    """Kernel → what the model of time says of it, launches of the same kernel taken together."""
    file = place.data / "modelled.json"
    out: dict[str, dict[str, Any]] = {}
    for row in json.loads(file.read_text(encoding="utf-8")) if file.exists() else ():
        if row["precision"] == precision and row.get("model_us_per_atom") is not None:
            mine = out.setdefault(row["function"], {"model_us_per_atom": 0.0, "limit": row["limit"]})
            mine["model_us_per_atom"] += row["model_us_per_atom"]
    return out


IDLE = "idle"
"""Stands among the kernels for the time in which none ran."""


def kernel_times(place: Place, call: Any, rounds: int = 3) -> list[tuple[str, float, float]]:
    """(kernel, µs, launches) of a call by the profiler, the longest first; of what is not ours one sum.

    ``IDLE`` is the time in which nothing ran, from the first kernel to the last.
    """
    if not place.on_card:
        return [("interpreter", place.timed(call, repeats=1)[0], 0)]
    from torch.autograd import DeviceType
    from torch.profiler import ProfilerActivity, profile

    with profile(activities=[ProfilerActivity.CPU, ProfilerActivity.CUDA]) as seen:
        for _ in range(rounds):
            call()
        place.wait()
    out: dict[str, list[float]] = {}
    ran = [e.time_range for e in seen.events() or () if e.device_type == DeviceType.CUDA]
    span = max((r.end for r in ran), default=0) - min((r.start for r in ran), default=0)
    out[IDLE] = [(span - sum(r.end - r.start for r in ran)) / rounds, 0.0]
    for event in seen.key_averages():
        if event.device_type == DeviceType.CUDA:
            ours = event.key.startswith("_") and "_kernel" in event.key and not event.key.startswith("_Z")
            both = out.setdefault(event.key if ours else "torch's", [0.0, 0.0])
            both[0] += event.self_device_time_total / rounds
            both[1] += event.count / rounds
    return sorted(((k, us, n) for k, (us, n) in out.items()), key=lambda x: -x[1])


def graph(place: Place, log: Log, precision: str) -> None:
    """Steps of a moving system, replayed as a CUDA graph: what plain launches give, and how fast.

    A graph's chunks are cut by the room that edges have. Where they are cut alike the bits are the same; else block
    counts differ, and sums with them.
    """
    from bench.speed.gpu import prepare
    from dpa1_fast.kernels.precision import PRECISIONS

    from .place import structures

    if not place.on_card:
        log.say(f"graph-{precision}", said="graphs need a card")
        return
    model = place.model()
    plain, graphed = place.engine(model, precision), place.engine(model, precision, fixed_shape=True)
    for case in ("water192", "water1536", "water12288"):
        steps = []
        for k in range(6):
            (atoms,) = (a.copy() for a in structures(case))
            atoms.rattle(0.01 * k, seed=k)
            steps.append(prepare(model, [atoms]).to(place.device))
        other_bits, off = 0, list[float]()
        for batch in steps:
            expected, found = plain.run(batch), graphed.run(batch)
            other_bits += not all(torch.equal(a, b) for a, b in zip(expected, found, strict=True))
            off.append(reordered(found, expected))
        run: Any = graphed.evaluator
        counts = {"captures": run.captures, "replays": run.replays}
        without, host_without = place.timed(lambda b=steps[-1]: plain.run(b))
        with_graph, host_with = place.timed(lambda b=steps[-1]: graphed.run(b))
        n = steps[0].n_atoms
        right = counts["replays"] > 0 and all(x <= PRECISIONS[precision].reordered for x in off)
        log.say(
            f"graph-{precision}", case=case, precision=precision, atoms=n, steps=len(steps), other_bits=other_bits,
            force=max(off), right=right, us_per_atom=with_graph / n, plain_us_per_atom=without / n,
            host_ms=host_with / 1e3, plain_host_ms=host_without / 1e3, **counts,
        )  # fmt: skip


def reordered(found: Any, expected: Any) -> float:
    """How far forces are apart, RMS over RMS; not a number where they are none."""
    rms = expected.forces.square().mean().sqrt()
    return float((found.forces - expected.forces).square().mean().sqrt() / rms)
