"""``dpa1-fast`` and its commands. Exit code 2 with one line on stderr where nothing could be done."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Annotated

import typer

from . import __version__
from .cli_base import Dispersion, HeadOption, KeepSymmetry, ManyModels, app, chosen_models, fail, one_line_errors, words

__all__ = ["app"]

PRECISIONS = ("float64", "float32", "bfloat16")
"""That a prepared model file can have."""


def _version(value: bool) -> None:
    if value:
        print(__version__)
        raise typer.Exit


@app.callback()
def main(
    version: Annotated[bool, typer.Option("--version", callback=_version, is_eager=True, help="and exit")] = False,
) -> None:
    """Run DPA-1 models."""


@app.command()
def info(
    model: Annotated[str | None, typer.Argument(help="a model file, or the name of a bundled model")] = None,
    head: HeadOption = None,
    as_json: Annotated[bool, typer.Option("--json", help="print JSON")] = False,
    list_bundled: Annotated[bool, typer.Option("--list", help="list the bundled models")] = False,
) -> None:
    """What a model is: format, options, elements, size, and traits to know."""
    with one_line_errors():
        from rich.console import Console
        from rich.table import Table

        from .checkpoint import bundled, read_model
        from .describe import describe, option_rows

        if list_bundled:
            print("\n".join(bundled()))
            return
        if model is None:
            raise fail("give a model file or the name of a bundled model (dpa1-fast info --list)")
        loaded = read_model(model, head)
        told = describe(loaded)
        if as_json:
            print(json.dumps(told, indent=2, ensure_ascii=False))
            return
        console = Console(highlight=False)
        table = Table(show_header=False, box=None, padding=(0, 2, 0, 0))
        table.add_column(style="bold")
        table.add_column(overflow="fold")
        table.add_row("file", told["file"])
        table.add_row("kind", f"{told['kind']}, {told['bytes'] / 1e3:,.0f} kB, {told['parameters']:,} parameters")
        if told["description"]:
            table.add_row("about", told["description"])
        table.add_row("elements", f"{' '.join(told['type_map'])} ({len(told['type_map'])})")
        for name, value in option_rows(loaded.model.config):
            table.add_row(name, value)
        for trait in told["traits"]:
            table.add_row("[yellow]note[/]", trait)
        console.print(table)


@app.command()
def convert(
    source: Annotated[Path, typer.Argument(metavar="IN", help="any model file that info can read")],
    target: Annotated[Path, typer.Argument(metavar="OUT", help=".dp or .yaml for DeePMD-kit, or .safetensors")],
    head: HeadOption = None,
) -> None:
    """Write a model in another format: DeePMD-kit's portable .dp or .yaml, or our .safetensors."""
    with one_line_errors():
        from .checkpoint import own, read_model, write_model

        loaded = read_model(str(source), head)
        note = own.description(loaded.path) if loaded.kind == own.KIND else ""
        try:
            write_model(loaded.model, target, note)
        except OSError as error:
            raise fail(f"{target}: cannot be written ({error.strerror or error})") from None
        print(f"{target}: written from {loaded.path} ({loaded.kind})")


@app.command(name="compile")
def compile_(
    source: Annotated[str, typer.Argument(metavar="MODEL", help="a model file, or the name of a bundled model")],
    target: Annotated[Path, typer.Argument(metavar="OUT", help="the prepared model file; any name")],
    head: HeadOption = None,
    elements: Annotated[
        str | None, typer.Option(metavar="O,H", help="those that will be simulated, or all; by default all of up to 8")
    ] = None,
    precision: Annotated[str, typer.Option("--precision", "-p", help="those to prepare for")] = ",".join(PRECISIONS),
) -> None:
    """Prepare a model for LAMMPS and for programs without Python (dpa1_fast.h)."""
    with one_line_errors():
        from .checkpoint import read_model
        from .prepared import write_prepared

        loaded = read_model(source, head)
        chosen = None if elements is None else words(elements)
        done = write_prepared(loaded.model, target, chosen, words(precision))
        print(f"{target}: {done.size / 1e6:.1f} MB for {' '.join(done.elements)}, {', '.join(done.precisions)}")
        if done.note:
            print(f"note: {done.note}", file=sys.stderr)


@app.command()
def cmake_dir() -> None:
    """Print the folder of dpa1_fast.h and of its CMake file."""
    from .prepared import NATIVE

    print(NATIVE)


lammps_app = typer.Typer(name="lammps", help="pair_style dpa1_fast for LAMMPS.", no_args_is_help=True)
app.add_typer(lammps_app)


@lammps_app.callback()
def lammps() -> None:
    """pair_style dpa1_fast for LAMMPS."""


@lammps_app.command()
def build(
    output: Annotated[
        Path | None, typer.Option("--output", "-o", help="a folder; by default where this environment's lmp looks")
    ] = None,
    headers: Annotated[
        Path | None, typer.Option(help="LAMMPS's src folder, or its headers; by default of this environment's lammps")
    ] = None,
    version: Annotated[
        str | None, typer.Option(help="LAMMPS's, such as '22 Jul 2025', where no header says it")
    ] = None,
    mpi: Annotated[Path | None, typer.Option(help="the folder of mpi.h")] = None,
    compiler: Annotated[str | None, typer.Option(help="by default c++; mpicxx knows mpi.h")] = None,
    flags: Annotated[str, typer.Option(help="more flags, such as -DLAMMPS_BIGBIG where LAMMPS has it")] = "",
) -> None:
    """Compile the pair style as a plugin, with the engine beside it."""
    with one_line_errors():
        from .drivers.lammps import build, plugin_folder

        made = build(output, headers, version, mpi, compiler, flags.split())
        print(f"{made}: built")
        if str(made.parent) != plugin_folder():
            print(f"lmp finds it with LAMMPS_PLUGIN_PATH={made.parent}, or by `plugin load {made}` in its input")


@app.command()
def tune(
    model: Annotated[str, typer.Option(help="a model file, or the name of a bundled model")] = "almgcu-demo",
    head: HeadOption = None,
    precision: Annotated[
        list[str] | None,
        typer.Option(help="float32 (the default), float64, tf32, bfloat16 or float16; may be repeated"),
    ] = None,
    device: Annotated[str, typer.Option(help="which card: auto, cuda, cuda:1 …")] = "auto",
) -> None:
    """Time how the Triton kernels can be launched on this GPU and keep the fastest for models of this one's widths.

    Exit code: 0 done, 1 something could not be tuned, 2 nothing could be done (there is no GPU, say).
    """
    with one_line_errors():
        from .tune_command import tune_command

        try:
            code = tune_command(model, head, precision or ["float32"], device)
        except OSError as error:
            raise fail(f"{error.filename}: cannot be written ({error.strerror or error})") from None
    raise typer.Exit(code)


@app.command()
def calibrate(
    model: Annotated[str, typer.Argument(help="a model file")],
    train: Annotated[list[str], typer.Option("--train", help="what it was trained on; may be given several times")],
    valid: Annotated[list[str], typer.Option("--valid", help="labelled data that it was not trained on")],
    output: Annotated[Path, typer.Option("--output", "-o", help="the same model with its uncertainty, .safetensors")],
    head: HeadOption = None,
) -> None:
    """Find out how far a model is to be trusted: energy_std, force_std and flags for screen, ASE and Engine.evaluate.

    Data are whatever dpa1-fast train reads. The uncertainty is kept in the model's file.
    """
    with one_line_errors():
        from .train.calibrate import calibrate_command

        raise typer.Exit(calibrate_command(model, train, valid, output, head))


@app.command()
def warm(
    model: Annotated[str, typer.Argument(help="a model file, or the name of a bundled model")],
    head: HeadOption = None,
    precision: Annotated[
        list[str] | None,
        typer.Option(help="float32 (the default), float64, tf32, bfloat16 or float16; may be repeated"),
    ] = None,
    device: Annotated[str, typer.Option(help="for which card of this machine: auto, cuda, cuda:1 …")] = "auto",
    architecture: Annotated[
        str | None, typer.Option(help="for cards that need not be here: sm_80 (A100), sm_90 (H100), sm_100 (B200) …")
    ] = None,
    workers: Annotated[int | None, typer.Option(help="processes that compile; by default one a core", min=1)] = None,
) -> None:
    """Compile a model's GPU kernels before they are needed, into Triton's cache folder.

    An engine does this by itself when it is made, for what is missing. Where GPU nodes share a home folder with one
    that has none, this one can do it for them.
    """
    with one_line_errors():
        from .warm_command import warm_command

        raise typer.Exit(warm_command(model, head, precision or ["float32"], device, architecture, workers))


@app.command(cls=ManyModels)
def screen(
    inputs: Annotated[
        list[str],
        typer.Argument(
            metavar="INPUT...", help="files ASE reads, DeePMD-kit folders, JSON lines, patterns, - for stdin"
        ),
    ],
    output: Annotated[
        Path, typer.Option("--output", "-o", help="folder for the results; the same command goes on where one stopped")
    ],
    model: Annotated[
        str | None, typer.Option("--model", "-m", help="a model file, or the name of a bundled model")
    ] = None,
    models: Annotated[
        list[str] | None, typer.Option(metavar="A B …", help="several models, for model deviation")
    ] = None,
    head: HeadOption = None,
    device: Annotated[str, typer.Option("--device", "-d", help="auto, cpu, cuda …")] = "auto",
    backend: Annotated[
        str, typer.Option("--backend", "-b", help="auto, cpu (compiled), triton or reference (autograd)")
    ] = "auto",
    precision: Annotated[
        str,
        typer.Option(
            "--precision",
            "-p",
            help="float32, float64, bfloat16, on a GPU tf32, float16: the arithmetic of the networks, not of the sums",
        ),
    ] = "float32",
    threads: Annotated[
        int | None, typer.Option("--threads", "-t", help="threads of the CPU engine; by default one a core", min=1)
    ] = None,
    dispersion: Dispersion = None,
    type_map: Annotated[
        str, typer.Option(metavar="O,H", help="the model's names of the input's types 1, 2, …; or pairs: OW=O,HW=H")
    ] = "",
    format: Annotated[str | None, typer.Option(help="of all input files, by ASE's name of it")] = None,
    fields: Annotated[
        str,
        typer.Option(
            "--fields",
            "-f",
            help="columns besides energy and stress: forces, descriptor, uncertainty (of a calibrated model)",
        ),
    ] = "energy,stress",
    write: Annotated[
        str, typer.Option("--write", "-w", help="also structures with forces: extxyz, hdf5, db, or several")
    ] = "",
    keep: Annotated[
        str,
        typer.Option("--keep", "-k", help="keys of the structures to keep as columns, besides ids"),
    ] = "",
    min_distance: Annotated[
        float, typer.Option(help="structures with atoms closer to each other than this fail, Å")
    ] = 0.0,
    relax: Annotated[bool, typer.Option("--relax", help="relax atoms first (FIRE)")] = False,
    relax_cell: Annotated[bool, typer.Option("--relax-cell", help="relax atoms and cells first")] = False,
    fmax: Annotated[float, typer.Option(help="relaxed where no force is larger, eV/Å")] = 0.05,
    steps: Annotated[int, typer.Option(help="of a relaxation at most")] = 500,
    keep_symmetry: KeepSymmetry = False,
    top: Annotated[int, typer.Option(help="how many of the best to show", min=0)] = 10,
    by: Annotated[str, typer.Option(help="the column by which they are best (smallest)")] = "energy_per_atom",
    references: Annotated[
        Path | None, typer.Option(help="JSON of reference entries, for the energy above hull (extra 'hull')")
    ] = None,
    ray: Annotated[
        str | None, typer.Option(help="address of a Ray cluster, or 'local' to start one here (extra 'ray')")
    ] = None,
    workers: Annotated[int | None, typer.Option(help="engines on the Ray cluster", min=1)] = None,
    report: Annotated[bool, typer.Option(help="write report.html (pictures need the extra 'plot')")] = True,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="throw away an earlier job's results first")] = False,
) -> None:
    """Screen structures: energies, forces and stresses of everything in INPUT, and a ranked table.

    Killed at any moment, the same command goes on where it was; nothing is lost and nothing done twice.

    Exit code: 0 all done, 1 some structures failed or the job had to stop, 2 nothing could be done.
    """
    with one_line_errors():
        from .screening.command import screen_command
        from .screening.options import Options

        chosen = chosen_models(model, models)
        options = Options(
            inputs=tuple(inputs),
            models=tuple(chosen),
            output=output,
            type_map=words(type_map),
            format=format,
            head=head,
            device=device,
            backend=backend,
            precision=precision,
            threads=threads,
            dispersion=dispersion,
            fields=words(fields),
            write=words(write),
            keep=words(keep),
            min_distance=min_distance,
            relax="cell" if relax_cell else "positions" if relax else None,
            fmax=fmax,
            steps=steps,
            keep_symmetry=keep_symmetry,
            top=top,
            by=by,
            references=references,
            ray=ray,
            workers=workers,
            report=report,
            overwrite=overwrite,
        )
        try:
            code = screen_command(options)
        except OSError as error:
            raise fail(f"{error.filename or output}: {error.strerror or error}") from None
    raise typer.Exit(code)


from . import cli_bench, cli_dynamics, cli_making, cli_properties, cli_sampling  # noqa: E402, F401 (they come after)

if __name__ == "__main__":
    app()
