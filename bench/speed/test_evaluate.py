"""Times ``Engine.evaluate`` on the named systems; a case whose float32 forces are off is not timed.

make bench                 the small systems
python -m pytest bench --benchmark-only -m large   the large ones
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from bench.cases import CASES, Case, model
from dpa1_fast import Engine

MODELS: dict[str, dict[str, Any]] = {"attention2": {}, "attention0": {"attn_layer": 0}}
FLOAT32_FORCE = 1e-4  # of the RMS force; the same bar as in the tests


def marked(case: Case) -> Any:
    return pytest.param(case, id=case.name, marks=[pytest.mark.large] if case.large else [])


@pytest.mark.parametrize("case", [marked(c) for c in CASES.values()])
@pytest.mark.parametrize("precision", ["float64", "float32"])
@pytest.mark.parametrize("options", MODELS.values(), ids=MODELS)
def test_evaluate(benchmark: Any, case: Case, precision: str, options: dict[str, Any]) -> None:
    structures = case.build()
    engine = Engine(model(**options), precision=precision)
    if precision == "float32":
        sample = CASES["water192"].build() if case.large else structures
        single = np.concatenate([r.forces for r in engine.evaluate(sample)])
        double = np.concatenate([r.forces for r in Engine(model(**options)).evaluate(sample)])
        error = np.sqrt(np.mean((single - double) ** 2) / np.mean(double**2))
        benchmark.extra_info["force_error"] = float(error)
        assert error < FLOAT32_FORCE, f"not timed: float32 forces are off by {error:.1e} of the RMS force"
    atoms = sum(len(a) for a in structures)
    rounds = 1 if case.large else 3
    benchmark.pedantic(engine.evaluate, args=(structures,), rounds=rounds, warmup_rounds=0 if case.large else 1)
    benchmark.extra_info["atoms"] = atoms
    benchmark.extra_info["ms_per_atom"] = 1e3 * benchmark.stats.stats.median / atoms
