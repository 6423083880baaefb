"""Whole jobs: screening from files to a table, start-up, memory."""

from __future__ import annotations

import atexit
import os
import shutil
import subprocess
import sys
import tempfile
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from ase.build import bulk
from ase.io import write

import dpa1_fast

from .benchmark import Benchmark, Wrong, register

MODEL = "almgcu-demo"
PEAK = """
import sys
from pathlib import Path
import dpa1_fast
from bench.cases import CASES, model
engine = dpa1_fast.Engine(model(), device="cpu", precision="float32", threads=1)
engine.evaluate(CASES[sys.argv[1]].build())
# What getrusage says may still hold what the parent had.
told = [x.split() for x in Path("/proc/self/status").read_text().splitlines() if x.startswith("VmHWM")]
print(int(told[0][1]) / 1024)
"""


def _alloys(count: int) -> list[Any]:
    random = np.random.default_rng(0)
    out = []
    for k in range(count):
        atoms = bulk("Al", "fcc", a=4.0 + 0.2 * random.random(), cubic=True) * (1, 1, 1 + k % 3)
        atoms.symbols[:] = random.choice(["Al", "Mg", "Cu"], len(atoms))
        atoms.rattle(0.05, seed=k)
        out.append(atoms)
    return out


def screening(count: int) -> Benchmark:
    """``dpa1-fast screen`` of an extended XYZ file in this process: from reading to the table, without the page."""
    from dpa1_fast.screening import Options, run

    folder = Path(tempfile.mkdtemp(prefix="dpa1-fast-bench-"))
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    alloys = _alloys(count)
    write(folder / "in.extxyz", alloys)
    options = Options((str(folder / "in.extxyz"),), (MODEL,), folder / "out", report=False, threads=1, overwrite=True)

    def check() -> None:
        import pyarrow.parquet as pq

        run(options)
        table = pq.read_table(folder / "out" / "summary.parquet").to_pydict()
        expected = [r.energy for r in dpa1_fast.load(MODEL, device="cpu", backend="reference").evaluate(alloys[:20])]
        if len(table["energy"]) != count or not np.allclose(table["energy"][:20], expected, atol=1e-3):
            raise Wrong("the summary's energies are not the reference's: no speed")

    return Benchmark(
        lambda: run(options), check, sum(map(len, alloys)), facts={"structures": count, "precision": "float32"}
    )


def _here() -> dict[str, str]:
    return {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}


def started() -> Benchmark:
    """A process that imports the package and loads a model."""
    code = f"import dpa1_fast; dpa1_fast.load({MODEL!r})"
    return Benchmark(lambda: subprocess.run([sys.executable, "-c", code], check=True, env=_here()), lambda: None)


def peak(case: str) -> Benchmark:
    """A process that evaluates a system in float32; ``facts`` has its peak memory."""
    command = [sys.executable, "-c", PEAK, case]

    def run() -> float:
        return float(subprocess.run(command, check=True, env=_here(), capture_output=True, text=True).stdout)

    return Benchmark(run, lambda: None, facts={"peak_mb": round(run())})


def _register() -> None:
    register("screen/2,000 alloys", partial(screening, 2000))
    register("start/import and load", started)
    register("start/evaluate 1,536 atoms", partial(peak, "water1536"))
    register("start/evaluate 98,304 atoms", partial(peak, "water98304"), large=True)


_register()
