"""The command that times a model on this machine."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from .cli_base import DEFAULT_MODEL, HeadOption, app, one_line_errors


@app.command()
def bench(
    model: Annotated[str, typer.Argument(help="a model file, or the name of a bundled model")] = DEFAULT_MODEL,
    report: Annotated[Path | None, typer.Option(help="folder for report.html and bench.json")] = None,
    structures: Annotated[
        Path | None, typer.Option(help="time the first structure of this file, repeated, instead of a made crystal")
    ] = None,
    precision: Annotated[str, typer.Option(help="float64, float32, bfloat16; on a GPU also tf32, float16")] = "float32",
    device: Annotated[str, typer.Option(help="auto, cpu, cuda")] = "auto",
    backend: Annotated[str, typer.Option(help="auto, cpu, triton, reference")] = "auto",
    threads: Annotated[int | None, typer.Option(help="of the CPU engine", min=1)] = None,
    head: HeadOption = None,
    most: Annotated[int, typer.Option(help="atoms of the largest system", min=16)] = 4000,
    peer: Annotated[
        str | None, typer.Option(help="a Python that has DeePMD-kit, to time it beside (such as build/peer/bin/python)")
    ] = None,
) -> None:
    """Time a model on this machine: forces judged first, then time, memory, precision, and what the machine allows.

    Exit code: 0, or 1 where forces are not the reference's; then no speed is shown.
    """
    with one_line_errors():
        from .benchmark.command import bench as run

        code = run(model, report, structures, precision, device, backend, threads, head, most, peer)
    raise typer.Exit(code)
