"""Relaxes structures one by one with ASE's FIRE and DeePMD-kit's own calculator; runs in DeePMD-kit's environment.

build/peer/bin/python bench/speed/relax_peer.py MODEL.dp STRUCTURES.extxyz OUT.json FMAX STEPS THREADS
"""

from __future__ import annotations

import json
import os
import sys
import time
from typing import Any


def main(model: str, structures: str, out: str, fmax: float, steps: int, threads: int) -> None:
    os.environ["OMP_NUM_THREADS"] = os.environ["DP_INTRA_OP_PARALLELISM_THREADS"] = str(threads)
    os.environ["DP_INTER_OP_PARALLELISM_THREADS"] = "1"
    from ase.io import read
    from ase.optimize import FIRE
    from deepmd.calculator import DP
    from deepmd.entrypoints.convert_backend import convert_backend

    # A .dp runs on numpy there; TorchScript is what it is fast in.
    convert_backend(INPUT=model, OUTPUT=model + ".pth")
    calc = DP(model + ".pth")

    def relax(atoms: Any) -> tuple[float, int]:
        atoms.calc = calc
        optimizer = FIRE(atoms, logfile=None)
        optimizer.run(fmax=fmax, steps=steps)
        return float(atoms.get_potential_energy()), optimizer.nsteps

    todo = read(structures, index=":")
    relax(todo[0].copy())  # to get warm
    began, spent = time.perf_counter(), time.process_time()
    done = [relax(atoms) for atoms in todo]
    seconds, spent = time.perf_counter() - began, time.process_time() - spent
    report = {"seconds": seconds, "cpu_seconds": spent, "energies": [e for e, _ in done], "steps": [n for _, n in done]}
    with open(out, "w", encoding="utf-8") as file:
        json.dump(report, file)


if __name__ == "__main__":
    main(*sys.argv[1:4], float(sys.argv[4]), int(sys.argv[5]), int(sys.argv[6]))
