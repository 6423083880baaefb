"""The job: read, evaluate, write, remember; interrupted at any moment, it goes on where it was."""

from __future__ import annotations

import time
import warnings
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from .. import __version__
from ..engine import Engine
from ..errors import DPA1Error, DPA1Warning
from ..loading import load
from . import rows, sinks
from .blocks import Block, Position, blocks
from .evaluate import Done, Evaluation
from .folder import FAILURES, REPORT, outputs_of
from .hull import Hull
from .inputs import sources_of
from .journal import Journal
from .kept import column_of
from .options import Options, fingerprints
from .sinks import summary
from .summary_statistics import SummaryStatistics, summarize, write_failures

Evaluate = Callable[[Iterable[Block]], Iterator[Done]]


class StoppedError(DPA1Error, RuntimeError):
    """A job that had to stop; what it has written is kept, unless somebody removed it."""


@dataclass
class Progress:
    """How far a job is: ``structures`` and ``atoms`` done in this run, ``before`` it, and of those in all ``failed``.

    ``share``: of the input that lies behind, 0 to 1, or NaN.
    """

    before: int = 0
    structures: int = 0
    atoms: int = 0
    failed: int = 0
    share: float = float("nan")

    def add(self, done: Done) -> None:
        """Takes a block in."""
        self.structures += len(done.written.rows)
        self.atoms += done.atoms
        self.failed += done.failed
        self.share = done.block.share


@dataclass
class Outcome:
    """What a job has come to.

    Attributes:
        statistics: of the summary. resumed: structures that an earlier run had done. complete: whether it had done all.
        seconds, structures, atoms: of this run. engine: what evaluated. folder: where everything is.
    """

    statistics: SummaryStatistics
    resumed: int
    complete: bool
    seconds: float
    structures: int
    atoms: int
    engine: Engine
    folder: Path


def run(options: Options, progress: Callable[[Progress], None] | None = None) -> Outcome:
    """Runs a job, or what is left of it.

    Args:
        progress: told after each block.

    Raises:
        ModelFileError, BackendError, SourceError, OptionError, JobError: before anything is written.
        StoppedError: the disk is full, or the folder is gone; everything written before is kept.
    """
    _complain_early(options)
    engines = [
        load(
            m, device=options.device, backend=options.backend, precision=options.precision, head=options.head,
            threads=options.threads, dispersion=options.dispersion,
        )
        for m in options.models
    ]  # fmt: skip
    engine = engines[0]
    sources = sources_of(options, engine.config.type_map)
    hull = Hull(options.references) if options.references is not None else None
    inputs = fingerprints(sources)
    identity = options.identity(inputs, engine.backend, str(engine.device))
    began, started = time.perf_counter(), round(time.time(), 3)
    files = outputs_of(options.write, options.report)
    with Journal(options.output, identity, files, options.overwrite) as journal:
        now = Progress(before=journal.position.index, failed=sum(b["failed"] for b in journal.blocks))
        complete = journal.ended
        if not complete:
            left = blocks(sources, journal.position, [not x for x in inputs.values()])
            try:
                outputs = _outputs(options, journal, identity)
                for done in _evaluation(options, engines)(left):
                    _write(done, outputs, journal, hull, started)
                    now.add(done)
                    if progress:
                        progress(now)
                for sink in outputs:
                    sink.finish()
                write_failures(options.output / summary.NAME, options.output / FAILURES)
                journal.end()
            except OSError as error:
                raise StoppedError(_why(error, journal, options.output)) from error
        found = summarize(options.output / summary.NAME, options.by, options.top)
        if options.report and not (complete and (options.output / REPORT).exists()):
            _report(options, identity, journal, found)
    spent = time.perf_counter() - began
    return Outcome(found, now.before, complete, spent, now.structures, now.atoms, engine, options.output)


def _complain_early(options: Options) -> None:
    """Says what is missing before a model is loaded, and loads ASE's readers before the clock starts."""
    import ase.io  # noqa: F401

    sources_of(options, ())


def _outputs(options: Options, journal: Journal, identity: dict[str, Any]) -> list[sinks.Sink]:
    """The outputs, brought back to where the journal says that they are."""
    schema = rows.schema(
        options.fields, options.relax is not None, len(options.models), options.references is not None, options.keys
    )
    descriptor = "descriptor" in options.fields
    kept = {column_of(key, rows.OURS): key in options.keep for key in options.keys}
    out = sinks.sinks_for(options.output, schema, options.write, descriptor, _provenance(identity), kept)
    for sink in out:
        sink.resume(journal.states.get(sink.name))
    return out


def _why(error: OSError, journal: Journal, folder: Path) -> str:
    if not journal.there:
        return f"{folder} was removed or replaced while the job was running, and what it held with it; start it again"
    safe = Position(**journal.blocks[-1]["end"]).index if journal.blocks else 0
    return (
        f"{error.filename or folder}: {error.strerror or error}; {safe:,} structures are written and safe, the same "
        "command goes on from there once it can"
    )


def _write(done: Done, outputs: list[sinks.Sink], journal: Journal, hull: Hull | None, started: float) -> None:
    if hull is not None:
        for row in done.written.rows:
            if row["status"] == "ok":
                row["e_above_hull"] = hull.above(row["formula"], row["energy_per_atom"])
    states = {sink.name: sink.append(done.written) for sink in outputs}
    told = {"structures": len(done.written.rows), "atoms": done.atoms, "failed": done.failed}
    # When this run began is told too, so that the report knows where the job was resumed.
    journal.commit(done.block.end, states, time=round(time.time(), 3), began=started, **told)


def _evaluation(options: Options, engines: list[Engine]) -> Evaluate:
    if options.ray is None:
        return Evaluation(engines, options)
    from .cluster import RayEvaluation

    return RayEvaluation(options, (engines[0].backend, engines[0].device.type))


def _report(options: Options, identity: dict[str, Any], journal: Journal, found: SummaryStatistics) -> None:
    from .report import write_report

    try:
        write_report(options.output, identity, journal.blocks, found, options.by)
    except Exception as error:  # a page may not cost a night's results
        why = f"{type(error).__name__}: {error}"
        warnings.warn(f"{options.output / REPORT} was not written ({why}); all else is", DPA1Warning, stacklevel=3)


def _provenance(identity: dict[str, Any]) -> dict[str, str]:
    models = identity["models"]
    return {
        "version": __version__,
        "model": " ".join(models),
        "model_sha256": " ".join(models.values()),
        "head": identity["head"] or "",
        "device": identity["device"],
        "backend": identity["backend"],
        "precision": identity["precision"],
    }
