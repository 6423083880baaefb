"""What ``dpa1-fast finetune`` and ``dpa1-fast change-bias`` do and print."""

from __future__ import annotations

import math
import sys
from dataclasses import replace
from pathlib import Path

from ..checkpoint import WRITABLE, own, read_model, write_model
from .bias import set_bias, shift_bias
from .command import OURS, started, train
from .data import Dataset
from .finetune import MOST, FinetuneOptions, begin, default_length, factors, ready
from .input_toml import read_settings
from .loop import Loop
from .options import TrainingError


def finetune_command(
    model: str,
    head: str | None,
    data: tuple[str, ...],
    valid: tuple[str, ...],
    settings: Path | None,
    changes: dict[str, int | float | None],
    tuning: FinetuneOptions,
    output: Path,
    device: str,
    backend: str,
    threads: int | None,
    overwrite: bool,
    checked: bool,
) -> int:
    """Fine-tunes, or goes on where a killed fine-tuning was. Returns the exit code.

    Args:
        changes: ``steps``, ``start_lr``, ``batch_atoms``, ``seed`` in place of the settings'; None leaves them. Where
            nothing says how many steps and how fast, the number of structures does, see ``finetune.steps_for``.

    Raises:
        TrainingError: no data, or an option that is wrong.
    """
    config = read_model(model, head).model.config
    given = {k: v for k, v in changes.items() if v is not None}
    steps = int(given["steps"]) if "steps" in given else None
    options = read_settings(settings, config, data, valid, default_length, steps)
    if "seed" in given:
        options = replace(options, seed=int(given["seed"]))
    if "start_lr" in given:
        options = replace(options, schedule=replace(options.schedule, start_lr=float(given["start_lr"])))
    if "batch_atoms" in given:
        batch = replace(options.train.batch, size=int(given["batch_atoms"]))
        options = replace(options, train=replace(options.train, batch=batch))
    named = options.train.systems + (options.valid.systems if options.valid else ())
    start = begin(model, head, named, tuning.new_elements)
    if any(start.path.resolve() == (output / name).resolve() for name in OURS):
        raise TrainingError(f"{start.path}: the new model would be written over this one; choose another --output")
    new = start.model.config.type_map[start.known :]
    with started(output, device, threads, overwrite) as here:
        loop = Loop(ready(start, options, tuning, backend, checked), output, here, backend, factors(tuning))
        if here.first and new:
            print(f"new elements: {' '.join(new)}, begun as {tuning.new_elements} say", file=sys.stderr)
        train(loop)
    return 0


def change_bias_command(
    model: str, head: str | None, data: tuple[str, ...], output: Path, mode: str, values: str, backend: str
) -> int:
    """Fits a model's energy biases to data, or sets them, and writes the model. Returns the exit code.

    Args:
        mode: ``shift`` or ``set``. values: biases by name (``O=-4.2,H=-1``) in place of data.

    Raises:
        TrainingError: neither data nor values, or names that the model does not have.
    """
    if output.suffix not in WRITABLE:
        raise TrainingError(f"{output}: cannot be written; use one of {', '.join(WRITABLE)}")
    loaded = read_model(model, head)
    net = loaded.model
    if values:
        if data:
            raise TrainingError("give data or --values, not both")
        for name, value in _values(values).items():
            if name not in net.config.type_map:
                raise TrainingError(f"--values names {name}; the model has {' '.join(net.config.type_map)}")
            t = net.config.type_map.index(name)
            net.fitting.bias_atom_e[t], net.out_bias[t] = 0.0, value
        told = "biases as given"
    else:
        if not data:
            raise TrainingError("give data to fit biases to, or --values")
        found = Dataset(net.config, data)
        chosen = list(range(0, len(found), -(-len(found) // MOST)))
        before, after = set_bias(net, found, chosen) if mode == "set" else shift_bias(net, found, chosen, backend)
        what = "biases alone" if mode == "set" else "the model"
        told = f"{len(chosen):,} structures: RMSE of {what} {1e3 * before:.4g} → {1e3 * after:.4g} meV/atom"
    note = own.description(loaded.path) if loaded.kind == own.KIND else ""
    write_model(net, output, f"{note} Energy biases changed.".strip())
    for name, bias in zip(net.config.type_map, (net.out_bias + net.fitting.bias_atom_e).tolist(), strict=True):
        print(f"{name:>3} {bias:14.6f} eV")
    print(f"{told}; wrote {output}")
    return 0


def _values(text: str) -> dict[str, float]:
    out = {}
    for part in text.split(","):
        name, _, value = part.partition("=")
        try:
            out[name.strip()] = float(value)
            if not math.isfinite(out[name.strip()]):
                raise ValueError
        except ValueError:
            raise TrainingError(f"--values {text!r}: {part!r} is not NAME=ENERGY") from None
    return out
