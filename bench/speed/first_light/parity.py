"""Is it right, and is it the same every time?"""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import numpy as np

from . import BARS
from .lines import Log
from .place import PARITY, Place, verdict

REPEATS = 20
DEEPMD_BARS = {"float64": 1e-8, "float32": 1e-4}
"""Largest difference from what DeePMD-kit wrote, over the largest value and at least 1; its own two routes
agree to 5e-13 and 2e-5."""


def evaluations(place: Place, log: Log, precision: str) -> None:
    """Whole evaluations in one precision against forces in float64 that were made elsewhere."""
    for name, cases in (("attention", PARITY), ("no_attention", PARITY[:1])):
        model = place.model(name)
        for case in place.cases(cases):
            judge = place.judge(case, name)
            batch = place.batch(model, case).to(place.device)
            began = time.perf_counter()
            engine = place.engine(model, precision)
            found = engine.run(batch)
            place.wait()
            first = time.perf_counter() - began
            log.say(
                f"evaluations-{precision}", model=name, case=case, precision=precision, atoms=batch.n_atoms,
                first_call_s=round(first, 2), **verdict(found, judge, BARS[precision]),
            )  # fmt: skip


def repeats(place: Place, log: Log, precision: str) -> None:
    """The same batch again and again: no kernel has atomics, so a bit that differs is a race."""
    import torch

    model = place.model()
    for case in place.cases(("water192", "molecules64")):
        batch = place.batch(model, case).to(place.device)
        engine = place.engine(model, precision)
        first = engine.run(batch)
        n = REPEATS if place.on_card else 1
        other = [_same_bits(torch, engine.run(batch), first) for _ in range(n)].count(False)
        log.say(f"repeats-{precision}", case=case, precision=precision, repeats=n, other_bits=other, right=other == 0)


def _same_bits(torch: Any, a: Any, b: Any) -> bool:
    return all(torch.equal(x, y) for x, y in zip(a, b, strict=True))


def deepmd(place: Place, log: Log, precision: str) -> None:
    """Files that DeePMD-kit 3.2.0 wrote, and what it made of structures; where the kit has them."""
    from dpa1_fast import DeepPot

    folders = sorted((place.data / "deepmd").glob("*/cases.npz"))
    if not folders:
        log.say(f"deepmd-{precision}", said="the kit has no cases of DeePMD-kit's")
    for file in folders if place.on_card else folders[:1]:
        began, bar = time.perf_counter(), DEEPMD_BARS[precision]
        path = next(p for name in ("model.dp", "model.pth") if (p := file.parent / name).exists())
        potential = DeepPot(str(path), device=place.device, backend="triton", precision=precision)
        off = {}
        for name, case in read_cases(file).items() if place.on_card else [*read_cases(file).items()][:1]:
            try:
                off[name] = difference(potential, case)
            except Exception as error:  # one structure must not hide the others; it counts as wrong
                off[name] = float("nan")
                log.say(
                    f"deepmd-{precision}",
                    model=file.parent.name,
                    case=name,
                    error=f"{type(error).__name__}: {error}"[:300],
                )
        wrong = {k: v for k, v in off.items() if not v <= bar}
        log.say(
            f"deepmd-{precision}", model=file.parent.name, precision=precision, cases=len(off), limit=bar, wrong=wrong,
            worst=max(off.values()), right=not wrong, seconds=round(time.perf_counter() - began, 1),
        )  # fmt: skip


def read_cases(file: Path) -> dict[str, dict[str, np.ndarray]]:
    """The structures of an .npz whose keys are ``case.array``."""
    with np.load(file) as arrays:
        out: dict[str, dict[str, np.ndarray]] = {}
        for key in arrays.files:
            name, _, what = key.partition(".")
            out.setdefault(name, {})[what] = arrays[key]
        return out


def difference(potential: Any, case: dict[str, np.ndarray]) -> float:
    """The largest of energy's, forces' and virial's, each over its largest value and at least 1."""
    cell = case["cell"].reshape(1, 9) if case["cell"].size else None
    found = potential.eval(
        case["coord"][None], cell, case["type"], fparam=case.get("fparam"), aparam=case.get("aparam")
    )
    pairs = zip(found[:3], (case["energy"], case["force"], case["virial"]), strict=True)
    return max(float(np.abs(a[0] - b).max() / max(np.abs(b).max(), 1.0)) for a, b in pairs)
