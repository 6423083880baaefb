"""``dpa1-fast train``: what it leaves, and that a killed training ends with the same bits."""

from __future__ import annotations

import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from commands import start_command
from training import write_data, write_json, write_toml

from dpa1_fast import Engine
from dpa1_fast.checkpoint import read_model
from dpa1_fast.train.checkpoint import checkpoints, newest
from dpa1_fast.train.command import read_options, train_command
from dpa1_fast.train.data import Dataset
from dpa1_fast.train.lcurve import read_curve
from dpa1_fast.train.options import TrainingError


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with data."""
    folder = tmp_path_factory.mktemp("data")
    write_data(folder)
    return folder


def run(source: Path, output: Path, overwrite: bool = False) -> None:
    """Trains in this process."""
    assert train_command(source, output, "cpu", "auto", 1, overwrite) == 0


def same_files(one: Path, other: Path) -> bool:
    """Whether two trainings left the same models and curves, bit for bit."""
    names = ["model.safetensors", "model_ema.safetensors", "best.safetensors", "lcurve.out", "val.log"]
    return all((one / name).read_bytes() == (other / name).read_bytes() for name in names)


def test_a_training_leaves_models_curves_and_a_picture(data: Path, tmp_path: Path) -> None:
    run(write_toml(data), tmp_path / "out")
    curve = read_curve(tmp_path / "out" / "lcurve.out")
    assert curve["step"] == [1, 2, 4, 6, 8]
    assert list(curve)[:4] == ["step", "rmse_val", "rmse_trn", "rmse_e_val"]
    assert all(np.isfinite(curve["rmse_f_val"]))
    assert (tmp_path / "out" / "loss.png").stat().st_size > 10_000
    assert len(checkpoints(tmp_path / "out" / "checkpoints")) == 3
    # Both files hold the same model, and it is that of the last checkpoint.
    ours, dp = (read_model(tmp_path / "out" / f"model{x}").model for x in (".safetensors", ".dp"))
    state = newest(tmp_path / "out" / "checkpoints")
    assert state is not None
    for name, value in ours.state_dict().items():
        other = dp.state_dict()[name]  # DeePMD-kit's file has davg and dstd in the networks' float32
        assert torch.equal(value, other) or torch.equal(value.float(), other.float())
        assert torch.equal(value, state["model"][name].double())
    atoms = [s.structure for s in Dataset(ours.config, [str(data / "valid")]).samples]
    assert len(atoms) == 3
    assert Engine(ours, precision="float64") is not None


def test_deepmd_kits_input_trains_as_it_is(data: Path, tmp_path: Path) -> None:
    run(write_json(data), tmp_path / "out")
    curve = read_curve(tmp_path / "out" / "lcurve.out")
    assert list(curve) == ["step", "rmse_val", "rmse_trn", "rmse_e_val", "rmse_e_trn", "rmse_f_val", "rmse_f_trn", "lr"]
    assert curve["step"] == [1, 2, 4]
    assert read_model(tmp_path / "out" / "model.safetensors").model.config.precision == "float64"


def kill_at_random_moments(source: Path, output: Path, moments: int) -> None:
    """Starts a training again and again, and kills it some steps past where it began."""
    rng = np.random.default_rng(0)

    def reached() -> int:
        there = checkpoints(output / "checkpoints")
        return int(there[-1].stem.removeprefix("step-")) if there else 0

    for _ in range(moments):
        goal = reached() + int(rng.integers(1, 12))
        process = start_command("train", source, "-o", output, "-t", 1)
        while process.running() and reached() < goal:
            time.sleep(0.001)
        time.sleep(float(rng.uniform(0, 0.05)))  # within a step, a validation, the writing of a file
        process.send_signal(signal.SIGKILL)
        process.wait()


def test_killed_and_started_again_it_ends_with_the_same_bits(data: Path, tmp_path: Path) -> None:
    source = write_toml(data, steps=60)
    run(source, tmp_path / "whole")
    kill_at_random_moments(source, tmp_path / "killed", 2)
    run(source, tmp_path / "killed")
    assert same_files(tmp_path / "whole", tmp_path / "killed")


@pytest.mark.slow
def test_killed_at_ten_random_moments_it_ends_with_the_same_bits(data: Path, tmp_path: Path) -> None:
    source = write_toml(data, steps=140)
    run(source, tmp_path / "whole")
    kill_at_random_moments(source, tmp_path / "killed", 10)
    assert checkpoints(tmp_path / "killed" / "checkpoints")[-1].name < "step-000000140.pt"  # it was never done
    run(source, tmp_path / "killed")
    assert same_files(tmp_path / "whole", tmp_path / "killed")


def test_what_a_training_left_that_never_came_to_a_checkpoint_is_not_mixed_in(
    data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run(write_toml(data, steps=2), tmp_path / "out")
    shutil.rmtree(tmp_path / "out" / "checkpoints")  # as if killed before the first of them
    text = write_toml(data, steps=2).read_text()
    (tmp_path / "other.toml").write_text(re.sub("valid = .*|virial = .*", "", text))
    capsys.readouterr()
    run(tmp_path / "other.toml", tmp_path / "out")
    assert list(read_curve(tmp_path / "out" / "lcurve.out")) == ["step", "rmse_trn", "rmse_e_trn", "rmse_f_trn", "lr"]
    assert "best" not in capsys.readouterr().out


def test_a_folder_with_another_training_is_refused_until_it_may_go(data: Path, tmp_path: Path) -> None:
    run(write_toml(data, steps=3), tmp_path / "out")
    other = write_toml(data, steps=4)
    with pytest.raises(TrainingError, match="holds a training of other options"):
        run(other, tmp_path / "out")
    run(other, tmp_path / "out", overwrite=True)
    assert read_options(other).steps == 4


def forked(count: int, source: Path, output: Path) -> None:
    """Trains in forks of this process, told what torchrun tells its own."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    children = []
    for rank in range(count):
        child = os.fork()
        if child == 0:
            code = 1
            try:
                told = {"RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": str(count)}
                os.environ.update(told, MASTER_ADDR="127.0.0.1", MASTER_PORT=port)
                code = train_command(source, output, "cpu", "auto", 1, False)
            finally:
                os._exit(code)
        children.append(child)
    assert [os.waitpid(child, 0)[1] for child in children] == [0] * count


def by_torchrun(count: int, source: Path, output: Path) -> None:
    """Trains in processes that torchrun starts."""
    command = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", str(count), "--master-port", "29541"]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(["."] + sys.path), "OMP_NUM_THREADS": "1"}
    words = ["-m", "dpa1_fast", "train", str(source), "-o", str(output), "-t", "1"]
    subprocess.run([*command, *words], check=True, capture_output=True, env=environment)


@pytest.mark.parametrize("start", [forked, pytest.param(by_torchrun, marks=pytest.mark.slow)])
def test_two_processes_are_one_with_twice_the_batch(
    start: Callable[[int, Path, Path], None], data: Path, tmp_path: Path
) -> None:
    source = write_toml(data, steps=6)
    text = source.read_text().replace("rcut = 4.0", 'precision = "float64"\nrcut = 4.0')
    source.write_text(text)
    start(2, source, tmp_path / "two")
    source.write_text(text.replace("batch_atoms = 16", "batch_atoms = 32"))
    run(source, tmp_path / "one")
    one, two = (newest(tmp_path / name / "checkpoints") for name in ("one", "two"))
    assert one is not None
    assert two is not None
    for name, value in one["model"].items():
        torch.testing.assert_close(two["model"][name], value, rtol=1e-9, atol=1e-9)
    curves = [read_curve(tmp_path / name / "lcurve.out") for name in ("one", "two")]
    for name in (n for n in curves[0] if n.endswith("_trn")):
        assert curves[0][name] == curves[1][name]


@pytest.mark.parametrize("kind", ["Adam", "AdamW", "Muon"])
def test_optimizers_of_torch_bring_the_loss_down(data: Path, tmp_path: Path, kind: str) -> None:
    rates = {"Adam": "cosine", "AdamW": "wsd", "Muon": "exp"}  # each with another schedule
    source = write_toml(data, steps=16, training="clip = 5.0")
    text = source.read_text().replace("decay_steps = 3", f'kind = "{rates[kind]}"\nwarmup_steps = 4')
    source.write_text(text + f'[optimizer]\nkind = "{kind}"\nweight_decay = 0.001\n')
    run(source, tmp_path / "out")
    errors = read_curve(tmp_path / "out" / "lcurve.out")["rmse_f_val"]
    assert errors[-1] < 0.7 * errors[0]
