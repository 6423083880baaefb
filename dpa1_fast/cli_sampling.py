"""Commands about pools of structures: embed and select."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from .cli_base import HeadOption, ManyModels, app, chosen_models, fail, one_line_errors, words

DeviceOption = Annotated[str, typer.Option("--device", "-d", help="auto, cpu, cuda …")]
BackendOption = Annotated[str, typer.Option("--backend", "-b", help="auto, cpu, triton or reference")]
ThreadsOption = Annotated[int | None, typer.Option("--threads", "-t", help="by default one a core", min=1)]
TypeMapOption = Annotated[
    str, typer.Option(metavar="O,H", help="the model's names of the input's types 1, 2, …; or pairs: OW=O,HW=H")
]
FormatOption = Annotated[str | None, typer.Option(help="of all input files, by ASE's name of it")]


@app.command()
def embed(
    model: Annotated[str, typer.Argument(help="a model file, or the name of a bundled model")],
    data: Annotated[list[str], typer.Argument(metavar="DATA...", help="structures, as screen takes them")],
    output: Annotated[
        Path, typer.Option("--output", "-o", help="a folder for one .npy a system, or a file .h5 for all")
    ] = Path("desc"),
    types: Annotated[bool, typer.Option("--types", help="type embeddings too")] = False,
    mean: Annotated[bool, typer.Option("--mean", help="one row a structure: the mean of its atoms'")] = False,
    dtype: Annotated[str, typer.Option(help="of the numbers written: float64 or float32")] = "float64",
    head: HeadOption = None,
    type_map: TypeMapOption = "",
    format: FormatOption = None,
    threads: ThreadsOption = None,
) -> None:
    """Write what a model sees of each atom: descriptors, as dp eval-desc writes them, and type embeddings.

    Exit code: 0 all done, 1 some structures failed (failures.csv, FILE.failures.csv), 2 nothing could be done.
    """
    with one_line_errors():
        import torch

        from .loading import load
        from .sampling.embed_command import embed_command

        engine = load(model, head=head, device="cpu", threads=threads)
        if threads is not None:
            torch.set_num_threads(threads)
        try:
            code = embed_command(engine, data, output, words(type_map), format, dtype, mean, types)
        except OSError as error:
            raise fail(f"{error.filename or output}: {error.strerror or error}") from None
    raise typer.Exit(code)


@app.command(cls=ManyModels)
def select(
    pool: Annotated[list[str], typer.Argument(metavar="POOL...", help="structures, as screen takes them")],
    output: Annotated[Path, typer.Option("--output", "-o", help="folder for the chosen structures and a table")],
    n: Annotated[int, typer.Option("--n", "-n", help="how many to choose")] = 200,
    model: Annotated[
        str | None, typer.Option("--model", "-m", help="a calibrated model, or the name of a bundled one")
    ] = None,
    models: Annotated[
        list[str] | None, typer.Option(metavar="A B …", help="several: their deviation in place of uncertainty")
    ] = None,
    lower: Annotated[
        float | None, typer.Option(help="DP-GEN's trust bound: below this force deviation (eV/Å) nothing is chosen")
    ] = None,
    upper: Annotated[float | None, typer.Option(help="and from this on nothing either: it is taken for broken")] = None,
    known: Annotated[
        list[str] | None, typer.Option(help="structures that have labels; chosen ones are unlike them too; repeatable")
    ] = None,
    head: HeadOption = None,
    device: DeviceOption = "auto",
    backend: BackendOption = "auto",
    precision: Annotated[str, typer.Option("--precision", "-p", help="float32, float64 …")] = "float32",
    threads: ThreadsOption = None,
    type_map: TypeMapOption = "",
    format: FormatOption = None,
) -> None:
    """Choose the structures worth labelling: the least certain ones, and of these such as are not alike.

    Exit code: 0 done, 1 some structures could not be evaluated (failures.csv), 2 none could.
    """
    with one_line_errors():
        import torch

        from .loading import load
        from .sampling.select_command import select_command
        from .sampling.trust import Bounds

        names = chosen_models(model, models)
        bounds = None
        if lower is not None or upper is not None:
            bounds = Bounds(0.0 if lower is None else lower, float("inf") if upper is None else upper)
        engines = [
            load(m, head=head, device=device, backend=backend, precision=precision, threads=threads) for m in names
        ]
        if threads is not None:
            torch.set_num_threads(threads)
        try:
            code = select_command(engines, pool, output, n, bounds, known or [], words(type_map), format)
        except OSError as error:
            raise fail(f"{error.filename or output}: {error.strerror or error}") from None
    raise typer.Exit(code)
