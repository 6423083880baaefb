"""DeePMD-kit on the same model and systems, in a Python of its own.

As a program (``python peer.py MODEL NUMBERS.npz``, by that other Python) it imports nothing of dpa1-fast.
"""

from __future__ import annotations

import json
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

ROUNDS = 3


class PeerError(RuntimeError):
    """DeePMD-kit could not be run; the message says why."""


def times(python: str, model: Any, systems: Sequence[Any], threads: int) -> list[tuple[float, float]]:
    """Seconds of an evaluation and the energy (eV) of each system by DeePMD-kit.

    Args:
        python: an interpreter that has deepmd. model: a ``DPA1``. systems: ``ase.Atoms``, periodic.

    Raises:
        PeerError: it cannot be run, or does not know the model.
    """
    import os

    from ..checkpoint import write_model

    with tempfile.TemporaryDirectory(prefix="dpa1-fast-") as folder:
        path = Path(folder) / "model.dp"
        write_model(model, path)
        types = [[model.config.type_map.index(s) for s in a.get_chemical_symbols()] for a in systems]
        arrays = {f"{k}.{n}": v for k, a in enumerate(systems) for n, v in _arrays(a, types[k]).items()}
        np.savez(Path(folder) / "systems.npz", **arrays)
        names = ("OMP_NUM_THREADS", "DP_INTRA_OP_PARALLELISM_THREADS", "DP_INTER_OP_PARALLELISM_THREADS")
        environment = {**os.environ, **dict.fromkeys(names, str(threads)), "PYTHONPATH": ""}
        command = [python, str(Path(__file__)), str(path), str(Path(folder) / "systems.npz")]
        try:
            done = subprocess.run(command, capture_output=True, text=True, env=environment, cwd=folder)
        except OSError as error:
            raise PeerError(f"{python}: {error.strerror}") from None
        found = [json.loads(x[5:]) for x in done.stdout.splitlines() if x.startswith("PEER ")]
        if len(found) != len(systems):
            last = (done.stderr.strip() or done.stdout.strip() or "no word").splitlines()[-1]
            raise PeerError(f"DeePMD-kit in {python} gave up: {last[:300]}")
        return [(float(s), float(e)) for s, e in found]


def _arrays(atoms: Any, types: Sequence[int]) -> dict[str, Any]:
    return {"coord": atoms.positions, "cell": np.asarray(atoms.cell[:]), "type": np.asarray(types)}


def _main(model: str, numbers: str) -> None:
    from deepmd.infer import DeepPot  # type: ignore[import-not-found]

    potential = DeepPot(model)
    with np.load(numbers) as file:
        for k in range(len(file.files) // 3):
            coord, cell = file[f"{k}.coord"].reshape(1, -1), file[f"{k}.cell"].reshape(1, -1)
            types = file[f"{k}.type"].tolist()
            energy = float(np.ravel(potential.eval(coord, cell, types)[0])[0])
            took = []
            for _ in range(ROUNDS):
                began = time.perf_counter()
                potential.eval(coord, cell, types)
                took.append(time.perf_counter() - began)
            print("PEER " + json.dumps([statistics.median(took), energy]), flush=True)


if __name__ == "__main__":
    _main(*sys.argv[1:])
