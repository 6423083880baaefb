"""What ``dpa1-fast bench`` does: judge, time, save, say."""

from __future__ import annotations

import json
import platform
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.table import Table

from .. import __version__
from ..checkpoint import find, read_model
from ..describe import file_hash
from ..engine import Engine
from ..errors import DPA1Error
from ..kernels.cpu import library
from ..screening.report_text import count as counted
from . import measure, systems
from .peer import PeerError, times
from .report import page, short

TIMED, SMALL = 500, 32
"""Atoms of the system whose stages and precisions are timed, and of the one that the reference judges."""
COUNTS = (1, 8, 64, 512)
MEMORY_MOST, MEMORY_SECONDS = 64_000, 8.0
"""The largest system whose memory is measured has so many atoms, or takes so long."""
PEER_MOST = 2000
"""DeePMD-kit gets no larger systems: it may need gigabytes."""


def bench(
    model: str, folder: Path | None, structures: Path | None, precision: str, device: str, backend: str,
    threads: int | None, head: str | None, most: int, peer: str | None,
) -> int:  # fmt: skip
    """Measures, writes ``bench.json`` and ``report.html`` into ``folder`` where one is given, and prints.

    Returns:
        The exit code: 1 where results are wrong.

    Raises:
        DPA1Error: of files and options that cannot be used.
    """
    console = Console(highlight=False)
    weights = read_model(find(model), head).model
    engine = Engine(weights, device=device, backend=backend, precision=precision, threads=threads)
    cell = systems.made(engine.config) if structures is None else _first(structures, engine.config.type_map)
    results = measure.Results(_facts(model, engine, structures))
    with console.status("") as status:
        for step in _steps(results, weights, engine, cell, most, peer, console):
            status.update(step)
    if folder is not None:
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "bench.json").write_text(json.dumps(_plain(results), indent=1, ensure_ascii=False), encoding="utf-8")
        (folder / "report.html").write_text(page(results), encoding="utf-8")
    _print(console, results)
    if folder is not None:
        console.print(f"wrote {folder / 'report.html'}, {folder / 'bench.json'}", soft_wrap=True)
    return 0 if results.right else 1


def _steps(
    r: measure.Results, weights: Any, engine: Engine, cell: Any, most: int, peer: str | None, console: Console
) -> Iterator[str]:
    """Fills the results, a name for what comes next at a time."""
    timed = systems.repeated(cell, min(TIMED, most))
    r.timed_atoms = len(timed)
    yield "judging and timing precisions"
    r.precisions = measure.precisions(weights, engine, timed, systems.repeated(cell, SMALL))
    if not r.right:
        return
    yield "where the time goes"
    r.stages = measure.stages(engine, timed)
    every = list(systems.sizes(cell, most))
    for atoms in every:
        yield f"{len(atoms):,} atoms"
        r.sizes.append(measure.size(engine, atoms))
    for count in COUNTS:
        yield f"{count:,} structures in a call"
        r.batches.append(measure.batch(engine, systems.many(cell, count)))
    yield "what the machine can do"
    r.roofline = measure.roofline(engine, timed, r.stages["kernels"])
    yield "memory"
    largest = int(min(MEMORY_MOST, MEMORY_SECONDS / (r.sizes[-1].us_per_atom * 1e-6)))
    r.memory = measure.memory(weights, engine, [systems.repeated(cell, largest // k) for k in (16, 4, 1)])
    if peer is not None:
        yield "DeePMD-kit"
        try:
            _peer(r, weights, engine, every, peer)
        except PeerError as error:
            console.print(f"no comparison: {error}", soft_wrap=True)


def _peer(r: measure.Results, weights: Any, engine: Engine, every: list[Any], python: str) -> None:
    from dataclasses import replace

    some = [a for a in every if len(a) <= PEER_MOST and a.pbc.all()]
    for k, (atoms, (seconds, energy)) in enumerate(
        zip(some, times(python, weights, some, engine.threads), strict=True)
    ):
        ours = engine.evaluate([atoms])[0].energy
        if abs(ours - energy) > 1e-3 * len(atoms):
            raise PeerError(f"DeePMD-kit's energy of {len(atoms)} atoms is {energy:.6f} eV and ours {ours:.6f} eV")
        r.sizes[k] = replace(r.sizes[k], peer=seconds)


def _first(path: Path, types: Sequence[str]) -> Any:
    from ..sources import find_sources

    for source in find_sources([str(path)], types):
        for item in source.read():
            if item.atoms is None:
                raise DPA1Error(f"{path}: {item.error}")
            return item.atoms
    raise DPA1Error(f"{path}: there is no structure in it")


def _facts(model: str, engine: Engine, structures: Path | None) -> dict[str, Any]:
    c = engine.config
    gpu = torch.cuda.get_device_name(engine.device) if engine.device.type == "cuda" else None
    return {
        "model": Path(model).name,
        "sha256": file_hash(find(model))[:12],
        "precision": engine.precision,
        "size": f"rcut {c.rcut:g} Å, neurons {'/'.join(map(str, c.neuron))}, {c.attn_layer} layers of attention",
        "structures": structures.name
        if structures is not None
        else "made: a crystal of the model's first elements, rattled",
        "ran_on": f"{gpu or engine.device}, backend {engine.backend}, {counted(engine.threads, 'thread')}",
        "processor": platform.processor() or platform.machine(),
        "engine_build": library.usable()[0] if engine.backend == "cpu" else None,
        "versions": f"dpa1-fast {__version__}, torch {torch.__version__}, Python {platform.python_version()}",
    }


def _plain(r: measure.Results) -> dict[str, Any]:
    return asdict(r)


def _print(console: Console, r: measure.Results) -> None:
    table = Table(box=None)
    for name in ("precision", "force error", "µs/atom"):
        table.add_column(name, justify="left" if name == "precision" else "right")
    for p in r.precisions:
        table.add_row(p.name, f"{p.error:.1e}", "wrong, no speed" if p.us_per_atom is None else short(p.us_per_atom))
    console.print(table)
    if not r.right:
        console.print(f"forces in {r.facts['precision']} are not the reference's: no speed is shown")
        return
    table = Table(box=None)
    names = ["atoms", "neighbours", "ms", "µs/atom", "ns/neighbour"]
    for name in [*names, *(["times DeePMD-kit"] if any(s.peer for s in r.sizes) else [])]:
        table.add_column(name, justify="right")
    for s in r.sizes:
        row = [f"{s.atoms:,}", f"{s.neighbors:.0f}", short(1e3 * s.time.median), short(s.us_per_atom),
               short(1e3 * s.us_per_atom / max(s.neighbors, 1e-9))]  # fmt: skip
        table.add_row(
            *row, *(["" if s.peer is None else f"{s.peer / s.time.median:.1f}"] if any(x.peer for x in r.sizes) else [])
        )
    console.print(table)
    best = max(r.batches, key=lambda b: b.structures / b.time.median)
    console.print(
        f"{best.structures / best.time.median:,.0f} structures of {best.atoms / best.structures:.0f} atoms a second, "
        f"{best.structures} in a call; {r.facts['ran_on']}"
    )
