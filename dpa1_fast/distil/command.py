"""What ``dpa1-fast distil`` does and prints."""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from rich.console import Console

from ..checkpoint import read_model, write_model
from ..describe import file_hash
from ..engine import Engine
from ..model import DPA1
from ..screening.inputs import sources_outside
from ..testing.command import table, tested
from ..testing.tally import Report
from ..train.command import started, train
from ..train.data import frames
from ..train.input_toml import read_student
from ..train.loop import BEST, Loop
from ..train.options import TrainingError
from ..train.prepare import prepare
from .label import VALID, Labelled, LabelOptions, files_digest, label, labelled
from .speed import Speed, compared, enough
from .student import defaults

LABELS, STUDENT, REPORT = "labels", "student", "distilled.json"
NO_FORCE = 1e-6
"""eV/Å: smaller RMS forces are rounding."""


def distil_command(
    model: str,
    head: str | None,
    data: Sequence[str],
    output: Path,
    options: LabelOptions,
    settings: Path | None,
    steps: int | None,
    device: str,
    backend: str,
    precision: str,
    threads: int | None,
    overwrite: bool,
    type_map: Sequence[str] = (),
    format: str | None = None,
) -> int:
    """Makes a student, or goes on where a killed command was. Returns the exit code.

    Raises:
        TrainingError: the teacher has inputs that a student cannot be given, or an option is wrong.
    """
    loaded = read_model(model, head)
    f = loaded.model.config.fitting
    if f.numb_fparam or f.numb_aparam or f.dim_case_embd:
        raise TrainingError(f"{model}: frame and atomic parameters cannot be distilled; give a model without them")
    sources = sources_outside(data, output, loaded.model.config.type_map, type_map, format)
    with started(output, device, threads, overwrite) as here:
        folder, digest = output / LABELS, json.dumps([file_hash(loaded.path), head, list(type_map), format])
        teacher = Engine(loaded.model, device=device, threads=threads)
        if here.first:
            print(told(label(teacher, digest, sources, folder, options)), file=sys.stderr)
        here.wait()
        counts = labelled(folder)
        origin = json.dumps([digest, files_digest(folder)])
        usual = defaults(loaded.model.config, folder, counts.virials, options.seed, origin)
        training = read_student(settings, usual, steps)
        loop = Loop(prepare(training), output, here, backend)
        train(loop)
        if here.first:
            best = BEST[min(loop.best, key=lambda name: loop.best[name])]
            _report(loaded.model, model, output, best, precision, threads, counts)
    return 0


def told(counts: Labelled) -> str:
    """What was labelled, in a line."""
    failed = f"; {counts.failed:,} could not be done, see failures.csv" if counts.failed else ""
    return f"labelled by the teacher: {counts.train:,} structures to train on, {counts.valid:,} held out{failed}"


def _report(
    teacher: DPA1, name: str, output: Path, best: str, precision: str, threads: int | None, counts: Labelled
) -> None:
    student = read_model(output / best).model
    report, speed = _judged(teacher, student, output / LABELS / VALID, precision, threads)
    errors = report.whole.errors()
    error = force_error(errors)
    gain = f"{speed['model'].gain:.1f} times as fast as its teacher, {speed['whole'].gain:.1f} with neighbour lists"
    note = f"Distilled from {name} on {counts.train:,} structures: {error}; {gain}."
    for suffix in (".safetensors", ".dp"):
        write_model(student, output / f"{STUDENT}{suffix}", note)
    found: dict[str, Any] = {
        "teacher": name,
        "structures": asdict(counts),
        "precision": precision,
        "errors": errors,
        "elements": {k: t.errors() for k, t in report.elements.items()},
        "speed": {k: asdict(v) for k, v in speed.items()},
    }
    (output / REPORT).write_text(json.dumps(found, indent=2, ensure_ascii=False), encoding="utf-8")
    console = Console(highlight=False, width=None if sys.stdout.isatty() else 120)
    console.print(table("", {"student against teacher, held out": report.whole}))
    for what, words in (("model", "model alone"), ("whole", "with neighbour lists")):
        s = speed[what]
        console.print(
            f"{words}: {s.teacher:.3g} µs an atom for the teacher, {s.student:.3g} for the student: {s.gain:.1f} times "
            f"as fast ({s.gain_processor:.1f} by processor time), {precision}",
            soft_wrap=True,
        )
    console.print(f"wrote {output / STUDENT}.safetensors, {STUDENT}.dp and {REPORT}: {error}", soft_wrap=True)


def force_error(errors: dict[str, float]) -> str:
    """The student's error in words. In crystals of one atom symmetry leaves no forces that it could be a share of."""
    rmse, rms = errors["rmse_f"], errors["rms_f"]
    share = f"{rmse / rms:.1%} of the RMS force" if rms > NO_FORCE else "there are no forces to speak of"
    return f"added force error {1e3 * rmse:.4g} meV/Å ({share})"


def _judged(
    teacher: DPA1, student: DPA1, held: Path, precision: str, threads: int | None
) -> tuple[Report, dict[str, Speed]]:
    engines = [Engine(m, precision=precision, threads=threads) for m in (teacher, student)]
    report, _ = tested(engines[1], [str(held)], None)
    return report, compared(
        engines[0], engines[1], enough([f.atoms for f in frames([str(held)], student.config.type_map)])
    )
