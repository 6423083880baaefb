"""What is measured of a model on this machine; parity first."""

from __future__ import annotations

import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from ase import Atoms

from ..engine import Engine
from ..kernels.precision import PRECISIONS
from ..model import DPA1
from ..structures.batch import collate, neighborhood
from ..structures.structure import from_ase
from . import operations
from .systems import neighbors

ROUNDS, SECONDS = 3, 0.7
"""A time is the median of at least so many rounds, and of as many as fit."""
BARS = {"float64": 1e-7, "float32": 1e-4, "tf32": 3e-3, "float16": 3e-3, "bfloat16": 2e-2}
"""How far forces may be from the reference's, RMS over RMS, for a speed to be shown: the project's own bars, but in
float64, where a hard softmax leaves no more digits to a pair just inside the cut-off (docs/parity.md)."""
TELLING = 30_000_000
"""Bytes by which peaks must differ for anything to follow from them."""
BYTES_PER_NEIGHBOR, BYTES_PER_ATOM = 56, 96
"""The least that an evaluation reads and writes: vectors and indices in, gradients out; types, forces and energies."""


@dataclass(frozen=True)
class Timing:
    """Seconds of one evaluation: quartiles, and how many there were."""

    median: float
    low: float
    high: float
    rounds: int


@dataclass(frozen=True)
class Size:
    """One system. peer: seconds of DeePMD-kit's evaluation, where there is one."""

    atoms: int
    neighbors: float
    time: Timing
    peer: float | None = None

    @property
    def us_per_atom(self) -> float:
        """µs an atom."""
        return 1e6 * self.time.median / self.atoms


@dataclass(frozen=True)
class Throughput:
    """So many structures in one call."""

    structures: int
    atoms: int
    time: Timing


@dataclass(frozen=True)
class Precision:
    """A precision: forces against the float64 reference, RMS over RMS; None: it is not right, and has no speed."""

    name: str
    error: float
    us_per_atom: float | None


@dataclass(frozen=True)
class Roofline:
    """What the machine does at most (measured), what a product needs, and what the kernels reach."""

    flops: float
    bytes_per_second: float
    intensity: float
    reached: float


@dataclass(frozen=True)
class Memory:
    """Peak memory of processes that evaluate some sizes, bytes; available: of the machine."""

    peaks: tuple[tuple[int, int], ...]
    available: int

    @property
    def per_atom(self) -> float | None:
        """Bytes that each further atom takes; None where what was tried takes as good as the same."""
        (a, x), (b, y) = self.peaks[0], self.peaks[-1]
        return (y - x) / (b - a) if y - x > TELLING else None

    @property
    def largest(self) -> int | None:
        """Atoms that would fit, extrapolated."""
        (atoms, peak), each = self.peaks[-1], self.per_atom
        return None if each is None else int(atoms + max(0, self.available - peak) / each)


@dataclass
class Results:
    """All that was measured; facts: the conditions; timed_atoms: of what stages and precisions were timed on."""

    facts: dict[str, Any]
    timed_atoms: int = 0
    precisions: list[Precision] = field(default_factory=list)
    sizes: list[Size] = field(default_factory=list)
    batches: list[Throughput] = field(default_factory=list)
    stages: dict[str, float] = field(default_factory=dict)
    roofline: Roofline | None = None
    memory: Memory | None = None

    @property
    def right(self) -> bool:
        """Whether the precision that is timed gives the reference's forces."""
        wanted = self.facts["precision"]
        return any(p.name == wanted and p.us_per_atom is not None for p in self.precisions)


def timed(engine: Engine, run: Callable[[], Any], seconds: float = SECONDS) -> Timing:
    """Runs once to warm up, then as often as fits."""
    run()
    took: list[float] = []
    while len(took) < ROUNDS or (sum(took) < seconds and len(took) < 500):
        began = time.perf_counter()
        run()
        if engine.device.type == "cuda":
            torch.cuda.synchronize(engine.device)
        took.append(time.perf_counter() - began)
    took.sort()
    return Timing(statistics.median(took), took[len(took) // 4], took[-1 - len(took) // 4], len(took))


def precisions(model: DPA1, engine: Engine, atoms: Atoms, small: Atoms) -> list[Precision]:
    """Every precision of the engine's backend, judged on ``small`` by the float64 reference and timed on ``atoms``."""
    judge = Engine(model, device="cpu", backend="reference").evaluate([small])[0].forces
    scale = float(np.sqrt(np.mean(judge**2))) or 1.0
    out = []
    for name in PRECISIONS:
        try:
            other = engine if name == engine.precision else _like(engine, model, name)
        except Exception:  # not on this backend or processor
            continue
        forces = other.evaluate([small])[0].forces
        error = float(np.sqrt(np.mean((forces - judge) ** 2))) / scale
        right = error <= BARS[name]
        took = timed(other, lambda other=other: other.evaluate([atoms])) if right else None  # type: ignore[misc]
        out.append(Precision(name, error, None if took is None else 1e6 * took.median / len(atoms)))
    return out


def _like(engine: Engine, model: DPA1, precision: str) -> Engine:
    return Engine(model, device=str(engine.device), backend=engine.backend, precision=precision, threads=engine.threads)


def size(engine: Engine, atoms: Atoms) -> Size:
    """One system, from ``ase.Atoms`` to energies, forces and virials."""
    return Size(len(atoms), neighbors(engine, atoms), timed(engine, lambda: engine.evaluate([atoms])))


def batch(engine: Engine, structures: Sequence[Atoms]) -> Throughput:
    """Many structures in one call."""
    took = timed(engine, lambda: engine.evaluate(structures))
    return Throughput(len(structures), sum(map(len, structures)), took)


def stages(engine: Engine, atoms: Atoms) -> dict[str, float]:
    """Where the time of an evaluation goes, seconds; what is done beside something else is not shown twice."""
    config = engine.config
    structure = from_ase(config, atoms, "a structure")
    part = neighborhood(config, structure)
    ready = engine.batch([atoms])
    out = {
        "structure checked": timed(engine, lambda: from_ase(config, atoms, "a structure")).median,
        "neighbours": timed(engine, lambda: neighborhood(config, structure)).median,
        "batch": timed(engine, lambda: collate(config, [part])).median,
        "kernels": timed(engine, lambda: engine.run(ready)).median,
    }
    whole = timed(engine, lambda: engine.evaluate([atoms])).median
    return out | {"results and rest": max(0.0, whole - sum(out.values()))}


def roofline(engine: Engine, atoms: Atoms, kernels: float) -> Roofline:
    """The kernels against peaks of this machine: products of matrices and copies, by torch with as many threads."""
    counts = engine.batch([atoms]).counts.tolist()
    flops = operations.total(engine.config, counts)
    moved = BYTES_PER_NEIGHBOR * sum(counts) + BYTES_PER_ATOM * len(counts)
    dtype = torch.float64 if engine.precision == "float64" else torch.float32
    before = torch.get_num_threads()
    try:
        torch.set_num_threads(engine.threads if engine.device.type == "cpu" else before)
        n = 1024 if engine.device.type == "cpu" else 8192
        a = torch.ones(n, n, dtype=dtype, device=engine.device)
        product = timed(engine, lambda: a @ a).low
        line = torch.ones(1 << 25, dtype=torch.float64, device=engine.device)
        to = torch.empty_like(line)
        copied = timed(engine, lambda: to.copy_(line)).low
    finally:
        torch.set_num_threads(before)
    return Roofline(2.0 * n**3 / product, 2 * 8 * line.numel() / copied, flops / moved, flops / kernels)


PEAK = """
import pickle, resource, sys
from pathlib import Path
import torch
model, options, atoms = pickle.load(sys.stdin.buffer)
from dpa1_fast.engine import Engine
engine = Engine(model, **options)
engine.evaluate([atoms])
# Linux's own count begins anew with the program; that of getrusage may still hold what the parent had.
status = Path("/proc/self/status")
told = [x.split() for x in status.read_text().splitlines() if x.startswith("VmHWM")] if status.exists() else []
peak = 1024 * (int(told[0][1]) if told else resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)
print(torch.cuda.max_memory_allocated(engine.device) if engine.device.type == "cuda" else peak)
"""


def memory(model: DPA1, engine: Engine, systems: Sequence[Atoms]) -> Memory:
    """Peak memory of a process of its own for each system."""
    import pickle

    options = {"device": str(engine.device), "backend": engine.backend, "precision": engine.precision}
    peaks = []
    for atoms in systems:
        # Our own objects to our own process: nothing of a stranger's is unpickled.
        given = pickle.dumps((model, options | {"threads": engine.threads}, atoms))
        here = {**os.environ, "PYTHONPATH": os.pathsep.join([str(Path(__file__).parents[2]), *filter(None, sys.path)])}
        done = subprocess.run([sys.executable, "-c", PEAK], input=given, capture_output=True, check=True, env=here)
        peaks.append((len(atoms), int(done.stdout)))
    if engine.device.type == "cuda":
        free = torch.cuda.mem_get_info(engine.device)[0]
    else:
        free = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    return Memory(tuple(peaks), free)
