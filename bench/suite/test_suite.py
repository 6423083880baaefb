"""Times every registered benchmark under pytest-benchmark; one whose results are wrong fails and has no speed.

make bench                                         those that take less than a second a run
python -m pytest bench/suite --benchmark-only      the large ones too
python -m pytest bench/suite --benchmark-only -k 'md or train'
"""

from __future__ import annotations

import time
from typing import Any

import pytest

from .benchmark import Entry, load

SECONDS = 1.0
"""How long one benchmark is repeated, at least three times."""


def marked(entry: Entry) -> Any:
    marks = [pytest.mark.benchmark(group=entry.group), *([pytest.mark.large] if entry.large else [])]
    return pytest.param(entry, id=entry.name, marks=marks)


@pytest.mark.parametrize("entry", [marked(e) for e in load().values()])
def test_benchmark(entry: Entry, benchmark: Any) -> None:
    made = entry.make()
    made.check()
    began = time.perf_counter()
    made.run()
    rounds = max(3, min(200, int(SECONDS / (time.perf_counter() - began))))
    benchmark.extra_info |= made.facts
    benchmark.pedantic(made.run, rounds=rounds, iterations=1)
    median = benchmark.stats.stats.median
    if made.atoms:
        benchmark.extra_info |= {"atoms": made.atoms, "us_per_atom": 1e6 * median / made.atoms}
    if made.neighbors:
        benchmark.extra_info |= {"neighbors": made.neighbors, "ns_per_neighbor": 1e9 * median / made.neighbors}
