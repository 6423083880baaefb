"""``dpa1-fast tune``, on a CPU in Triton's interpreter with a clock that is made up."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import make_model
from typer.testing import CliRunner

from dpa1_fast import Engine, cli, tuning
from dpa1_fast.checkpoint import write_model
from dpa1_fast.errors import DPA1Warning
from dpa1_fast.kernels import dispatch
from dpa1_fast.kernels.triton import configuration_cache, evaluator
from dpa1_fast.kernels.triton.launch_configurations import CANDIDATES, INTERPRETED, Tile, Tiles, tiles_for
from dpa1_fast.tuning import Tuner, atoms_with, buckets, chosen

FAST, SLOW = Tile(16, 16, 32, 4), Tile(32, 16, 32, 4)
BROKEN, NAN, WRONG = Tile(48, 16, 16, 4), Tile(64, 16, 16, 4), Tile(64, 32, 16, 4)
"""The first really fails: no tile has 48 rows. The others are made to fail."""
MADE_UP = dispatch.Card("NO REAL: Device (80 GB)", None, 3, 1 << 24)
SMALL = {"sel": (10,), "attn_layer": 1, "neuron": (4, 8), "axis_neuron": 2}


class Shaky(evaluator.TritonEvaluator):
    """Some tiles are fast, and some are wrong, as on a card that nobody has tried."""

    now: Tiles

    def run(self, *args: Any, **options: Any) -> Any:
        assert self.tiles is not None
        Shaky.now = self.tiles
        energy, gradient, forces, virials = super().run(*args, **options)
        if NAN in (self.tiles.forward, self.tiles.backward):
            forces = forces * float("nan")
        if WRONG in (self.tiles.forward, self.tiles.backward):
            forces = forces * 1.001
        return energy, gradient, forces, virials


def clock(call: Callable[[], Any]) -> float:
    """Seconds by tile: those that are wrong would be the fastest."""
    times = {FAST: 1.0, SLOW: 3.0, INTERPRETED: 2.0}
    return 1e-6 * sum(times.get(tile, 0.1) for tile in (Shaky.now.forward, Shaky.now.backward))


@pytest.fixture
def card(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """A machine with a made-up card, and an empty cache folder, which is returned."""
    candidates = [FAST, SLOW, BROKEN, NAN, WRONG]
    numbers = [tuple(vars(t).values()) for t in candidates]
    monkeypatch.setattr(tuning, "CANDIDATES", {k: {False: numbers} for k in tuning.DIRECTIONS})
    monkeypatch.setattr(tuning, "gpu", lambda device: (torch.device("cpu"), MADE_UP))
    monkeypatch.setattr(tuning, "seconds", clock)
    monkeypatch.setattr(tuning, "ATOMS", 2)
    monkeypatch.setattr(evaluator, "TritonEvaluator", Shaky)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setenv("COLUMNS", "200")
    return tmp_path / "cache" / "dpa1_fast"


def test_the_command_chooses_the_fastest_tile_that_is_right(card: Path, tmp_path: Path) -> None:
    model = make_model(**SMALL)
    write_model(model, tmp_path / "model.safetensors", "")
    done = CliRunner().invoke(cli.app, ["tune", "--model", str(tmp_path / "model.safetensors")])
    assert done.exit_code == 0, done.output
    words = " ".join(done.output.split())
    assert "NO REAL: Device (80 GB)" in words
    assert (
        "│ float32 │ ≤ 16 │ forward │ 32 × 32 × 128 × 64, 4 warps │ 2 │ 16 × 16 × 32 × 32, 4 warps │ 1.5 │ 1.33 │"
        in words
    )
    assert (
        "│ float32 │ ≤ 16 │ backward │ 32 × 32 × 128 × 64, 4 warps │ 1.5 │ 16 × 16 × 32 × 32, 4 warps │ 1 │ 1.50 │"
        in words
    )
    for direction in tuning.DIRECTIONS:
        head = f"rejected: float32, ≤ 16, {direction}, "
        assert f"{head}64 × 16 × 16 × 32, 4 warps: NaN" in words
        assert f"{head}64 × 32 × 16 × 32, 4 warps: forces differ by 1.0e-03 of their RMS" in words
        assert f"{head}48 × 16 × 16 × 32, 4 warps: InterpreterError: " in words
    (kept,) = card.iterdir()
    assert kept == configuration_cache.path_for(MADE_UP.name, model.config)
    assert kept.name.startswith("tiles-NO_REAL_Device_80_GB-4.8.attn12-3.")
    assert json.loads(kept.read_text()) == {
        "float32": {"16": {"forward": [16, 16, 32, 4, 32], "backward": [16, 16, 32, 4, 32]}}
    }
    # The engine reads it.
    tuned = configuration_cache.read(kept)["float32"]
    assert tiles_for("sm_90", "float32", 12, tuned) == Tiles(FAST, FAST)
    assert tiles_for("sm_90", "float32", 17, tuned) == tiles_for("sm_90", "float32", 17)


def test_where_nothing_is_faster_the_shipped_tiles_stay(card: Path) -> None:
    tuner = Tuner(make_model(**SMALL), torch.device("cpu"), MADE_UP, clock, {k: [SLOW] for k in tuning.DIRECTIONS}, 2)
    trials = tuner.tune("float32")
    assert [t.chosen for t in trials] == [t.shipped for t in trials] == [True, False] * 2
    assert chosen(trials)["float32"]["16"] == {"forward": INTERPRETED, "backward": INTERPRETED}


def test_shipped_tiles_that_are_wrong_are_no_judge(card: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tuning, "tiles_for", lambda *_: Tiles(NAN, NAN))
    trials = Tuner(make_model(**SMALL), torch.device("cpu"), MADE_UP, clock, atoms=2).tune("float32")
    assert {t.why for t in trials} == {"the shipped tiles are no judge: NaN"}
    assert chosen(trials) == {}
    assert tuning.table(trials).row_count == 2


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


def test_candidates_are_tiles() -> None:
    for by_maker in CANDIDATES.values():
        for tiles in by_maker.values():
            assert [configuration_cache._tile(*t) for t in tiles] == [Tile(*t) for t in tiles]


# --- the file -----------------------------------------------------------------------------------------------------


def test_what_was_tuned_before_stays(tmp_path: Path) -> None:
    path = tmp_path / "new" / "launch_configurations.json"
    assert configuration_cache.read(path) == {}
    configuration_cache.write(path, {"float32": {"16": {"forward": FAST}}})
    configuration_cache.write(path, {"tf32": {"32": {"backward": SLOW}}})
    assert configuration_cache.read(path) == {"float32": {"16": {"forward": FAST}}, "tf32": {"32": {"backward": SLOW}}}
    assert [x.name for x in path.parent.iterdir()] == ["launch_configurations.json"]


@pytest.mark.parametrize(
    "text",
    [
        "", "{", "[]", "3", '{"float32": 1}', '{"float32": {"17": {}}}',
        '{"float32": {"16": {"sideways": [16, 16, 16, 4]}}}',
        '{"float32": {"16": {"forward": [16, 16, 16]}}}', '{"float32": {"16": {"forward": [16, 32, 16, 4]}}}',
        '{"float32": {"16": {"forward": [48, 16, 16, 4]}}}', '{"float32": {"16": {"forward": ["16", 16, 16, 4]}}}',
    ],
)  # fmt: skip
def test_a_damaged_file_is_ignored_with_one_warning_that_names_it(text: str, tmp_path: Path) -> None:
    path = tmp_path / "launch_configurations.json"
    path.write_text(text)
    with pytest.warns(DPA1Warning) as seen:
        assert configuration_cache.read(path) == {}
    (warning,) = seen
    assert str(path) in str(warning.message)
    configuration_cache.write(path, {"float32": {"16": {"forward": FAST}}})
    assert configuration_cache.read(path) == {"float32": {"16": {"forward": FAST}}}


def test_where_the_file_is(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    config = make_model(attn_layer=0).config
    monkeypatch.setenv("HOME", str(tmp_path))
    for value in ("", "relative"):
        monkeypatch.setenv("XDG_CACHE_HOME", value)
        path = configuration_cache.path_for("NVIDIA H100 80GB HBM3", config)
        assert path.parent == tmp_path / ".cache" / "dpa1_fast"
        assert path.name.startswith("tiles-NVIDIA_H100_80GB_HBM3-4.8.16-")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "elsewhere"))
    assert configuration_cache.path_for("x", config).parent == tmp_path / "elsewhere" / "dpa1_fast"


def test_an_evaluator_is_made_with_the_tiles_of_its_card(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """By a made-up card; kernels don't run."""
    model = make_model(**SMALL)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setattr(dispatch, "card_of", lambda device: replace(MADE_UP, architecture="sm_90"))
    configuration_cache.write(
        configuration_cache.path_for(MADE_UP.name, model.config), {"float32": {"16": {"forward": FAST}}}
    )
    engine = Engine(model, device="cpu", backend="triton", precision="float32")
    assert engine.evaluator.tuned == {"16": {"forward": FAST}}  # type: ignore[attr-defined]
    assert Engine(model, device="cpu", backend="triton").evaluator.tuned is None  # type: ignore[attr-defined]
