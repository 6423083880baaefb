"""Mutated files of structures: each is read or refused in one line, within seconds, and no number is wrong in silence.

pytest tests/fuzz/test_data_files.py --fuzz-examples 20000      (make fuzz)

Files are read in child processes: what ends one of them, or keeps it busy, is found and named by its seed.
"""

from __future__ import annotations

import json
import math
import multiprocessing
import resource
import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import make_model
from mutations import mutated, mutated_text
from source_cases import (
    TYPE_MAP,
    cif,
    compressed,
    database,
    extxyz,
    hdf5_systems,
    json_database,
    lammps_data,
    lammps_dump,
    lmdb_set,
    mixed_lines,
    npy,
    nwchem_input,
    optimade_answer,
    optimade_lines,
    poscar,
    protein,
    res,
    tarred,
    through_dpdata,
    trajectory,
    xdatcar,
    xsf,
    zipped,
)

from dpa1_fast import DPA1, Engine
from dpa1_fast.checkpoint import write_model
from dpa1_fast.errors import StructureError
from dpa1_fast.screening import screen
from dpa1_fast.sources import Item, find_sources

pytestmark = pytest.mark.usefixtures("quiet")

SECONDS, WAIT = 10.0, 120.0
"""Of a processor, and by the clock: no file of some kilobytes may take longer."""

MEMORY = 1_500_000_000
"""Bytes by which a process that reads them may grow."""

BATCH = 250
"""Files that one process reads."""

EVALUATED, ATOMS = 3, 200
"""Structures of each file that are evaluated, if they have no more atoms."""

Mutation = Callable[[bytes, np.random.Generator], bytes]

TEXTS = (
    *(extxyz, poscar, xdatcar, cif, lammps_dump, lammps_data, protein, res, xsf, nwchem_input, through_dpdata),
    *(json_database, optimade_answer, optimade_lines, mixed_lines),
)
BINARY = (compressed, trajectory, database, lmdb_set, npy, hdf5_systems, zipped, tarred)
FORMATS: dict[str, tuple[Callable[[Path], str], Mutation]] = {
    **{make.__name__: (make, mutated_text) for make in TEXTS},
    **{make.__name__: (make, mutated) for make in BINARY},
}


def files_of(argument: str) -> list[Path]:
    """The files behind an argument, which may be a folder."""
    path = Path(argument.split(":")[-1])
    return sorted(p for p in path.rglob("*") if p.is_file() and p.name != "lock.mdb") if path.is_dir() else [path]


def small_model() -> DPA1:
    """Made for files, not for physics."""
    return make_model(neuron=(2, 4), axis_neuron=2, attn=4, attn_layer=1)


class Case:
    """A sound input of one format, one file of which is spoiled at a time."""

    def __init__(self, name: str, folder: Path) -> None:
        make, self.mutation = FORMATS[name]
        folder.mkdir()
        self.argument = make(folder)
        self.files = files_of(self.argument)
        self.sound = [path.read_bytes() for path in self.files]

    def spoil(self, seed: int) -> None:
        """All files as they were, but for one."""
        rng = np.random.default_rng(seed)
        spoilt = int(rng.integers(len(self.files)))
        for k, (path, data) in enumerate(zip(self.files, self.sound, strict=True)):
            path.write_bytes(self.mutation(data, rng) if k == spoilt else data)


def wrong_in(items: list[Item]) -> str | None:
    """What is not as ``Source.read`` promises."""
    if not items:
        return "no Item at all"
    if items[-1].mark is not None or items[-1].share != 1.0:
        return f"does not end: mark {items[-1].mark}, share {items[-1].share}"
    for item in items:
        if (item.atoms is None) != (item.error is not None):
            return f"frame {item.frame}: {item.atoms} and {item.error}"
        if item.error is not None and ("\n" in item.error or "Traceback" in item.error or len(item.error) > 1000):
            return f"frame {item.frame}: {item.error!r} is no line"
        if not (math.isnan(item.share) or 0 <= item.share <= 1):
            return f"frame {item.frame}: a share of {item.share}"
    json.dumps([item.mark for item in items])
    return None


def wrong_in_results(engine: Engine, items: list[Item]) -> str | None:
    """What is not finite, but no error."""
    for item in [i for i in items if i.atoms is not None and len(i.atoms) <= ATOMS][:EVALUATED]:
        (result,) = engine.evaluate([item.atoms], on_error="return")
        if isinstance(result, StructureError):
            continue
        if not all(np.isfinite(x).all() for x in (result.energy, result.forces, result.virial)):
            return f"frame {item.frame}: not finite but ok"
    return None


def read_all(case: Case, seeds: range, engine: Engine, at: Any, end: Any) -> None:
    """A child process: what is wrong goes down the pipe, with its seed; ``at`` says where it is."""
    used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (used + MEMORY, resource.RLIM_INFINITY))
    for seed in seeds:
        at.value = seed
        signal.setitimer(signal.ITIMER_PROF, SECONDS)  # SIGPROF ends the process
        case.spoil(seed)
        try:
            items = [item for source in find_sources([case.argument], TYPE_MAP) for item in source.read()]
            wrong = wrong_in(items) or wrong_in_results(engine, items)
        except BaseException as error:
            wrong = f"{type(error).__name__}: {error}"
        if wrong:
            end.send(f"seed {seed}: {wrong}")
    end.send(None)


def run_child(case: Case, seeds: range, engine: Engine) -> list[str]:
    """What a child process found, and what became of it."""
    context = multiprocessing.get_context("fork")
    at, (end, other) = context.Value("q", seeds.start), context.Pipe(duplex=False)
    child = context.Process(target=read_all, args=(case, seeds, engine, at, other), daemon=True)
    child.start()
    other.close()
    found: list[str] = []
    seen, since = -1, time.monotonic()
    try:
        while True:
            if end.poll(0.5):
                told = end.recv()
                if told is None:
                    return found
                found.append(told)
            elif at.value != seen:
                seen, since = at.value, time.monotonic()
            elif time.monotonic() - since > WAIT:
                return [*found, f"seed {seen}: still busy after {WAIT} s"]
    except EOFError:
        child.join()
        end_of_it = f"more than {SECONDS} s" if child.exitcode == -signal.SIGPROF else f"exit code {child.exitcode}"
        return [*found, f"seed {at.value}: ended the process: {end_of_it}"]
    finally:
        child.kill()
        child.join()


@pytest.mark.parametrize("name", FORMATS)
def test_a_mutated_file_is_read_or_refused(name: str, fuzz_examples: int, fuzz_first: int, tmp_path: Path) -> None:
    case = Case(name, tmp_path / "case")
    engine = Engine(small_model(), device="cpu", threads=1)
    last = fuzz_first + max(2, fuzz_examples // len(FORMATS))
    found = [
        line
        for start in range(fuzz_first, last, BATCH)
        for line in run_child(case, range(start, min(start + BATCH, last)), engine)
    ]
    assert not found, "\n".join(found[:20])


def test_a_job_over_mutated_files_loses_nothing(fuzz_examples: int, tmp_path: Path) -> None:
    """A row for every Item of every file, and an exit code; whatever is in them."""
    model = tmp_path / "model.safetensors"
    write_model(small_model(), model)
    names = [make.__name__ for make in TEXTS[:8]] + [make.__name__ for make in (compressed, trajectory, database)]
    arguments = []
    for seed in range(max(11, fuzz_examples // 200)):
        case = Case(names[seed % len(names)], tmp_path / str(seed))
        case.spoil(10**6 + seed)
        arguments.append(case.argument)
    expected = [item for a in arguments for source in find_sources([a], TYPE_MAP) for item in source.read()]
    outcome = screen(arguments, model, tmp_path / "out", report=False, threads=1)
    found = outcome.statistics
    assert found.ok + found.failed == len(expected)
    assert found.failed >= sum(item.error is not None for item in expected)
    assert found.exit_code in (0, 1, 2)
