"""Commands that move atoms: md and relax."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from .cli_base import Dispersion, HeadOption, KeepSymmetry, app, fail, one_line_errors, words

Inputs = Annotated[list[str], typer.Argument(metavar="INPUT...", help="structures, all that screen takes")]
Output = Annotated[
    Path, typer.Option("--output", "-o", help="folder for the results; the same command goes on where one stopped")
]
Model = Annotated[str, typer.Option("--model", "-m", help="a model file, or the name of a bundled model")]
Device = Annotated[str, typer.Option("--device", "-d", help="auto, cpu, cuda …")]
Backend = Annotated[str, typer.Option("--backend", "-b", help="auto, cpu (compiled), triton or reference")]
Precision = Annotated[str, typer.Option("--precision", "-p", help="float64, float32, bfloat16, on a GPU tf32, float16")]
Threads = Annotated[int | None, typer.Option("--threads", "-t", help="by default one a core", min=1)]
TypeMap = Annotated[str, typer.Option(metavar="O,H", help="the model's names of the input's types 1, 2, …; or pairs")]
Format = Annotated[str | None, typer.Option(help="of all input files, by ASE's name of it")]
Overwrite = Annotated[bool, typer.Option("--overwrite", help="throw away an earlier run's results first")]


@app.command()
def md(
    inputs: Inputs,
    output: Output,
    model: Model,
    steps: Annotated[int, typer.Option("--steps", "-n", help="in all; more than before goes on with a complete run")],
    ensemble: Annotated[
        str, typer.Option("--ensemble", "-e", help="nve; NVT: langevin, bussi, nose-hoover; npt")
    ] = "nve",
    temperature: Annotated[
        float | None, typer.Option("--temperature", "-T", help="K; also of velocities, where structures have none")
    ] = None,
    timestep: Annotated[float, typer.Option(help="fs")] = 1.0,
    friction: Annotated[float | None, typer.Option(help="of langevin, 1/ps", show_default="1")] = None,
    tau: Annotated[
        float | None, typer.Option(help="time constant of the other thermostats, fs", show_default="100")
    ] = None,
    npt: Annotated[
        str | None,
        typer.Option(
            metavar="iso|semi|aniso|tri|abc",
            help="cells of npt: keep their shape; c and the plane across it by themselves; each length by itself; any "
            "shape; or only these lengths, such as c or ab",
            show_default="iso",
        ),
    ] = None,
    pressure: Annotated[float | None, typer.Option(help="of npt, GPa", show_default="0")] = None,
    tau_pressure: Annotated[
        float | None, typer.Option(help="time constant of the barostat, fs", show_default="1000")
    ] = None,
    seed: Annotated[int, typer.Option(help="of velocities and noise")] = 0,
    save: Annotated[int, typer.Option(help="steps between frames")] = 100,
    log: Annotated[int, typer.Option(help="steps between rows of log.csv")] = 100,
    write: Annotated[str, typer.Option("--write", "-w", help="trajectory as extxyz or hdf5")] = "extxyz",
    checkpoint: Annotated[float, typer.Option(metavar="SECONDS", help="between restart files", min=0)] = 30.0,
    head: HeadOption = None,
    device: Device = "auto",
    backend: Backend = "auto",
    precision: Precision = "float64",
    threads: Threads = None,
    dispersion: Dispersion = None,
    type_map: TypeMap = "",
    format: Format = None,
    overwrite: Overwrite = False,
) -> None:
    """Molecular dynamics of all structures of INPUT at once, each by itself: trajectories, log.csv, restart file.

    Killed at any moment, the same command goes on, to the same bits as a run that nobody disturbed.

    Exit code: 0 done, 1 a system blew up (said with step and atom), 2 nothing could be done.
    """
    with one_line_errors():
        from .dynamics.md_command import md_command
        from .dynamics.md_options import MdOptions

        options = MdOptions(
            inputs=tuple(inputs), output=output, model=model, steps=steps, head=head, device=device, backend=backend,
            precision=precision, threads=threads, dispersion=dispersion, type_map=words(type_map), format=format,
            ensemble=ensemble, temperature=temperature, npt=npt, pressure=pressure, timestep=timestep,
            friction=friction, tau=tau, tau_pressure=tau_pressure, seed=seed, save=save, log=log, write=write,
            checkpoint=checkpoint, overwrite=overwrite,
        )  # fmt: skip
        try:
            code = md_command(options)
        except OSError as error:
            raise fail(f"{error.filename or output}: {error.strerror or error}") from None
    raise typer.Exit(code)


@app.command()
def ipi() -> None:
    """Print the file of i-PI's potential, for <pes_path> of ffdirect and -P of i-pi-py_driver."""
    print(Path(__file__).parent / "drivers" / "dpa1_fast_ipi.py")


@app.command()
def relax(
    inputs: Inputs,
    output: Output,
    model: Model,
    cell: Annotated[bool, typer.Option("--cell", help="cells too, of structures periodic along all axes")] = False,
    fmax: Annotated[float, typer.Option(help="relaxed where no force is larger, eV/Å")] = 0.05,
    steps: Annotated[int, typer.Option("--steps", "-n", help="at most", min=1)] = 500,
    keep_symmetry: KeepSymmetry = False,
    write: Annotated[str, typer.Option("--write", "-w", help="extxyz, hdf5, db, or several")] = "extxyz",
    report: Annotated[bool, typer.Option(help="write report.html (pictures need the extra 'plot')")] = True,
    head: HeadOption = None,
    device: Device = "auto",
    backend: Backend = "auto",
    precision: Precision = "float64",
    threads: Threads = None,
    dispersion: Dispersion = None,
    type_map: TypeMap = "",
    format: Format = None,
    overwrite: Overwrite = False,
) -> None:
    """Relax all structures of INPUT, many at a time (FIRE): results.extxyz, and a row each in summary.parquet.

    It is screen --relax with relaxed structures written; killed at any moment, the same command goes on.

    Exit code: 0 all done, 1 some structures failed or the job had to stop, 2 nothing could be done.
    """
    with one_line_errors():
        from .screening.command import screen_command
        from .screening.options import Options

        options = Options(
            inputs=tuple(inputs), models=(model,), output=output, type_map=words(type_map), format=format, head=head,
            device=device, backend=backend, precision=precision, threads=threads, write=words(write),
            relax="cell" if cell else "positions", fmax=fmax, steps=steps, keep_symmetry=keep_symmetry,
            dispersion=dispersion, report=report, overwrite=overwrite,
        )  # fmt: skip
        try:
            code = screen_command(options)
        except OSError as error:
            raise fail(f"{error.filename or output}: {error.strerror or error}") from None
    raise typer.Exit(code)
