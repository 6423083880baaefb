"""Kernels have no data races: every load, store and barrier is watched in Triton's interpreter; and the watch sees."""

from __future__ import annotations

import re
from collections.abc import Iterable
from functools import cache
from pathlib import Path

import pytest
import torch
import triton
import triton.language as tl
from ptx_emulator.known import _doubled_kernel, _reversed_kernel
from race_checker.settings import MODES, everything, quick, smallest
from race_checker.watch import Finding, Watch

from dpa1_fast.kernels.triton import evaluator
from dpa1_fast.kernels.triton.stand_ins import kernels

OPS = Path(evaluator.__file__).parent / "ops"
EVERYTHING = dict(everything())


# --- kernels of which it is known ---------------------------------------------------------------------------------


@triton.jit
def _overwritten_kernel(x, total, N: tl.constexpr):
    """Every element is loaded and stored, but what is stored does not wait for what was loaded."""
    at = tl.arange(0, N)
    loaded = tl.load(x + at)
    tl.store(x + at, tl.zeros([N], tl.float32))
    tl.store(total, tl.sum(loaded, axis=0))


@triton.jit
def _neighbors_kernel(x, N: tl.constexpr):
    """Programs store to one place, and load what another one stores."""
    tl.store(x + tl.arange(0, N), tl.load(x + N + tl.arange(0, N)))
    tl.store(x + N + tl.program_id(0), 0.0)


def kinds(findings: Iterable[Finding]) -> set[tuple[str, str]]:
    return {(x.between, x.kind) for x in findings}


def test_a_race_between_threads_is_found() -> None:
    with Watch() as watch:
        _reversed_kernel[(1,)](torch.arange(8.0), torch.zeros(8), False, 8)
    assert kinds(watch.hazards) == {("threads", "RAW"), ("threads", "WAR"), ("threads", "WAW")}
    assert {(x.kernel, x.tensor) for x in watch.hazards} == {("_reversed_kernel", "scratch")}


def test_barriers_end_it_and_it_is_known_what_each_is_for() -> None:
    with Watch(leave_out=True) as watch:
        _reversed_kernel[(1,)](torch.arange(8.0), torch.zeros(8), True, 8)
    assert not watch.findings
    first, second = sorted(watch.barriers, key=lambda barrier: int(barrier.split(":")[1]))
    assert kinds(watch.without[first]) == {("threads", "RAW")}
    assert kinds(watch.without[second]) == {("threads", "WAR")}


def test_memory_that_a_thread_changes_in_place_is_no_hazard() -> None:
    with Watch() as watch:
        _doubled_kernel[(1,)](torch.arange(8.0), 8)
    assert kinds(watch.findings) == {("threads", "WAR")}
    assert not watch.hazards


def test_memory_that_is_overwritten_is_one() -> None:
    """Where the compiler has several threads hold an element, one may store before another has loaded."""
    with Watch() as watch:
        _overwritten_kernel[(1,)](torch.arange(8.0), torch.zeros(1), 8)
    assert kinds(watch.hazards) == {("threads", "WAR")}


def test_a_race_between_programs_is_found() -> None:
    with Watch() as watch:
        _neighbors_kernel[(2,)](torch.arange(16.0), 8)
    assert {("programs", "RAW"), ("programs", "WAW")} <= kinds(watch.hazards)


# --- ours -----------------------------------------------------------------------------------------------------------


def said(findings: Iterable[Finding]) -> str:
    return "\n".join(str(x) for x in findings)


SMALLEST = {
    "coordinates": {"coordinates": True},
    "all channels": {"coordinates": False},
    "no attention": {"coordinates": False, "attn_layer": 0},
    "no attention, by series": {"coordinates": True, "attn_layer": 0},
    "hard, lengths as they are": {"coordinates": True, "normalize": False, "attn_layer": 3, **MODES["strip_hard"]},
}
QUICK = "all channels"
"""In ``make test``; hazards of the other kernels are looked for by ``test_no_hazards``."""


@cache
def left_out(name: str) -> Watch:
    """The kernels of one model, and what would be found without each barrier."""
    with pytest.MonkeyPatch.context() as patch:
        return smallest(**SMALLEST[name]).watched(patch, leave_out=True)


@pytest.mark.parametrize("name", [x if x == QUICK else pytest.param(x, marks=pytest.mark.slow) for x in SMALLEST])
def test_every_barrier_is_needed(name: str) -> None:
    watch = left_out(name)
    assert not watch.hazards, said(watch.hazards)
    needless = [barrier for barrier in watch.barriers if all(x.in_place for x in watch.without[barrier])]
    assert not needless, "no harm comes of leaving these out"


@pytest.mark.slow
def test_no_barrier_and_no_kernel_is_forgotten() -> None:
    watches = [left_out(name) for name in SMALLEST]
    lines = {
        f"{path.name}:{number}"
        for path in OPS.glob("*.py")
        for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1)
        if re.search(r"tl\.debug_barrier\(\)", line)
    }
    assert {barrier for watch in watches for barrier in watch.barriers} == lines
    seen = {kernel for watch in watches for kernel in watch.launches}
    assert not kernels().keys() - seen


@pytest.mark.parametrize("name", quick())
def test_no_hazards(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    found = quick()[name].watched(monkeypatch).hazards
    assert not found, said(found)


@pytest.mark.slow
@pytest.mark.parametrize("name", EVERYTHING)
def test_no_hazards_in_any_setting(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    found = EVERYTHING[name].watched(monkeypatch).hazards
    assert not found, said(found)
