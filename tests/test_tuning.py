"""``dpa1-fast tune``, on a CPU in Triton's interpreter with a clock that is made up."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import make_model
from typer.testing import CliRunner

from dpa1_fast import DPA1, Engine, cli, tune_command, tuning
from dpa1_fast.checkpoint import write_model
from dpa1_fast.errors import DPA1Warning
from dpa1_fast.kernels import dispatch
from dpa1_fast.kernels.outputs import Outputs
from dpa1_fast.kernels.triton import attention, configuration_cache, evaluator, kernel_clock
from dpa1_fast.kernels.triton.kernel_clock import Kernel, Launches, by_kernel
from dpa1_fast.kernels.triton.launch_candidates import Candidates, candidates_for
from dpa1_fast.kernels.triton.launch_configurations import (
    INTERPRETED,
    SHIPPED,
    Configurations,
    LaunchConfiguration,
    configurations_for,
)
from dpa1_fast.tuning import Tuner, atoms_with, buckets

FAST = LaunchConfiguration(16, 16, 4, 1, 16)
SLOW = LaunchConfiguration(16, 16, 8, 1, 16)
BROKEN = LaunchConfiguration(16, 24, 4, 1, 16)
NAN = LaunchConfiguration(16, 16, 1, 1, 16)
WRONG = LaunchConfiguration(16, 16, 2, 1, 16)
DEADLY = LaunchConfiguration(16, 16, 16, 1, 16)
"""BROKEN really fails: a chunk is a power of two. The others are made to fail."""
OWN = INTERPRETED.layer.scores
MADE_UP = dispatch.Card("NO REAL: Device (80 GB)", None, 1 << 24)
SMALL = {"sel": (10,), "attn_layer": 1, "neuron": (4, 8), "axis_neuron": 2}
NAMES = kernel_clock.NAMES


def kept_as(precision: str, x: Configurations) -> Configurations:
    """What is read of a file: attention as it was tuned, the embedding as it is shipped."""
    return replace(x, embedding=SHIPPED[precision].embedding)


def every(configurations: Configurations) -> dict[Kernel, LaunchConfiguration]:
    """Kernel → its configuration."""
    parts = {f.name: getattr(configurations, f.name) for f in fields(configurations)}
    return {Kernel(p, k): x for p, layer in parts.items() for k, x in vars(layer).items()}


class Shaky(evaluator.TritonEvaluator):
    """Some launches are fast, and some are wrong, as on a card that nobody has tried."""

    now: Configurations
    dead = False

    def run(self, *args: Any, **options: Any) -> Any:
        assert self.configurations is not None
        Shaky.now = self.configurations
        tried = every(self.configurations).values()
        if DEADLY in tried or Shaky.dead:
            Shaky.dead = True
            raise RuntimeError("CUDA error: misaligned address")
        energy, gradient, forces, virials = super().run(*args, **options)
        if NAN in tried:
            forces = forces * float("nan")
        if WRONG in tried:
            forces = forces * 1.001
        return Outputs(energy, gradient, forces, virials)


def clock(call: Callable[[], Any]) -> Launches:
    """Seconds by configuration, for two atoms: those that are wrong would be the fastest."""
    times = {FAST: 1e-6, SLOW: 3e-6, OWN: 2e-6}
    return [
        (f"_attention_{k.name}_kernel", 2 * times.get(x, 1e-7))
        for k, x in every(Shaky.now).items()
        if k.part == "layer"
    ]


def tried(*candidates: LaunchConfiguration, only: str = "") -> Candidates:
    """The same for every kernel, or for one."""
    return {p: {k: list(candidates) if only in ("", k) else [] for k in NAMES} for p in ("layer", "coordinates")}


CANDIDATES = tried(FAST, SLOW, NAN, WRONG)
CANDIDATES["layer"]["project"].append(BROKEN)


def tuner_of(model: DPA1, *candidates: LaunchConfiguration, only: str = "") -> Tuner:
    """With a made-up clock; two atoms."""
    return Tuner(model, torch.device("cpu"), MADE_UP, clock, tried(*candidates, only=only), 2)


@pytest.fixture
def card(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """A machine with a made-up card, and an empty cache folder, which is returned."""
    monkeypatch.setattr(Shaky, "dead", False)
    monkeypatch.setattr(tuning, "candidates_for", lambda _: CANDIDATES)
    monkeypatch.setattr(tuning, "answers", lambda _: not Shaky.dead)
    monkeypatch.setattr(tuning, "gpu", lambda device: (torch.device("cpu"), MADE_UP))
    monkeypatch.setattr(tuning, "ATOMS", 2)
    monkeypatch.setattr(kernel_clock, "profile", clock)
    monkeypatch.setattr(evaluator, "TritonEvaluator", Shaky)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setenv("COLUMNS", "200")
    return tmp_path / "cache" / "dpa1_fast"


def invoke(model: DPA1, tmp_path: Path, *arguments: str) -> tuple[int, str]:
    """Exit code and words of the command."""
    write_model(model, tmp_path / "model.safetensors", "")
    done = CliRunner().invoke(cli.app, ["tune", "--model", str(tmp_path / "model.safetensors"), *arguments])
    return done.exit_code, " ".join(done.output.split())


def test_the_command_chooses_the_fastest_of_each_kernel_that_is_right(card: Path, tmp_path: Path) -> None:
    model = make_model(**SMALL)
    code, words = invoke(model, tmp_path)
    assert code == 0, words
    assert "NO REAL: Device (80 GB)" in words
    for kernel in NAMES:
        assert f"│ float32 │ ≤ 16 │ {kernel} │ 16 × 32 × 16, 4 warps │ 2 │ 16 × 16 × 16, 4 warps │ 1 │ 2.00 │" in words
        head = f"rejected: float32, ≤ 16, {kernel}, 16 × "
        assert f"{head}16 × 16, 1 warps: NaN" in words
        assert f"{head}16 × 16, 2 warps: forces differ by 1.0e-03 of their RMS" in words
    assert "rejected: float32, ≤ 16, project, 16 × 24 × 16, 4 warps: InterpreterError: " in words
    (kept,) = card.iterdir()
    assert kept == configuration_cache.path_for(MADE_UP.name, model.config)
    assert kept.name.startswith("launches-NO_REAL_Device_80_GB-4.8.attn12-3.")
    found = configuration_cache.read(kept)["float32"]
    fastest = Configurations(replace(INTERPRETED.layer, **dict.fromkeys(NAMES, FAST)), INTERPRETED.coordinates)
    assert found == {"16": kept_as("float32", fastest)}
    # The engine reads it.
    assert configurations_for("sm_90", "float32", 12, found) == found["16"]
    assert configurations_for("sm_90", "float32", 17, found) == SHIPPED["float32"]


def test_where_nothing_is_faster_the_shipped_ones_stay(card: Path) -> None:
    tuner = tuner_of(make_model(**SMALL), SLOW, only="scores")
    outcome = tuner.tune(tuner.evaluator("float32"), 16)
    assert [(t.kernel.name, t.configuration, t.us) for t in outcome.trials if not t.shipped] == [
        ("scores", SLOW, pytest.approx(3.0))
    ]
    assert all(t.chosen == t.shipped for t in outcome.trials)
    assert outcome.configurations == INTERPRETED


def test_what_is_launched_alike_is_tried_once(card: Path) -> None:
    tuner = tuner_of(make_model(**SMALL), FAST, replace(FAST, rows=64), replace(FAST, keys=128), OWN, only="scores")
    outcome = tuner.tune(tuner.evaluator("float32"), 16)
    assert [t.configuration for t in outcome.trials if t.kernel.name == "scores"] == [OWN, FAST]


def test_shipped_ones_that_are_wrong_are_no_judge(card: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    wrong = replace(INTERPRETED, layer=replace(INTERPRETED.layer, scores=NAN))
    monkeypatch.setattr(tuning, "configurations_for", lambda *_: wrong)
    tuner = tuner_of(make_model(**SMALL), FAST)
    outcome = tuner.tune(tuner.evaluator("float32"), 16)
    (trial,) = outcome.trials
    assert trial.why == "what is shipped is no judge: NaN"
    assert outcome.configurations is None
    assert tune_command.table(outcome.trials).row_count == 1


def test_winners_that_are_wrong_together_are_not_kept(card: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tuner = tuner_of(make_model(**SMALL), FAST)
    measure = tuner._measure

    def together(run: Any, batch: Any, configurations: Configurations, judge: Any) -> Any:
        fast = list(every(configurations).values()).count(FAST)
        return "NaN" if fast > 1 else measure(run, batch, configurations, judge)

    monkeypatch.setattr(tuner, "_measure", together)
    outcome = tuner.tune(tuner.evaluator("float32"), 16)
    assert outcome.configurations == INTERPRETED
    assert outcome.trials[-1].why == "the fastest of each at once: NaN"
    assert all(t.chosen == t.shipped for t in outcome.trials)


def test_where_a_candidate_takes_the_card_away_it_alone_is_named_and_nothing_else_is_judged(
    card: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The first bucket is done and stays; the second one's first candidate of the second kernel is the last trial."""
    model = make_model(**{**SMALL, "sel": (20,)})
    calls = iter([tried(FAST, only="project"), tried(FAST, DEADLY, SLOW, only="scores")])
    monkeypatch.setattr(tuning, "candidates_for", lambda _: next(calls))
    code, words = invoke(model, tmp_path, "--precision", "float32", "--precision", "tf32")
    assert code == 1
    assert words.count("rejected: ") == 1
    deadly = "float32, ≤ 32, scores, 16 × 16 × 16, 16 warps"
    assert f"rejected: {deadly}: RuntimeError: CUDA error: misaligned address" in words
    assert f"stopped: after {deadly} (RuntimeError: CUDA error: misaligned address) the card answers" in words
    assert "│ float32 │ ≤ 32 │ scores │ 32 × 32 × 32, 4 warps │ 2 │ not finished │" in words
    assert "tf32, ≤" not in words
    (kept,) = card.iterdir()
    found = configuration_cache.read(kept)
    assert {p: list(x) for p, x in found.items()} == {"float32": ["16"]}
    assert found["float32"]["16"].layer == replace(INTERPRETED.layer, project=FAST)


def test_a_card_that_computes_answers() -> None:
    assert tuning.answers(torch.device("cpu"))


def test_a_model_without_attention_has_nothing_to_tune(card: Path, tmp_path: Path) -> None:
    code, words = invoke(make_model(**{**SMALL, "attn_layer": 0}), tmp_path)
    assert (code, card.exists()) == (2, False)
    assert "error: this model has no attention" in words


def test_without_a_gpu_one_line_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    done = CliRunner().invoke(cli.app, ["tune"])
    assert done.exit_code == 2
    assert done.output == "error: no GPU was found: tune times kernels, so it has to run where torch sees one\n"


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--precision", "float8"], "precision 'float8' is not available with backend 'triton'"),
        (["--model", "no-such-model"], "no-such-model"),
    ],
)
def test_what_it_cannot_do_is_one_line(card: Path, arguments: list[str], said: str) -> None:
    done = CliRunner().invoke(cli.app, ["tune", *arguments])
    assert done.exit_code == 2
    (line,) = [x for x in done.output.splitlines() if x.startswith("error: ")]
    assert said in line
    assert not card.exists()


def test_a_batch_has_the_neighbours_of_its_bucket() -> None:
    config = replace(make_model().config, sel=(100,))
    assert buckets(config) == [16, 32, 64, 128]
    batch = atoms_with(config, 100, 7)
    assert batch.counts.tolist() == [100] * 7
    length = batch.vector.norm(dim=1)
    assert 0 < float(length.min()) < float(length.max()) < config.rcut
    assert not torch.equal(batch.vector, atoms_with(config, 99, 7).vector[:700])


# --- candidates and the clock -------------------------------------------------------------------------------------


@pytest.mark.parametrize("precision", SHIPPED)
def test_candidates_are_launch_configurations_and_begin_with_the_shipped_ones(precision: str) -> None:
    shipped = SHIPPED[precision]
    for part, by_name in candidates_for(precision).items():
        of_part = getattr(shipped, part)
        assert set(by_name) == set(NAMES) - ({"norm_bwd"} if part == "coordinates" else set())
        for name, candidates in by_name.items():
            assert candidates[0] == getattr(of_part, name)
            assert len(set(candidates)) == len(candidates) > 4
            for x in candidates:
                assert configuration_cache._configuration(name, *vars(x).values()) == x


def test_the_clock_knows_every_kernel_of_attention() -> None:
    known = {k for k in vars(attention) if k.endswith("_kernel")}
    assert known == {*kernel_clock.SHARED, *kernel_clock.REDUCED}


def test_launches_are_told_apart_by_their_order() -> None:
    """Two chunks of three layers, the first in coordinates: first forward, last backward."""
    forward = [
        ("_attention_scores_kernel", 1.0),
        ("_attention_scores_kernel", 10.0),
        ("_attention_scores_kernel", 20.0),
    ]
    backward = [("_attention_scores_bwd_kernel", 300.0), ("_attention_scores_bwd_kernel", 200.0)]
    backward += [("_reduced_output_bwd_kernel", 5.0), ("_attention_scores_bwd_kernel", 100.0)]
    assert by_kernel([*forward, *backward] * 2, 3, True) == {
        Kernel("layer", "scores"): 60.0, Kernel("layer", "scores_bwd"): 1000.0,
        Kernel("coordinates", "scores"): 2.0, Kernel("coordinates", "output_bwd"): 10.0,
        Kernel("coordinates", "scores_bwd"): 200.0,
    }  # fmt: skip
    assert by_kernel(forward, 3, False) == {Kernel("layer", "scores"): 31.0}
    assert by_kernel(forward[:1], 1, True) == {Kernel("coordinates", "scores"): 1.0}


def test_an_evaluation_s_launches_are_told_apart(monkeypatch: pytest.MonkeyPatch) -> None:
    """What two layers launch, the first one in coordinates, in the order in which the evaluator does so."""
    from dpa1_fast.kernels.triton.stand_ins import standing_in

    model = make_model(attn_layer=2, neuron=(32, 64, 128), axis_neuron=4)
    tuner = Tuner(model, torch.device("cpu"), MADE_UP, lambda call: [], atoms=3)
    run, seen = tuner.evaluator("bfloat16"), []
    assert run.model.coordinates is not None

    class Recorder:
        def __init__(self, name: str, function: Any) -> None:
            self.name = name

        def __getitem__(self, grid: Any) -> Callable[..., None]:
            return lambda *args, **options: seen.append((self.name, float(options.get("M", 0))))

    with standing_in(Recorder):
        run(atoms_with(model.config, 12, 3))
    found = by_kernel([(k, m) for k, m in seen if k in {**kernel_clock.SHARED, **kernel_clock.REDUCED}], 2, True)
    width = float(run.model.coordinates.width)
    assert {k for k in found if k.part == "layer"} == {Kernel("layer", k) for k in NAMES}
    assert {k.name for k in found if k.part == "coordinates"} == set(NAMES) - {"norm_bwd"}
    assert all(m == (width if k.part == "coordinates" else 128.0) for k, m in found.items())


def test_the_median_of_repeats_goes_launch_by_launch() -> None:
    seen = [("a", 1.0), ("b", 9.0), ("a", 3.0), ("b", 7.0), ("a", 2.0), ("b", 8.0)]
    assert kernel_clock.median_of(seen, 3) == [("a", 2.0), ("b", 8.0)]
    for lost in ([], seen[:-1], [*seen[:-1], ("c", 1.0)]):
        with pytest.raises(RuntimeError, match="not all of them"):
            kernel_clock.median_of(lost, 3)


# --- the file -----------------------------------------------------------------------------------------------------


TUNED = replace(SHIPPED["tf32"], layer=replace(SHIPPED["tf32"].layer, scores=FAST))


def test_what_was_tuned_before_stays(tmp_path: Path) -> None:
    path = tmp_path / "new" / "file.json"
    assert configuration_cache.read(path) == {}
    configuration_cache.write(path, {"float32": {"16": TUNED}})
    configuration_cache.write(path, {"tf32": {"32": INTERPRETED}})
    configuration_cache.write(path, {"float32": {"32": INTERPRETED}})
    assert configuration_cache.read(path) == {
        "float32": {"16": kept_as("float32", TUNED), "32": kept_as("float32", INTERPRETED)},
        "tf32": {"32": kept_as("tf32", INTERPRETED)},
    }
    assert [x.name for x in path.parent.iterdir()] == ["file.json"]
    assert json.loads(path.read_text())["float32"]["16"]["layer"]["scores"] == [16, 16, 4, 1, 16]


def written(kernel: str, *numbers: Any) -> str:
    """A file in which one kernel of the layer has these numbers."""
    good = {p: {k: [16, 16, 4, 1, 16] for k in NAMES} for p in ("layer", "coordinates")}
    good["layer"][kernel] = list(numbers)
    return json.dumps({"float32": {"16": good}})


@pytest.mark.parametrize(
    "text",
    [
        "", "{", "[]", "3", '{"float32": 1}', '{"float32": {"17": {}}}', '{"float32": {"16": {}}}',
        '{"float32": {"16": {"layer": {}, "coordinates": {}}}}', '{"float32": {"16": {"forward": [16, 16, 16, 4]}}}',
        written("scores", 16, 16, 4), written("scores", 48, 16, 4, 1, 16), written("scores", "16", 16, 4, 1, 16),
        written("scores", 16, 16, 4, 1, 0), written("project", 8, 16, 4, 1, 0), written("project", 16, 16, 4, 0, 0),
        written("output", 16, 16, 64, 1, 0), written("output", 16, True, 4, 1, 0), written("output", 16, 8, 4, 1, 0),
    ],
)  # fmt: skip
def test_a_damaged_file_is_ignored_with_one_warning_that_names_it(text: str, tmp_path: Path) -> None:
    path = tmp_path / "file.json"
    path.write_text(text)
    with pytest.warns(DPA1Warning) as seen:
        assert configuration_cache.read(path) == {}
    (warning,) = seen
    assert str(path) in str(warning.message)
    configuration_cache.write(path, {"float32": {"16": TUNED}})
    assert configuration_cache.read(path) == {"float32": {"16": kept_as("float32", TUNED)}}


def test_a_file_that_is_not_damaged_is_read(tmp_path: Path) -> None:
    path = tmp_path / "file.json"
    path.write_text(written("norm_bwd", 4, 16, 1, 1, 0))
    assert configuration_cache.read(path)["float32"]["16"].layer.norm_bwd == LaunchConfiguration(4, 16, 1)


def test_where_the_file_is(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    config = make_model(attn_layer=0).config
    monkeypatch.setenv("HOME", str(tmp_path))
    for value in ("", "relative"):
        monkeypatch.setenv("XDG_CACHE_HOME", value)
        path = configuration_cache.path_for("NVIDIA H100 80GB HBM3", config)
        assert path.parent == tmp_path / ".cache" / "dpa1_fast"
        assert path.name.startswith("launches-NVIDIA_H100_80GB_HBM3-4.8.16-")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "elsewhere"))
    assert configuration_cache.path_for("x", config).parent == tmp_path / "elsewhere" / "dpa1_fast"


def test_an_evaluator_is_made_with_what_was_tuned_on_its_card(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """By a made-up card; kernels don't run."""
    model = make_model(**SMALL)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setattr(dispatch, "card_of", lambda device: replace(MADE_UP, architecture="sm_90"))
    configuration_cache.write(configuration_cache.path_for(MADE_UP.name, model.config), {"float32": {"16": TUNED}})
    engine = Engine(model, device="cpu", backend="triton", precision="float32")
    assert engine.evaluator.tuned == {"16": kept_as("float32", TUNED)}  # type: ignore[attr-defined]
    assert Engine(model, device="cpu", backend="triton").evaluator.tuned == {}  # type: ignore[attr-defined]
