"""The benchmark suite: slow-downs are found, unchanged code raises no alarm, and what is wrong has no speed."""

from __future__ import annotations

import json
import subprocess
import sys
from itertools import count
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from bench.suite import compare, evaluations
from bench.suite.benchmark import GROUPS, Wrong, load, same
from bench.suite.ratio import ratio
from dpa1_fast.kernels.cpu.evaluator import CpuEvaluator
from dpa1_fast.kernels.outputs import Outputs

ROOT = Path(__file__).parents[1]


class Machine:
    """A side whose runs take what it is told, times noise that both sides meet and noise of its own."""

    def __init__(self, seconds: float, seed: int, shared: np.ndarray) -> None:
        self.seconds, self.random, self.shared, self.calls = seconds, np.random.default_rng(seed), shared, count()

    def time(self, name: str, runs: int) -> dict[str, Any]:
        k = next(self.calls)
        own = np.exp(0.05 * self.random.normal()) * (3.0 if self.random.random() < 0.03 else 1.0)
        return {"seconds": self.seconds * own * self.shared[k % len(self.shared)]}


def verdict(factor: float, seed: int) -> compare.Verdict:
    shared = np.exp(0.3 * np.random.default_rng(1000 + seed).normal(size=200))
    sides = (Machine(x, 10 * seed + k, shared) for k, x in enumerate((0.01 * factor, 0.01, 0.01)))
    return compare.paired("op/x", *sides)  # type: ignore[arg-type]


def test_a_slow_down_of_a_fifth_is_found_on_a_noisy_machine() -> None:
    assert all(verdict(1.2, seed).bad for seed in range(40))


def test_what_did_not_change_raises_no_alarm() -> None:
    """Each alarm is tried again in new processes, so both have to be wrong; here not even one is."""
    assert not any(verdict(1.0, seed).bad for seed in range(100))
    assert not any(verdict(0.8, seed).bad for seed in range(20))


def test_the_interval_holds_the_true_ratio() -> None:
    random = np.random.default_rng(0)
    outside = 0
    for _ in range(500):
        found = ratio(np.exp(0.2 * random.normal(size=20)).tolist(), [1.0] * 20)
        outside += not found.low <= 1.0 <= found.high
    assert outside <= 10  # 1 % are allowed


def test_results_that_are_wrong_have_no_speed(monkeypatch: pytest.MonkeyPatch) -> None:
    benchmark = evaluations.evaluation("no attention", "24 atoms", "float64", 1)
    benchmark.check()
    right = CpuEvaluator.__call__

    def planted(self: CpuEvaluator, batch: Any, hidden: bool = False) -> Outputs:
        out = right(self, batch, hidden)
        return Outputs(out.energies, out.gradient, out.forces * (1 + 1e-6), out.virials)

    monkeypatch.setattr(CpuEvaluator, "__call__", planted)
    with pytest.raises(Wrong, match=r"forces \(no attention, float64\) differ .* no speed"):
        benchmark.check()
    with pytest.raises(Wrong, match="have shape"):
        same("x", np.zeros(3), np.zeros(4), 1.0)
    with pytest.raises(Wrong, match="differ"):
        same("x", np.array([np.nan]), np.ones(1), 1.0)


def test_every_group_has_benchmarks_and_every_formula_goes_both_ways() -> None:
    names = load()
    assert {e.group for e in names.values()} == set(GROUPS)
    ops = [n for n in names if n.startswith("op/")]
    assert {n.removesuffix(", forward") for n in ops if n.endswith("forward")} == {
        n.removesuffix(", and back") for n in ops if n.endswith("back")
    }


def test_a_worker_times_the_package_of_the_folder_that_it_is_given(tmp_path: Path) -> None:
    worker = ROOT / "bench" / "suite" / "worker.py"
    asked = "op/contraction, and back\t2\nno/such\t1\n"
    done = subprocess.run(
        [sys.executable, str(worker), str(ROOT)], input=asked, capture_output=True, text=True, check=True, cwd="/"
    )
    about, timed, lacks = map(json.loads, done.stdout.splitlines())
    assert about["version"]
    assert 0 < timed["seconds"] < 10
    assert "no/such" in lacks["lacks"]
    other = subprocess.run([sys.executable, str(worker), str(tmp_path)], input="", capture_output=True, text=True)
    assert f"is not in {tmp_path}" in other.stderr


def test_what_nothing_can_be_compared_with_is_said(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit, match="no benchmark has 'nothing'"):
        compare.main(["--against", "HEAD", "--only", "nothing"])
    with pytest.raises(SystemExit, match="is no revision, no folder"):
        compare.main(["--against", "no-such-revision", "--only", "control"])
