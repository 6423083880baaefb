"""What others take on the same card: eager autograd over our reference, and DeePMD-kit 3.2.0 by its own interface."""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch

from bench.speed import peer_worker

from . import BARS
from .lines import Log
from .place import Place, structures, verdict
from .schedule import die_with_parent

SETTINGS: dict[str, tuple[str, str, dict[str, str]]] = {
    "attention": ("attention", "pth", {}),
    "no_attention": ("no_attention", "pth", {}),
    "no_attention-triton": ("no_attention", "pt2", {"DP_TRITON_INFER": "2"}),
    "no_attention-cuda": ("no_attention", "pt2", {"DP_CUDA_INFER": "2"}),
    "compressed": ("compressed", "pth", {}),
    "compressed-cuda": ("compressed", "pt2", {"DP_CUDA_INFER": "2"}),
    "attention-compiled": ("attention", "pt2", {}),
    "no_attention-triton3": ("no_attention", "pt2", {"DP_TRITON_INFER": "3"}),
}
"""Name → model, its form, environment. TorchScript (pth) as frozen; AOTInductor (pt2) compiled on the card itself, with
DeePMD-kit's own kernels asked for where it has any for that model: they are for models without attention."""
CASES = ("water12288", "water1536")


def eager(place: Place, log: Log, precision: str) -> None:
    """Our reference formulas under torch's autograd."""
    model = place.model()
    engine = place.engine(model, precision, backend="reference")
    for case in place.cases(("water192", "water1536")):
        batch = place.batch(model, case).to(place.device)
        found = engine.run(batch)
        judged = verdict(found, place.judge(case), BARS[precision])
        card, _ = place.timed(lambda batch=batch: engine.run(batch), repeats=5 if place.on_card else 1)
        log.say(
            f"eager-{precision}", case=case, precision=precision, atoms=batch.n_atoms, us_per_atom=card / batch.n_atoms,
            **judged,
        )  # fmt: skip


def peer(place: Place, log: Log, setting: str) -> None:
    """DeePMD-kit in one setting, float32, and our engine on the same model file and structures.

    Both are timed from coordinates to forces, lists and all; ours besides on a batch that lies on the card.
    """
    step = f"peer-{setting}"
    name, form, environment = SETTINGS[setting]
    source = place.data / "peer" / f"{name}.pth"
    site = os.environ.get("FIRST_LIGHT_PEER", "")
    if not source.exists() or not Path(site, "deepmd").is_dir():
        log.say(
            step, said="the kit has neither DeePMD-kit nor this model" if not site else f"no {source.name} in the kit"
        )
        return
    environment = {**os.environ, **environment, "PYTHONPATH": os.pathsep.join([site, os.environ["PYTHONPATH"]])}
    if not place.on_card:
        environment["DEVICE"] = "cpu"
    model = source
    if form == "pt2":
        model = place.scratch / f"{setting}.pt2"
        began = time.perf_counter()
        command = [sys.executable, "-m", "deepmd", "--pt-expt", "convert-backend", str(source), str(model)]
        run = subprocess.run(
            command, env=environment, cwd=place.scratch, capture_output=True, text=True, preexec_fn=die_with_parent
        )
        if run.returncode or not model.exists():
            raise RuntimeError(f"{' '.join(command[2:])}: {run.stderr.strip()[-500:]}")
        log.say(step, compiled_s=round(time.perf_counter() - began, 1))
    for case in place.cases(CASES):
        file = _frames(place, case)
        found, seconds = _deepmd(place, model, file, environment)
        ours = _ours(place, source, case, found)
        log.say(
            step, model=name, form=form, settings=SETTINGS[setting][2], case=case, precision="float32",
            us_per_atom=1e6 * seconds / len(found), **ours,
        )  # fmt: skip


def _frames(place: Place, case: str) -> Path:
    """A case as ``peer_worker`` reads it."""
    arrays: dict[str, Any] = {}
    for k, atoms in enumerate(structures(case)):
        arrays[f"{k}.coord"] = atoms.positions
        arrays[f"{k}.cell"] = atoms.cell.array if atoms.pbc.all() else np.zeros((0, 3))
        arrays[f"{k}.type"] = np.array([("O", "H").index(s) for s in atoms.symbols])
    file = place.scratch / f"frames_{case}.npz"
    np.savez(file, count=np.array(len(structures(case))), **arrays)
    return file


def _deepmd(place: Place, model: Path, frames: Path, environment: Mapping[str, str]) -> tuple[np.ndarray, float]:
    """DeePMD-kit's forces (n, 3) eV/Å and the median seconds of an evaluation, in a process of its own."""
    job = json.dumps({"engine": "deepmd", "model": str(model), "structures": str(frames), "threads": 8})
    out = place.scratch / "peer_forces.npz"
    log = (place.scratch / "peer.log").open("w", encoding="utf-8")
    with subprocess.Popen(
        [sys.executable, peer_worker.__file__, job], stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=log,
        text=True, env=environment, cwd=place.scratch, preexec_fn=die_with_parent,
    ) as worker:  # fmt: skip
        assert worker.stdin is not None
        assert worker.stdout is not None

        def ask(command: str) -> Any:
            if command:
                print(command, file=worker.stdin, flush=True)
            line = worker.stdout.readline()
            if not line:
                raise RuntimeError(f"DeePMD-kit stopped: {Path(log.name).read_text(encoding='utf-8')[-500:]}")
            return json.loads(line)

        ask("")
        ask("time")  # the first compiles and fills caches
        seconds = statistics.median(ask("time") for _ in range(3 if place.on_card else 1))
        ask(f"save {out}")
        worker.stdin.close()
    with np.load(out) as arrays:
        n = sum(k.endswith(".force") for k in arrays.files)
        return np.concatenate([arrays[f"{k}.force"] for k in range(n)]), seconds


def _ours(place: Place, source: Path, case: str, theirs: np.ndarray) -> dict[str, Any]:
    """The same by our engine in float32."""
    from bench.speed.gpu import prepare
    from dpa1_fast import load
    from dpa1_fast.checkpoint import read_model

    atoms = structures(case)
    engine = load(str(source), device=place.device, backend="triton", precision="float32")
    results = engine.evaluate(atoms)
    _, host = place.timed(lambda: engine.evaluate(atoms), repeats=5 if place.on_card else 1)
    batch = prepare(read_model(source).model, atoms).to(torch.device(place.device))
    card, _ = place.timed(lambda: engine.run(batch), repeats=5 if place.on_card else 1)
    forces = np.concatenate([r.forces for r in results])
    off = float(np.sqrt(np.mean((forces - theirs) ** 2) / np.mean(theirs**2)))
    n = len(theirs)
    return {"atoms": n, "ours_us_per_atom": host / n, "ours_on_card_us_per_atom": card / n, "force_difference": off}
