"""Steps: of molecular dynamics and relaxations by driver, and of training."""

from __future__ import annotations

from functools import partial
from itertools import islice
from typing import Any

import numpy as np
import torch

from bench.cases import CASES, model, molecules
from dpa1_fast import DPA1, Engine
from dpa1_fast.drivers.ase import DPA1Calculator
from dpa1_fast.dynamics.stepper import Moving
from dpa1_fast.structures.batch import collate, neighborhood
from dpa1_fast.structures.structure import from_ase

from .benchmark import Benchmark, register, same
from .evaluations import check, facts, well_inside


def ase_step(case: str) -> Benchmark:
    """One step of ASE's velocity Verlet with our calculator, float32."""
    from ase import units
    from ase.md.verlet import VelocityVerlet

    engine = Engine(model(), device="cpu", precision="float32", threads=1)
    atoms = CASES[case].build()[0]
    atoms.calc = DPA1Calculator(engine)
    atoms.set_momenta(np.random.default_rng(0).normal(size=(len(atoms), 3)))
    dynamics = VelocityVerlet(atoms, timestep=0.01 * units.fs)  # hardly moves: the model's weights are random
    pairs = int(engine.batch([atoms]).counts.sum())
    return Benchmark(
        lambda: dynamics.run(1), lambda: check(engine, "2 layers", 1), len(atoms), pairs, facts(engine, "2 layers")
    )


def batched_step(count: int) -> Benchmark:
    """One step of so many clusters that move together, as ``relax`` and ``md`` take it, float32."""
    engine = Engine(model(), device="cpu", precision="float32", threads=1)
    structures = [from_ase(engine.config, a, "x") for a in CASES["molecules64"].build()[:count]]
    moving = Moving(engine)
    moving.select(structures)
    positions, cells = np.concatenate([s.positions for s in structures]), np.stack([s.cell for s in structures])

    def check_step() -> None:
        fresh = engine.evaluate(structures)
        same("forces", moving.step(positions, cells).forces, np.concatenate([r.forces for r in fresh]), 1e-5)
        check(engine, "2 layers", 1)

    pairs = int(engine.batch(structures).counts.sum())
    atoms = sum(map(len, structures))
    return Benchmark(lambda: moving.step(positions, cells), check_step, atoms, pairs, facts(engine, "2 layers"))


def training_step(dtype: torch.dtype, layers: int) -> Benchmark:
    """Loss on energies and forces, its gradient, and a step of Adam; the judge differentiates the formulas twice."""
    from dpa1_fast.train.predict import predict

    net = DPA1(model(attn_layer=layers).config).set_dtype(dtype)
    net.load_state_dict(model(attn_layer=layers).state_dict())
    clusters = list(islice(filter(well_inside, molecules(64)), 8))
    parts = [neighborhood(net.config, from_ase(net.config, a, "x")) for a in clusters]
    batch = collate(net.config, parts)
    random = torch.Generator().manual_seed(0)
    force = torch.randn(batch.n_atoms, 3, generator=random, dtype=torch.float64)
    optimizer = torch.optim.Adam(net.parameters(), lr=0.0)  # the same step each time

    def loss(backend: str) -> Any:
        found = predict(net, batch, backend)
        return (found.energy / 10).square().sum() + (found.forces - force).square().sum()

    def run() -> None:
        optimizer.zero_grad()
        loss("auto").backward()
        optimizer.step()

    def check_gradients() -> None:
        gradients = []
        for backend in ("auto", "reference"):
            optimizer.zero_grad()
            loss(backend).backward()
            gradients.append(np.concatenate([p.grad.numpy().ravel() for p in net.parameters() if p.grad is not None]))
        same("parameter gradients", *gradients, bar=1e-8 if dtype == torch.float64 else 1e-3)

    what = {"precision": str(dtype).removeprefix("torch."), "threads": torch.get_num_threads()}
    return Benchmark(run, check_gradients, batch.n_atoms, int(batch.counts.sum()), what)


def _register() -> None:
    register("md/ASE, 192 atoms, float32, 1 thread", partial(ase_step, "water192"))
    register("md/64 clusters in one batch, float32, 1 thread", partial(batched_step, 64))
    register("md/1 cluster of 9 atoms, float32, 1 thread", partial(batched_step, 1))
    for dtype in (torch.float64, torch.float32):
        register(f"train/2 layers, {str(dtype).removeprefix('torch.')}", partial(training_step, dtype, 2))
    register("train/no attention, float32", partial(training_step, torch.float32, 0))


_register()
