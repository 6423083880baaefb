"""One engine in a process of its own, evaluating whenever it is told to; see ``bench/speed/peer.py``.

    python bench/speed/peer_worker.py '{"engine": "deepmd" or "dpa1_fast", "model": …, "structures": …, …}'

Commands come in on standard input, a line each, and are answered by a line of JSON: ``time`` evaluates everything for a
spell (mean seconds of one evaluation), ``save PATH`` writes the last results, ``memory`` tells the most memory ever
resident (bytes), ``sgemm`` the machine's rate of float32 products (operations per second).
"""

from __future__ import annotations

import json
import os
import resource
import sys
import time
from collections.abc import Callable
from typing import Any

import numpy as np

SPELL = 0.5
"""Seconds for which evaluations are repeated: a process that has just woken up is slow for a few milliseconds."""

Structure = dict[str, np.ndarray]
Results = list[dict[str, np.ndarray]]


def structures(path: str) -> list[Structure]:
    """What ``peer.py`` wrote: coord (n, 3) Å, cell (3, 3) Å or (0, 3), type (n,)."""
    with np.load(path) as file:
        count = int(file["count"])
        return [{k: file[f"{i}.{k}"] for k in ("coord", "cell", "type")} for i in range(count)]


def deepmd(job: dict[str, Any], frames: list[Structure]) -> Callable[[], Results]:
    """DeePMD-kit: one structure after another, as its own interface has it."""
    from deepmd.infer import DeepPot

    model = DeepPot(job["model"])

    def run() -> Results:
        out = []
        for a in frames:
            cell = a["cell"].reshape(1, 9) if a["cell"].size else None
            e, f, v = model.eval(a["coord"][None], cell, a["type"])[:3]
            out.append({"energy": e.ravel(), "force": f[0], "virial": v.ravel()})
        return out

    return run


def dpa1_fast(job: dict[str, Any], frames: list[Structure]) -> Callable[[], Results]:
    """Our engine: all structures in one call."""
    import torch
    from ase import Atoms

    before = time.perf_counter()
    from dpa1_fast import load

    imported = time.perf_counter()
    engine = load(job["model"], threads=job["threads"], **job.get("options", {}))
    loaded = time.perf_counter()
    job["seconds"] = {"import": imported - before, "load": loaded - imported}
    torch.set_num_threads(job["threads"])
    symbols = np.array(engine.config.type_map)
    cells = [a["cell"] if a["cell"].size else None for a in frames]
    atoms = [
        Atoms(symbols[a["type"]], a["coord"], cell=cell, pbc=cell is not None)
        for a, cell in zip(frames, cells, strict=True)
    ]

    def run() -> Results:
        results = engine.evaluate(atoms)
        return [{"energy": np.array([r.energy]), "force": r.forces, "virial": r.virial.ravel()} for r in results]

    return run


def sgemm() -> float:
    """Operations per second of a float32 product of two matrices of 2048²; the median of five."""
    import torch

    a, b, out = (torch.ones(2048, 2048) for _ in range(3))
    seconds = []
    for _ in range(5):
        before = time.perf_counter()
        torch.mm(a, b, out=out)
        seconds.append(time.perf_counter() - before)
    return 2 * 2048**3 / float(np.median(seconds))


def main() -> None:
    """Answers commands until standard input ends."""
    # Whatever the engines print goes to standard error; the answers have the old standard output to themselves.
    answers = os.fdopen(os.dup(1), "w", buffering=1, encoding="utf-8")
    os.dup2(2, 1)
    job = json.loads(sys.argv[1])
    run = {"deepmd": deepmd, "dpa1_fast": dpa1_fast}[job["engine"]](job, structures(job["structures"]))
    print(json.dumps({"ready": True, **job.get("seconds", {})}), file=answers)
    results: Results = []
    for line in sys.stdin:
        command, _, argument = line.strip().partition(" ")
        if command == "time":
            before, count = time.perf_counter(), 0
            while count == 0 or time.perf_counter() - before < SPELL:
                results = run()
                count += 1
            answer: Any = (time.perf_counter() - before) / count
        elif command == "save":
            np.savez(argument, **{f"{i}.{k}": x for i, r in enumerate(results) for k, x in r.items()})
            answer = argument
        elif command == "sgemm":
            answer = sgemm()
        else:
            answer = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
        print(json.dumps(answer), file=answers)


if __name__ == "__main__":
    main()
