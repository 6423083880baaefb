"""Commands that compute properties of crystals: phonons, elastic, eos."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

import typer

from .cli_base import Dispersion, HeadOption, app, fail, one_line_errors, words
from .cli_dynamics import Backend, Device, Format, Inputs, Model, Output, Precision, Threads, TypeMap

FMAX = 1e-3
Relax = Annotated[
    float | None,
    typer.Option(
        "--fmax", help=f"eV/Å; structures are first relaxed with their cells until then; {FMAX:g} where none is given"
    ),
]
NoRelax = Annotated[bool, typer.Option("--no-relax", help="take structures as they come in")]


def _run(
    make: Callable[[], Any], inputs: list[str], output: Path, model: str, fmax: float | None, options: dict[str, Any],
    type_map: str, format: str | None,
) -> None:  # fmt: skip
    with one_line_errors():
        from .loading import load
        from .properties.job import Job
        from .screening.inputs import sources_outside

        prop = make()
        engine = load(model, **options)
        sources = sources_outside(inputs, output, engine.config.type_map, words(type_map), format)
        reading = {"head": options["head"], "type_map": words(type_map), "format": format}
        job = Job(engine, model, prop, output, fmax, {k: x for k, x in reading.items() if x})
        try:
            count, failed = job.run(
                sources, lambda done, failed: print(f"{done:,} structures, {failed:,} failed", file=sys.stderr)
            )
        except OSError as error:
            raise fail(f"{error.filename or output}: {error.strerror or error}") from None
        print(f"{count:,} structures, {failed:,} failed; wrote {output / (prop.name + '.csv')}, {output / 'results'}")
    raise typer.Exit(0 if count and not failed else 1 if count > failed else 2)


def _until(fmax: float | None, no_relax: bool) -> float | None:
    """How far to relax, eV/Å; None: not at all."""
    if no_relax and fmax is not None:
        raise fail("--fmax says how far to relax, and --no-relax not to; give one of them")
    return None if no_relax else FMAX if fmax is None else fmax


@app.command()
def phonons(
    inputs: Inputs,
    output: Output,
    model: Model,
    displacement: Annotated[float, typer.Option(help="Å")] = 0.01,
    length: Annotated[float, typer.Option(help="Å; supercells are at least so long along each vector")] = 12.0,
    supercell: Annotated[
        str, typer.Option(metavar="3,3,3", help="repeats, or phonopy's matrix by rows, in place of a length")
    ] = "",
    mesh: Annotated[float, typer.Option(help="of wave vectors, as phonopy's: a length in Å")] = 60.0,
    temperature: Annotated[float, typer.Option(help="K, of free energy and heat capacity")] = 300.0,
    fmax: Relax = None,
    no_relax: NoRelax = False,
    head: HeadOption = None,
    device: Device = "auto",
    backend: Backend = "auto",
    precision: Precision = "float64",
    threads: Threads = None,
    dispersion: Dispersion = None,
    type_map: TypeMap = "",
    format: Format = None,
) -> None:
    """Phonons of crystals: force constants by displacements, the rest by phonopy (extra 'phonons').

    Killed at any moment, the same command does the structures that are left.

    Exit code: 0 all done, 1 some structures failed, 2 nothing could be done.
    """

    def make() -> Any:
        from .properties.phonons import Phonons

        try:
            repeats = tuple(int(x) for x in words(supercell))
        except ValueError:
            raise fail(f"--supercell {supercell}: give integers with commas") from None
        return Phonons(displacement, length, repeats or None, mesh, temperature)

    options = {"head": head, "device": device, "backend": backend, "precision": precision, "threads": threads}
    options["dispersion"] = dispersion
    _run(make, inputs, output, model, _until(fmax, no_relax), options, type_map, format)


@app.command()
def elastic(
    inputs: Inputs,
    output: Output,
    model: Model,
    strain: Annotated[float, typer.Option(help="the largest of each kind")] = 0.005,
    fmax: Relax = None,
    no_relax: NoRelax = False,
    head: HeadOption = None,
    device: Device = "auto",
    backend: Backend = "auto",
    precision: Precision = "float64",
    threads: Threads = None,
    dispersion: Dispersion = None,
    type_map: TypeMap = "",
    format: Format = None,
) -> None:
    """Elastic constants of crystals, from stresses of 24 strained copies of each, whose atoms are relaxed.

    Exit code: 0 all done, 1 some structures failed, 2 nothing could be done.
    """

    def make() -> Any:
        from .properties.elastic import Elastic

        return Elastic(strain)

    options = {"head": head, "device": device, "backend": backend, "precision": precision, "threads": threads}
    options["dispersion"] = dispersion
    _run(make, inputs, output, model, _until(fmax, no_relax), options, type_map, format)


@app.command()
def eos(
    inputs: Inputs,
    output: Output,
    model: Model,
    strain: Annotated[float, typer.Option(help="of the volume, to either side")] = 0.06,
    points: Annotated[int, typer.Option(help="volumes")] = 9,
    fmax: Relax = None,
    no_relax: NoRelax = False,
    head: HeadOption = None,
    device: Device = "auto",
    backend: Backend = "auto",
    precision: Precision = "float64",
    threads: Threads = None,
    dispersion: Dispersion = None,
    type_map: TypeMap = "",
    format: Format = None,
) -> None:
    """Equations of state of crystals: volume, bulk modulus and its derivative by Birch and Murnaghan.

    Exit code: 0 all done, 1 some structures failed, 2 nothing could be done.
    """

    def make() -> Any:
        from .properties.eos import Eos

        return Eos(strain, points)

    options = {"head": head, "device": device, "backend": backend, "precision": precision, "threads": threads}
    options["dispersion"] = dispersion
    _run(make, inputs, output, model, _until(fmax, no_relax), options, type_map, format)
