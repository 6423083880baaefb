"""The module trains in plain torch, and the engine takes it from memory."""

from __future__ import annotations

import numpy as np
import torch
from conftest import BASE, molecule

from dpa1_fast import DPA1, Engine
from dpa1_fast.structures.batch import collate, neighborhood
from dpa1_fast.structures.structure import from_ase


def test_a_few_steps_bring_forces_closer_and_the_engine_sees_it() -> None:
    torch.manual_seed(0)
    model = DPA1(BASE)  # float32, fresh
    structures = [molecule(6, seed) for seed in range(4)]
    batch = collate(BASE, [neighborhood(BASE, from_ase(BASE, a, "s")) for a in structures])
    target = DPA1(BASE)(batch).forces.detach()  # a teacher with other weights
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-2)

    def engine_error() -> float:
        found = np.concatenate([r.forces for r in Engine(model, precision="float32").evaluate(structures)])
        return float(np.sqrt(np.mean((found - target.numpy()) ** 2)))

    before = engine_error()
    for _ in range(60):
        optimizer.zero_grad()
        loss = ((model(batch).forces - target) ** 2).mean()
        loss.backward()
        optimizer.step()
    assert engine_error() < 0.5 * before
    assert abs(engine_error() - float(((model(batch).forces - target) ** 2).mean().sqrt().detach())) < 1e-5


def test_the_engine_is_a_snapshot() -> None:
    model = DPA1(BASE).set_dtype(torch.float64)
    engine, atoms = Engine(model), molecule()
    before = engine.evaluate([atoms])[0].energy
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.1)
    assert engine.evaluate([atoms])[0].energy == before
    assert Engine(model).evaluate([atoms])[0].energy != before
    assert all(p.requires_grad for p in model.parameters())
