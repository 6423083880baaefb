"""Queries, keys and values shorter than 1e-12, by which they are then divided: such a length has no gradient."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from conftest import make_model, molecule

from dpa1_fast import DPA1, Engine
from dpa1_fast.kernels.prepare import bases

pytestmark = pytest.mark.usefixtures("quiet")

MODES: dict[str, dict[str, Any]] = {
    "smooth": {},
    "hard": {"smooth_type_embedding": False, "attn_layer": 1},
}


def shortened(model: DPA1, part: int, size: float) -> tuple[int, int]:
    """Makes queries, keys or values (0, 1, 2) about ``size`` long in every layer. How many of the first layer's are
    then shorter than 1e-12, and longer, for embeddings of any size."""
    attn = model.config.attn
    for layer in model.attention:
        for x in (layer.in_proj.weight, layer.in_proj.bias):
            x.data[..., part * attn : (part + 1) * attn] *= size
    first = model.attention[0].in_proj
    g = torch.randn(500, model.config.neuron[-1], dtype=torch.float64)
    length = (g @ first.weight + first.bias)[:, part * attn : (part + 1) * attn].norm(dim=1)
    return int((length < 1e-12).sum()), int((length > 1e-12).sum())


@pytest.mark.parametrize("reduced", [False, True], ids=["channels", "coordinates"])
@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("part", [0, 1, 2], ids=["queries", "keys", "values"])
@pytest.mark.parametrize("backend", ["cpu", "triton"])
def test_forces_are_those_of_autograd(
    backend: str, part: int, mode: str, reduced: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(bases, "WORTH", 2.0 if reduced else 0.0)
    for size in (1e-13, 5e-13):
        model = make_model(**MODES[mode])
        below, above = shortened(model, part, size)
        print(below, above)
        atoms = [molecule(6, 1)]
        right = Engine(model, backend="reference", device="cpu").evaluate(atoms)[0]
        found = Engine(model, backend=backend, device="cpu").evaluate(atoms)[0]
        assert abs(found.energy - right.energy) < 1e-10
        assert np.abs(found.forces - right.forces).max() < 1e-10 * np.abs(right.forces).max()
