"""Kernels are compiled ahead, once; a launch configuration that does not do on a card gives way to the next."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import make_model, molecule

from dpa1_fast import Engine
from dpa1_fast.kernels.triton.compiling.choice import Chooser, Target
from dpa1_fast.kernels.triton.compiling.jobs import jobs_of
from dpa1_fast.kernels.triton.compiling.outcomes import Outcome
from dpa1_fast.kernels.triton.compiling.worker import decoded
from dpa1_fast.kernels.triton.evaluator import TritonEvaluator
from dpa1_fast.kernels.triton.launch_candidates import candidates_for
from dpa1_fast.kernels.triton.launch_configurations import SHIPPED, Kernel, LaunchConfiguration
from dpa1_fast.kernels.triton.stand_ins import Recorder, kernels, standing_in

ROOT = Path(__file__).parents[1]
CARD = Target("NO REAL CARD", "sm_99", 100_000)
GOOD = Outcome(registers=64, shared_bytes=1000, seconds=0.1)
PROJECT = Kernel("layer", "project")


def evaluator(precision: str = "tf32", **options: Any) -> TritonEvaluator:
    weights = make_model(neuron=(32, 64, 128), axis_neuron=4, **options).weights()
    return TritonEvaluator(weights, precision, torch.device("cpu"), "sm_99", chunk_bytes=1 << 26)


class Card:
    """Stands for what compiles: says of each kernel what ``judge`` says of its options, and counts."""

    def __init__(self, judge: Callable[[str, dict[str, Any]], Outcome | None]) -> None:
        self.judge, self.asked = judge, list[str]()

    def __call__(self, lines: Sequence[str]) -> Mapping[str, Outcome]:
        self.asked += lines
        jobs = {line: json.loads(line) for line in lines}
        return {k: self.judge(x["function"].split(".")[1], x["options"]) or GOOD for k, x in jobs.items()}


def chooser(folder: Path, card: Card, said: list[str] | None = None, target: Target = CARD) -> Chooser:
    return Chooser(target, folder, (said if said is not None else []).append, workers=1, compile=card)


def shipped(kernel: Kernel, precision: str = "tf32") -> LaunchConfiguration:
    return SHIPPED[precision].of(kernel)


def is_project(name: str, options: dict[str, Any], c: LaunchConfiguration) -> bool:
    """Whether a launch is of ``project`` over all channels, in this configuration."""
    mine = (options.get("BLOCK_ROWS"), options.get("BLOCK_INNER"), options["num_warps"], options.get("num_stages"))
    wanted = (c.rows, min(c.chunk, 128), c.warps, c.stages)
    return name == "_attention_project_kernel" and options["MP"] == 128 and mine == wanted


# --- what does not do gives way --------------------------------------------------------------------------------------

FAULTS = {
    "a stack": (Outcome(stack_bytes=40), "needs a stack of 40 bytes"),
    "too large": (Outcome(shared_bytes=100_001), "takes 100001 bytes of shared memory, of 100000"),
    "an error": (Outcome(error="PassManager::run failed"), r"does not compile (PassManager::run failed)"),
    "a crash": (Outcome(error="the compiler crashed (SIGSEGV)"), r"does not compile (the compiler crashed (SIGSEGV))"),
}


@pytest.mark.parametrize("kind", FAULTS)
def test_the_next_candidate_serves_is_said_once_and_kept(kind: str, tmp_path: Path) -> None:
    outcome, words = FAULTS[kind]
    first, second, third = candidates_for("tf32")["layer"]["project"][:3]
    bad = (first, second)
    card = Card(lambda name, o: outcome if any(is_project(name, o, c) for c in bad) else None)
    said: list[str] = []
    run = evaluator()
    run.choose = chooser(tmp_path, card, said)
    run.compile(90)
    expected = SHIPPED["tf32"].changed(PROJECT, third)
    assert run.tuned == {"128": expected}  # and nothing else has changed
    assert len(said) == 4  # three rounds of compiling, of which the last two are of one kernel
    assert said[0].startswith("compiling ")
    assert said[0].endswith(" kernels for NO REAL CARD, once")
    assert said[1:3] == ["compiling 1 kernel for NO REAL CARD, once"] * 2
    assert f"project with {first.words()} {words} on NO REAL CARD with Triton" in said[3]
    assert said[3].endswith(f"; {third.words()} serves instead")
    again, asked = evaluator(), len(card.asked)
    again.choose = chooser(tmp_path, card, said)
    again.compile(90)
    assert again.tuned == {"128": expected}
    assert (len(card.asked), len(said)) == (asked, 4)  # nothing compiled, nothing said


def test_workers_that_would_wait_compile_what_may_be_next(tmp_path: Path) -> None:
    third = candidates_for("tf32")["layer"]["project"][3]

    def judge(name: str, o: dict[str, Any]) -> Outcome | None:
        mine = name == "_attention_project_kernel" and o["MP"] == 128
        return Outcome(stack_bytes=8) if mine and not is_project(name, o, third) else None

    run, said = evaluator(), list[str]()
    run.choose = Chooser(CARD, tmp_path, said.append, workers=3, compile=Card(judge))
    run.compile(90)
    assert run.tuned["128"] == SHIPPED["tf32"].changed(PROJECT, third)
    assert said[1] == "compiling 3 kernels for NO REAL CARD, once"
    assert len(said) == 3


def test_coordinates_have_candidates_of_their_own(tmp_path: Path) -> None:
    run = evaluator()
    assert run.model.coordinates is not None
    width = run.model.coordinates.width
    stack = Outcome(stack_bytes=8)
    first, second = candidates_for("tf32")["coordinates"]["project"][:2]
    card = Card(
        lambda name, o: (
            stack
            if name == "_attention_project_kernel" and o["MP"] == width and o["BLOCK_ROWS"] == first.rows
            else None
        )
    )
    run.choose = chooser(tmp_path, card)
    run.compile(90)
    assert run.tuned["128"] == SHIPPED["tf32"].changed(Kernel("coordinates", "project"), second)


def test_where_all_need_a_stack_the_least_serves(tmp_path: Path) -> None:
    least = candidates_for("tf32")["layer"]["project"][4]

    def judge(name: str, o: dict[str, Any]) -> Outcome | None:
        if name != "_attention_project_kernel" or o["MP"] != 128:
            return None
        return Outcome(stack_bytes=8 if is_project(name, o, least) else 16)

    run, said = evaluator(), list[str]()
    run.choose = chooser(tmp_path, Card(judge), said)
    run.compile(128)
    assert run.tuned["128"].of(PROJECT) == least
    assert sum("serves instead" in x for x in said) == 1


def test_what_fits_nowhere_is_an_error_that_names_it(tmp_path: Path) -> None:
    large = Outcome(shared_bytes=200_000)
    card = Card(lambda name, o: large if name == "_attention_scores_bwd_kernel" and o["MP"] == 128 else None)
    run = evaluator()
    run.choose = chooser(tmp_path, card)
    with pytest.raises(ValueError, match=r"on NO REAL CARD \(sm_99\) with Triton .*: scores_bwd takes 200000 bytes"):
        run.compile(90)
    card = Card(lambda name, o: Outcome(error="no such architecture"))
    run.choose = chooser(tmp_path / "new", card)
    with pytest.raises(ValueError, match="does not compile .no such architecture.*install another triton"):
        run.compile(90)


def test_a_card_that_no_table_knows_works(tmp_path: Path) -> None:
    run = evaluator("float32")
    run.choose = chooser(tmp_path, Card(lambda *_: None), target=Target("NVIDIA of tomorrow", "sm_130"))
    run.compile(90)
    assert run.tuned == {"128": SHIPPED["float32"]}


def test_what_was_measured_on_a_card_keeps_its_stack_but_has_to_fit(tmp_path: Path) -> None:
    measured = SHIPPED["tf32"].changed(PROJECT, LaunchConfiguration(64, 64, 8))
    outcomes = {"stack_bytes": 40}
    card = Card(
        lambda name, o: Outcome(**outcomes) if is_project(name, o, LaunchConfiguration(64, 64, 8)) else None
    )  # fmt: skip
    run = evaluator()
    run.tuned = {"128": measured}
    run.choose = chooser(tmp_path, card)
    run.compile(90)
    assert run.tuned["128"] == measured
    outcomes.clear()
    outcomes["shared_bytes"] = 200_000
    run = evaluator()
    run.tuned = {"128": measured}
    run.choose = chooser(tmp_path / "new", card)
    run.compile(90)
    assert run.tuned["128"] == measured.changed(PROJECT, shipped(PROJECT))


# --- once ------------------------------------------------------------------------------------------------------------


def test_each_bucket_is_compiled_when_there_are_such_atoms(tmp_path: Path) -> None:
    run, card = evaluator(), Card(lambda *_: None)
    run.choose = chooser(tmp_path, card)
    run.chunks(torch.tensor([3, 5, 9]))
    assert set(run.tuned) == {"16"}
    asked = len(card.asked)
    run.chunks(torch.tensor([3, 5, 16]))
    assert len(card.asked) == asked
    run.chunks(torch.tensor([3, 5, 40]))
    assert set(run.tuned) == {"16", "64"}


def test_all_neighbour_counts_are_compiled_at_once(tmp_path: Path) -> None:
    """One call, so that workers wait at one end alone; what is asked for afterwards is there."""
    calls: list[int] = []
    card = Card(lambda function, options: None)

    def compile_them(lines: Sequence[str]) -> Mapping[str, Outcome]:
        calls.append(len(lines))
        return card(lines)

    choose = Chooser(CARD, tmp_path, lambda line: None, workers=2, compile=compile_them)
    run = evaluator(attn_layer=0)
    choose.ahead(run, (16, 64, 256))
    for most in (16, 64, 256):
        choose(run, most)
    assert calls == [choose.compiled]


def test_another_model_s_shape_precision_or_card_is_another_matter(tmp_path: Path) -> None:
    card = Card(lambda *_: None)

    def asked(run: TritonEvaluator, target: Target = CARD) -> int:
        before = len(card.asked)
        run.choose = chooser(tmp_path, card, target=target)
        run.compile(128)
        return len(card.asked) - before

    whole = asked(evaluator())
    assert whole > 15
    assert asked(evaluator()) == 0
    assert 0 < asked(evaluator(smooth_type_embedding=False)) <= whole
    assert asked(evaluator("bfloat16")) > 10
    assert asked(evaluator(), replace(CARD, architecture="sm_98")) == whole


@pytest.mark.parametrize("damage", [b"", b"{", b"[]", b'{"x": 3}', b'{"x": {"folder": "../.."}}', b"\xff\xfe"])
def test_a_damaged_file_costs_compiling_again(damage: bytes, tmp_path: Path) -> None:
    card = Card(lambda *_: None)
    for _ in range(2):
        run = evaluator()
        run.choose = chooser(tmp_path, card)
        run.compile(128)
        run.choose.outcomes.path.write_bytes(damage)
    assert len(card.asked) == 2 * len(set(card.asked))


def test_what_triton_s_cache_lost_is_compiled_again(tmp_path: Path) -> None:
    (tmp_path / "KEPT").mkdir()
    card = Card(lambda name, o: replace(GOOD, folder="LOST" if "_bwd_" in name else "KEPT"))
    (tmp_path / "LOST").mkdir()
    for expected in (0, 1):
        run, before = evaluator(), set(card.asked) if expected else set()
        card.asked.clear()
        run.choose = chooser(tmp_path, card)
        run.compile(128)
        if expected:
            assert set(card.asked) == {x for x in before if "_bwd_" in x}
        if (tmp_path / "LOST").exists():
            (tmp_path / "LOST").rmdir()


def test_a_compiler_that_ran_out_of_memory_is_asked_again(tmp_path: Path) -> None:
    crashed = {"SIGKILL"}
    card = Card(
        lambda name, o: (
            Outcome(error=f"the compiler crashed ({min(crashed)})")
            if crashed and is_project(name, o, shipped(PROJECT))
            else None
        )
    )
    run = evaluator()
    run.choose = chooser(tmp_path, card)
    run.compile(90)
    assert run.tuned["128"].of(PROJECT) != shipped(PROJECT)
    crashed.clear()
    run = evaluator()
    run.choose = chooser(tmp_path, card)
    run.compile(90)
    assert run.tuned["128"] == SHIPPED["tf32"]


# --- what is compiled is what is launched ----------------------------------------------------------------------------


def test_other_threads_launch_kernels_while_one_records() -> None:
    launched: list[str] = []

    class Kernel:
        def __getitem__(self, grid: Any) -> Any:
            return lambda *_, **__: launched.append("kernel")

    recorder = Recorder(Kernel(), lambda *_: launched.append("note"))
    recorder[1,](2)
    other = threading.Thread(target=lambda: recorder[1,](2))
    other.start()
    other.join()
    assert launched == ["note", "kernel"]


def test_recording_changes_nothing() -> None:
    engine = Engine(make_model(), device="cpu", backend="triton", precision="float32")
    before = engine.evaluate([molecule(6)])[0]
    own = kernels()
    assert jobs_of(engine.evaluator, 16, SHIPPED["float32"])
    assert kernels() == own
    assert engine.evaluator.configurations is None
    after = engine.evaluate([molecule(6)])[0]
    assert (before.energy, before.forces.tolist()) == (after.energy, after.forces.tolist())


def test_what_a_worker_is_told_is_what_a_launch_has() -> None:
    """Types, alignment and constants; numbers that are compiled for any are compiled for any."""
    jobs = jobs_of(evaluator(), 90, SHIPPED["tf32"])
    seen: list[tuple[str, list[Any], dict[str, Any]]] = []

    def plain(x: Any) -> Any:
        return (str(x.dtype).removeprefix("torch."), x.data_ptr() % 16) if isinstance(x, torch.Tensor) else x

    def note(function: Any, arguments: tuple[Any, ...], options: dict[str, Any]) -> None:
        seen.append((function.fn.__name__, [plain(x) for x in arguments], options))

    from bench.compiled.launches import _batch  # water

    run = evaluator()
    run.chunk_bytes = 1 << 20
    batch = _batch(90)
    batch = replace(batch, types=batch.types % 2)
    with standing_in(lambda name, function: Recorder(function, note)):
        run(batch)
    told = []
    for job in jobs:
        x = json.loads(job.line)
        arguments = [(a.dtype, a.offset) if hasattr(a, "offset") else a for a in map(decoded, x["arguments"])]
        told.append((x["function"].split(".")[1], arguments, {k: decoded(v) for k, v in x["options"].items()}))

    def without_numbers(x: tuple[str, list[Any], dict[str, Any]]) -> tuple[str, list[Any], dict[str, Any]]:
        free = {kernels()[x[0]].arg_names.index(n) for n in ("blocks", "atoms", "n") if n in kernels()[x[0]].arg_names}
        return x[0], [None if k in free else a for k, a in enumerate(x[1])], x[2]

    known = [without_numbers(x) for x in told]
    assert len(seen) > 2 * len(jobs)  # several chunks
    for launch in seen:
        assert without_numbers(launch) in known
