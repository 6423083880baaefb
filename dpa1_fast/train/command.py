"""What ``dpa1-fast train`` does and prints."""

from __future__ import annotations

import os
import shutil
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch

from .. import devices
from .distributed import World, world
from .input_json import read_json
from .input_toml import read_toml
from .loop import BEST, CHECKPOINTS, CURVE, PICTURE, VALIDATIONS, Loop
from .options import Options, TrainingError
from .prepare import prepare
from .progress import Watch

OURS = (CURVE, VALIDATIONS, PICTURE, "best.safetensors", "best_ema.safetensors", "model.safetensors", "model.dp",
        "model_ema.safetensors", "model_ema.dp")  # fmt: skip


def read_options(path: Path) -> Options:
    """The training that an input file describes: DeePMD-kit's JSON or our TOML.

    Raises:
        TrainingError: it is neither, or an option is wrong.
    """
    if not path.is_file():
        raise TrainingError(f"{path}: no such file")
    if path.suffix == ".json":
        return read_json(path)
    if path.suffix == ".toml":
        return read_toml(path)
    raise TrainingError(f"{path}: is neither .json (DeePMD-kit's input) nor .toml (ours)")


def clear(folder: Path) -> None:
    """Deletes what an earlier training left in its folder, and nothing else."""
    shutil.rmtree(folder / CHECKPOINTS, ignore_errors=True)
    for name in OURS:
        (folder / name).unlink(missing_ok=True)


def train_command(
    input: Path, output: Path, device: str, backend: str, threads: int | None, overwrite: bool, checked: bool = True
) -> int:
    """Trains, or goes on where a killed training was. Returns the exit code."""
    options = read_options(input)
    with started(output, device, threads, overwrite) as here:
        prepared = prepare(options, checked)
        train(Loop(prepared, output, here, backend))
    return 0


@contextmanager
def started(output: Path, device: str, threads: int | None, overwrite: bool) -> Iterator[World]:
    """The processes of a training, and its folder as the first of them leaves it."""
    deterministic(threads)
    with world(devices.resolve(device)) as here:
        if here.first:
            output.mkdir(parents=True, exist_ok=True)
            if overwrite:
                clear(output)
        here.wait()
        yield here


def train(loop: Loop) -> None:
    """Trains to the end; the first process shows how far it is."""
    if not loop.world.first:
        loop.run()
        return
    print(told(loop), file=sys.stderr)
    with Watch(loop.used) as watch:
        loop.run(watch)
    print("wrote " + ", ".join(map(str, written(loop))))


def written(loop: Loop) -> list[Path]:
    """The files of this training, without best models that another one has left in the folder."""
    others = {file for name, file in BEST.items() if name not in loop.best}
    return [path for name in OURS if name not in others and (path := loop.folder / name).exists()]


def deterministic(threads: int | None) -> None:
    """The same steps give the same bits, on as many threads."""
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    torch.use_deterministic_algorithms(True)
    torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]
    if threads is not None:
        torch.set_num_threads(threads)


def told(loop: Loop) -> str:
    """What is trained on what, in a line or two."""
    p, c = loop.prepared, loop.prepared.options.model
    parameters = sum(x.numel() for x in loop.model.parameters())
    parts = [
        f"{len(p.train):,} structures ({int(p.train.atoms.sum()):,} atoms) of {len(p.train.systems)} systems",
        "no validation data" if p.valid is None else f"{len(p.valid):,} for validation",
        f"{c.ntypes} types, sel {c.nsel}",
        f"{parameters:,} parameters in {str(loop.model.dtype).removeprefix('torch.')}",
    ]
    again = f"; goes on at step {loop.step:,} of {loop.options.steps:,}" if loop.step else ""
    return ", ".join(parts) + again
