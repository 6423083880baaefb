"""What ``dpa1-fast md`` does and prints."""

from __future__ import annotations

import signal
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TextIO

from ase import Atoms

from ..engine import Engine
from ..loading import load
from ..printable import clock, name_of
from ..progress_bar import ProgressBar
from ..screening.inputs import sources_outside
from .md_options import MdError, MdOptions
from .md_run import Now, Run

EVERY = 60.0
"""Seconds between two plain lines."""
REFRESH = 0.2
"""Seconds between two looks at the systems for the bar."""


def md_command(options: MdOptions) -> int:
    """Runs, or goes on where a killed run was, and prints what came out. Returns the exit code."""
    engine = load(
        options.model, head=options.head, device=options.device, backend=options.backend, precision=options.precision,
        threads=options.threads, dispersion=options.dispersion,
    )  # fmt: skip
    structures, names = read_structures(options, engine)
    run = Run(options, engine, structures, names)
    with _asked_to_end() as asked, Watch() as watch:
        began = time.monotonic()
        complete = run(lambda *_: watch(run) and not asked)
        seconds = time.monotonic() - began
    for error in run.md.failed.values():
        print(f"error: {error}", file=sys.stderr)
    if not complete:
        print(f"interrupted at step {run.md.steps:,}; the same command goes on from there", file=sys.stderr)
        return 128 + asked[0]
    _print(run, options, engine, seconds)
    return 1 if run.md.failed else 0


def read_structures(options: MdOptions, engine: Engine) -> tuple[list[Atoms], list[str]]:
    """All structures of the input, and what errors call them.

    Raises:
        SourceError: an argument that matches nothing. OptionError: one that lies in the folder for the results.
        MdError: a structure that cannot be read, or none.
    """
    structures, names = [], []
    o = options
    for source in sources_outside(o.inputs, o.output, engine.config.type_map, o.type_map, o.format):
        for item in source.read():
            name = name_of(Path(item.source).name)
            if item.frame >= 0:  # of what was read; -1 stands for the whole file
                name = f"{name}:{item.frame}"
            if item.atoms is None:
                raise MdError(f"{name}: {item.error}")
            structures.append(item.atoms)
            names.append(name)
    if not structures:
        raise MdError("there are no structures in what was given")
    return structures, names


@contextmanager
def _asked_to_end() -> Iterator[list[int]]:
    """Ctrl-C, or a batch system whose time is up, ends a run between two steps; a second time at once."""
    asked: list[int] = []

    def end(number: int, _: Any) -> None:
        asked.append(number)
        if len(asked) > 1:
            raise KeyboardInterrupt

    before = {s: signal.signal(s, end) for s in (signal.SIGTERM, signal.SIGINT)}
    try:
        yield asked
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


class Watch(ProgressBar):
    """Shows how far a run is: a bar on a terminal, a plain line a minute elsewhere.

    Args:
        file: where to; standard error unless told.
    """

    def __init__(self, file: TextIO | None = None) -> None:
        super().__init__("starting", file)
        self._began = self._said = time.monotonic()
        self._first, self._every = -1, REFRESH if self.has_bar else EVERY

    def __call__(self, run: Run) -> bool:
        """Shows it, at most every so often. Returns True."""
        at = time.monotonic()
        if self._first < 0:
            self._first, self._began = run.md.steps, at
        if at - self._said >= self._every:
            self._said = at
            now = run.now()
            self.show(now.step / max(now.steps, 1), self.words(now, at - self._began))
        return True

    def words(self, now: Now, seconds: float) -> str:
        """Steps, pace, the time that is left, and the systems' means."""
        parts = [f"step {now.step:,} of {now.steps:,}"]
        done = now.step - self._first
        if done > 0:
            each = seconds / done
            parts += [f"{1e3 * each:.3g} ms/step, {clock(each * (now.steps - now.step))} left"]
        parts += [f"{now.temperature:.0f} K, conserved {now.energy:.6g} eV"]
        if now.failed:
            parts += [f"{now.failed:,} of {now.systems + now.failed:,} systems had to stop"]
        return "; ".join(parts)


def _print(run: Run, options: MdOptions, engine: Engine, seconds: float) -> None:
    md, now = run.md, run.now()
    done = md.steps - run.resumed
    if done > 0:
        again = f" (steps 1 to {run.resumed:,} in an earlier run)" if run.resumed else ""
        pace = f" in {seconds:.1f} s, {1e3 * seconds / done:.3g} ms a step on {engine.device} ({options.precision})"
        print(f"{md.steps:,} steps of {options.timestep:g} fs{again}{pace}")
    else:
        print(f"{md.steps:,} steps of {options.timestep:g} fs: this run was complete, nothing was left to do")
    if now.systems:
        each = "" if now.systems == 1 else f"; means of {now.systems:,} systems"
        print(f"now {now.temperature:.1f} K, conserved energy {now.energy:.6f} eV{each}")
    print("wrote " + ", ".join(map(str, run.wrote)))
