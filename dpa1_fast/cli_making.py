"""Commands that make models: train, finetune, change-bias; and test."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from .cli_base import HeadOption, app, fail, one_line_errors, words


@app.command()
def train(
    input: Annotated[Path, typer.Argument(help="DeePMD-kit's input.json, or a .toml of ours")],
    output: Annotated[
        Path, typer.Option("--output", "-o", help="folder for the model; the same command goes on where one stopped")
    ],
    device: Annotated[str, typer.Option("--device", "-d", help="auto, cpu, cuda …")] = "auto",
    backend: Annotated[
        str, typer.Option("--backend", "-b", help="auto, compiled (CPU) or reference (formulas differentiated twice)")
    ] = "auto",
    threads: Annotated[int | None, typer.Option("--threads", "-t", help="by default one a core", min=1)] = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="throw away an earlier training first")] = False,
    check: Annotated[bool, typer.Option(help="refuse data with labels that cannot be right")] = True,
) -> None:
    """Train a model: weights for dpa1-fast and DeePMD-kit, learning curve, checkpoints.

    Killed at any moment, the same command goes on from its newest checkpoint, to the same weights, bit for bit.
    Several processes or devices: torchrun --nproc-per-node N -m dpa1_fast train …

    Exit code: 0 done, 2 nothing could be done.
    """
    with one_line_errors():
        from .train.command import train_command

        try:
            code = train_command(input, output, device, backend, threads, overwrite, check)
        except OSError as error:
            raise fail(f"{error.filename or output}: {error.strerror or error}") from None
    raise typer.Exit(code)


@app.command()
def finetune(
    model: Annotated[str, typer.Argument(help="any model file that info can read, or a bundled model's name")],
    data: Annotated[list[str] | None, typer.Argument(metavar="DATA...", help="labelled structures")] = None,
    output: Annotated[
        Path, typer.Option("--output", "-o", help="folder for the model; the same command goes on where one stopped")
    ] = Path("finetuned"),
    valid: Annotated[list[str] | None, typer.Option(help="validation data; may be repeated")] = None,
    settings: Annotated[
        Path | None, typer.Option(help="a .toml as for train, without \\[model]; DATA and --valid replace its data")
    ] = None,
    head: HeadOption = None,
    steps: Annotated[int | None, typer.Option(help="by default 20 for each structure, from 300 to 3000", min=1)] = None,
    lr: Annotated[
        float | None,
        typer.Option(help="the first learning rate, by default 1e-4 times the root of the structures, at most 1e-3"),
    ] = None,
    batch_atoms: Annotated[int | None, typer.Option(help="atoms of a batch, 256 by default", min=1)] = None,
    seed: Annotated[int | None, typer.Option(help="of the order of data and of adapters")] = None,
    freeze: Annotated[
        str, typer.Option(metavar="A,B", help="keep: descriptor, embedding, attention, fitting.layers.0 …")
    ] = "",
    lr_factor: Annotated[str, typer.Option(metavar="A=0.1,B=2", help="on the learning rate of such parameters")] = "",
    lora: Annotated[int | None, typer.Option(help="rank of adapters, trained in place of matrices", min=1)] = None,
    new_elements: Annotated[
        str, typer.Option(help="what new elements begin as: neighbors (in the periodic table) or electrons")
    ] = "neighbors",
    shift_bias: Annotated[bool, typer.Option(help="fit energy biases to the data first")] = True,
    device: Annotated[str, typer.Option("--device", "-d", help="auto, cpu, cuda …")] = "auto",
    backend: Annotated[str, typer.Option("--backend", "-b", help="auto, compiled (CPU) or reference")] = "auto",
    threads: Annotated[int | None, typer.Option("--threads", "-t", help="by default one a core", min=1)] = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="throw away an earlier training first")] = False,
    check: Annotated[bool, typer.Option(help="refuse data with labels that cannot be right")] = True,
) -> None:
    """Fine-tune a model on data of few samples; elements that it does not know are added.

    Exit code: 0 done, 2 nothing could be done.
    """
    with one_line_errors():
        from .train.finetune import FinetuneOptions
        from .train.finetune_command import finetune_command

        try:
            given = [x.split("=") for x in words(lr_factor)]
            factors = tuple((name, float(value)) for name, value in given)
        except ValueError:
            raise fail(f"--lr-factor {lr_factor}: give NAME=FACTOR, several with commas") from None
        tuning = FinetuneOptions(words(freeze), factors, lora, new_elements, shift_bias)
        changes = {"steps": steps, "start_lr": lr, "batch_atoms": batch_atoms, "seed": seed}
        try:
            code = finetune_command(
                model, head, tuple(data or ()), tuple(valid or ()), settings, changes, tuning, output, device, backend,
                threads, overwrite, check,
            )  # fmt: skip
        except OSError as error:
            raise fail(f"{error.filename or output}: {error.strerror or error}") from None
    raise typer.Exit(code)


@app.command(name="change-bias")
def change_bias(
    model: Annotated[str, typer.Argument(help="any model file that info can read, or a bundled model's name")],
    data: Annotated[list[str] | None, typer.Argument(metavar="DATA...", help="structures with energies")] = None,
    output: Annotated[
        Path, typer.Option("--output", "-o", help="the model to write: .dp, .yaml or .safetensors")
    ] = Path("model.dp"),
    head: HeadOption = None,
    mode: Annotated[
        str, typer.Option(help="shift: by what the model's energies lack; set: to what energies say alone")
    ] = "shift",
    values: Annotated[str, typer.Option(metavar="O=-4.2,H=-1", help="set biases to these, eV")] = "",
    backend: Annotated[str, typer.Option("--backend", "-b", help="auto, compiled (CPU) or reference")] = "auto",
) -> None:
    """Fit a model's energy biases to data by least squares, as DeePMD-kit's change-bias does.

    Exit code: 0 done, 2 nothing could be done.
    """
    with one_line_errors():
        from .train.finetune_command import change_bias_command

        if mode not in ("shift", "set"):
            raise fail(f"--mode {mode} is not known; known are shift and set")
        code = change_bias_command(model, head, tuple(data or ()), output, mode, values, backend)
    raise typer.Exit(code)


@app.command(name="test")
def errors(
    model: Annotated[str, typer.Argument(help="a model file, or the name of a bundled model")],
    data: Annotated[list[str], typer.Argument(metavar="DATA...", help="labelled structures, as screen and train take")],
    output: Annotated[
        Path | None,
        typer.Option("--output", "-o", help="folder for errors.json, parity.png, dp test's details"),
    ] = None,
    head: HeadOption = None,
    device: Annotated[str, typer.Option("--device", "-d", help="auto, cpu, cuda …")] = "auto",
    backend: Annotated[str, typer.Option("--backend", "-b", help="auto, cpu, triton or reference")] = "auto",
    precision: Annotated[str, typer.Option("--precision", "-p", help="float64, float32 or bfloat16")] = "float64",
    as_json: Annotated[bool, typer.Option("--json", help="print JSON, in dp test's names")] = False,
) -> None:
    """Errors of a model against labels: RMSE and MAE for all, each system, each element and each kind.

    Exit code: 0 done, 2 nothing could be done.
    """
    with one_line_errors():
        from .loading import load
        from .testing.command import errors_command

        engine = load(model, head=head, device=device, backend=backend, precision=precision)
        try:
            code = errors_command(engine, model, data, output, as_json)
        except OSError as error:
            raise fail(f"{error.filename or output}: {error.strerror or error}") from None
    raise typer.Exit(code)


@app.command()
def distil(
    teacher: Annotated[str, typer.Argument(help="any model file that info can read, or a bundled model's name")],
    data: Annotated[list[str], typer.Argument(metavar="DATA...", help="structures, as screen takes them; no labels")],
    output: Annotated[
        Path, typer.Option("--output", "-o", help="folder for the student; the same command goes on where one stopped")
    ],
    copies: Annotated[int, typer.Option(help="perturbed ones of each structure besides", min=0)] = 0,
    rattle: Annotated[float, typer.Option(help="Å, standard deviation by which their atoms are moved")] = 0.0,
    strain: Annotated[float, typer.Option(help="largest entry of their random strains, such as 0.03")] = 0.0,
    held: Annotated[float, typer.Option(help="share of the structures that the student is tested on")] = 0.1,
    settings: Annotated[
        Path | None, typer.Option(help="a .toml as for train, without data; \\[model] for another student")
    ] = None,
    steps: Annotated[int | None, typer.Option(help="6000 unless the settings say more", min=1)] = None,
    seed: Annotated[int, typer.Option(help="of copies, of what is held out, and of the training")] = 1,
    head: HeadOption = None,
    type_map: Annotated[str, typer.Option(metavar="O,H", help="as for screen")] = "",
    format: Annotated[str | None, typer.Option(help="of all input files, by ASE's name of it")] = None,
    device: Annotated[str, typer.Option("--device", "-d", help="auto, cpu, cuda …")] = "auto",
    backend: Annotated[str, typer.Option("--backend", "-b", help="auto, compiled (CPU) or reference")] = "auto",
    precision: Annotated[str, typer.Option("--precision", "-p", help="in which the student is tested")] = "float32",
    threads: Annotated[int | None, typer.Option("--threads", "-t", help="by default one a core", min=1)] = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="throw away an earlier training first")] = False,
) -> None:
    """Make a fast student without attention of a teacher, by structures that the teacher labels.

    Says what the student is worth: its errors against the teacher on structures held out, and the speed gained.

    Exit code: 0 done, 2 nothing could be done.
    """
    with one_line_errors():
        from .distil.command import distil_command
        from .distil.label import LabelOptions

        options = LabelOptions(held, copies, rattle, strain, seed)
        try:
            code = distil_command(
                teacher, head, data, output, options, settings, steps, device, backend, precision, threads, overwrite,
                words(type_map), format,
            )  # fmt: skip
        except OSError as error:
            raise fail(f"{error.filename or output}: {error.strerror or error}") from None
    raise typer.Exit(code)
