"""Evaluations: systems of all sizes, precisions, threads, numbers of layers; and batches of many structures."""

from __future__ import annotations

import hashlib
import os
from functools import cache, partial
from itertools import islice
from typing import Any

import numpy as np
from ase import Atoms
from ase.neighborlist import neighbor_list

from bench.cases import CASES, model, molecules, water
from dpa1_fast import Engine

from .benchmark import FORCE, Benchmark, register, same

MODELS: dict[str, dict[str, Any]] = {
    "2 layers": {},
    "3 layers": {"attn_layer": 3},
    "1 layer": {"attn_layer": 1},
    "no attention": {"attn_layer": 0},
    "strip": {"tebd_input_mode": "strip"},
    "no attention, strip": {"attn_layer": 0, "tebd_input_mode": "strip"},
}
RCUT, MARGIN = model().config.rcut, 1e-3
THREADS = min(2, os.cpu_count() or 1)


@cache
def water24() -> list[Atoms]:
    """Eight molecules of water, 24 atoms."""
    return [water(2)]


SYSTEMS = {"24 atoms": water24, **{f"{n:,} atoms": CASES[f"water{n}"].build for n in (192, 1536, 12288, 98304)}}


@cache
def digest(name: str) -> str:
    """Of a model's weights: whether two runs timed the same model."""
    h = hashlib.sha256(repr(MODELS[name]).encode())
    for value in model(**MODELS[name]).state_dict().values():
        h.update(np.ascontiguousarray(value.numpy()).tobytes())
    return h.hexdigest()[:12]


def well_inside(atoms: Atoms) -> bool:
    """Whether no pair is within 1e-3 Å of the cut-off: there only a few digits of the switch are left, and with a hard
    softmax they decide (docs/parity.md), so that no result is right to more than those."""
    found = neighbor_list("d", atoms, RCUT + MARGIN)
    return not (found > RCUT - MARGIN).any()


@cache
def judged(name: str, count: int) -> tuple[list[Atoms], list[Any]]:
    """Structures small enough for the reference, and its results in float64."""
    every = molecules(64) if count > 1 else (water(2, seed=k) for k in range(100))
    structures = list(islice(filter(well_inside, every), count))
    return structures, Engine(model(**MODELS[name]), device="cpu", backend="reference").evaluate(structures)


def check(engine: Engine, name: str, count: int) -> None:
    """Holds an engine's energies, forces and virials against the reference.

    The system that is timed may be too large for the reference; DPA-1 is local, so that a small one says as much.
    """
    structures, expected = judged(name, count)
    bar = FORCE[engine.precision]
    found = engine.evaluate(structures)
    for what in ("energies", "forces", "virial"):
        pair = [np.concatenate([np.asarray(getattr(r, what)).ravel() for r in x]) for x in (found, expected)]
        same(f"{what} ({name}, {engine.precision})", *pair, bar=bar)


def neighbors_of(engine: Engine, structures: list[Atoms]) -> int:
    """Pairs within the cut-off, both ways round."""
    return int(engine.batch(structures).counts.sum())


def facts(engine: Engine, name: str) -> dict[str, Any]:
    """What an evaluation's figure must be read with."""
    return {
        "model": name, "model_hash": digest(name), "precision": engine.precision, "threads": engine.threads,
        "backend": engine.backend, "device": str(engine.device),
    }  # fmt: skip


def evaluation(name: str, system: str, precision: str, threads: int) -> Benchmark:
    """``Engine.evaluate`` of one system: from ``ase.Atoms`` to energies, forces and virials."""
    engine = Engine(model(**MODELS[name]), device="cpu", precision=precision, threads=threads)
    structures = SYSTEMS[system]()
    pairs = neighbors_of(engine, structures)
    atoms = sum(map(len, structures))
    return Benchmark(
        lambda: engine.evaluate(structures), lambda: check(engine, name, 1), atoms, pairs, facts(engine, name)
    )


def many(name: str, precision: str, count: int) -> Benchmark:
    """``Engine.evaluate`` of so many clusters in one call."""
    engine = Engine(model(**MODELS[name]), device="cpu", precision=precision, threads=THREADS)
    structures = molecules(count)
    pairs, atoms = neighbors_of(engine, structures[:1000]) * max(1, count // 1000), sum(map(len, structures))
    return Benchmark(
        lambda: engine.evaluate(structures), lambda: check(engine, name, 8), atoms, pairs, facts(engine, name)
    )


def _register() -> None:
    for name in MODELS:
        for precision in ("float64", "float32"):
            make = partial(evaluation, name, "192 atoms", precision, 1)
            register(f"evaluate/{name}, 192 atoms, {precision}, 1 thread", make)
    for system in SYSTEMS:
        for name in ("2 layers", "no attention"):
            make = partial(evaluation, name, system, "float32", THREADS)
            large = int(system.split()[0].replace(",", "")) > 10_000
            register(f"evaluate/{name}, {system}, float32, {THREADS} threads", make, large)
    for count in (1, 10, 100, 1000, 10000):
        register(
            f"batch/no attention, {count:,} clusters, float32",
            partial(many, "no attention", "float32", count),
            count > 1000,
        )
    register("batch/2 layers, 64 clusters, float32", partial(many, "2 layers", "float32", 64))
    register("batch/2 layers, 64 clusters, float64", partial(many, "2 layers", "float64", 64))


_register()
