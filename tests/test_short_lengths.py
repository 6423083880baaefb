"""Queries, keys and values shorter than 1e-12, by which they are then divided: such a length has no gradient."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import product
from typing import Any

import numpy as np
import pytest
from conftest import make_model, molecule

from dpa1_fast import DPA1, Engine
from dpa1_fast.kernels.prepare import bases

pytestmark = pytest.mark.usefixtures("quiet")

MODES: dict[str, dict[str, Any]] = {
    "smooth": {},
    "hard": {"smooth_type_embedding": False, "attn_layer": 1},
}


def shorten(model: DPA1, part: int, size: float) -> None:
    """Makes queries, keys or values (0, 1, 2) about ``size`` long in every layer."""
    attn = model.config.attn
    for layer in model.attention:
        for x in (layer.in_proj.weight, layer.in_proj.bias):
            x.data[..., part * attn : (part + 1) * attn] *= size


PARTS = ("queries", "keys", "values")


def cases() -> Iterator[Any]:
    """All there are. The interpreter takes its time: ``make test`` has every two of part, mode and way together."""
    for part, (number, mode), reduced in product(range(len(PARTS)), enumerate(MODES), (False, True)):
        name = "-".join([PARTS[part], mode, "coordinates" if reduced else "channels"])
        yield pytest.param("cpu", part, mode, reduced, id=f"cpu-{name}")
        slow = [pytest.mark.slow] if (part + number + reduced) % 2 else []
        yield pytest.param("triton", part, mode, reduced, id=f"triton-{name}", marks=slow)


@pytest.mark.parametrize(("backend", "part", "mode", "reduced"), [*cases()])
def test_forces_are_those_of_autograd(
    backend: str, part: int, mode: str, reduced: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(bases, "WORTH", 2.0 if reduced else 0.0)
    for size in (1e-13, 5e-13):
        model = make_model(**MODES[mode])
        shorten(model, part, size)
        atoms = [molecule(4, 1)]
        right = Engine(model, backend="reference", device="cpu").evaluate(atoms)[0]
        found = Engine(model, backend=backend, device="cpu").evaluate(atoms)[0]
        assert abs(found.energy - right.energy) < 1e-10
        assert np.abs(found.forces - right.forces).max() < 1e-10 * np.abs(right.forces).max()
