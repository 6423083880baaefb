"""What steps share: the kit's models and judged cases, and engines on the card."""

from __future__ import annotations

import os
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    import torch

    from dpa1_fast import DPA1, Engine
    from dpa1_fast.structures.batch import Batch

PARITY = ("water192", "molecules64", "metal256")
SIZES = ("water192", "water1536", "water12288", "molecules64")
LARGEST = "water98304"
FULL = "water12288"
"""Enough atoms to keep any card busy: what kernels are timed on."""
TINY = "tiny9"
"""One cluster of nine atoms, for a rehearsal in Triton's interpreter."""
MODELS = {"attention": {}, "no_attention": {"attn_layer": 0}}
"""What differs from the se_atten example, by name."""


@dataclass(frozen=True)
class Place:
    """Where things are.

    Attributes:
        data: the kit's. out: where results go. scratch: for what nobody needs afterwards. device: "cuda:0" or "cpu".
    """

    data: Path
    out: Path
    scratch: Path
    device: str

    @property
    def on_card(self) -> bool:
        """False in a rehearsal."""
        return self.device != "cpu"

    def cases(self, names: tuple[str, ...]) -> tuple[str, ...]:
        """These, or in a rehearsal the tiny one."""
        return names if self.on_card else (TINY,)

    def model(self, name: str = "attention") -> DPA1:
        """A model of the kit's, see ``MODELS``."""
        from dpa1_fast.checkpoint import read_model

        return read_model(self.data / f"{name}.safetensors").model

    def batch(self, model: DPA1, case: str) -> Batch:
        """A case's structures as a batch on the CPU."""
        from bench.speed.gpu import prepare

        return prepare(model, structures(case))

    def engine(self, model: DPA1, precision: str, backend: str = "triton", **options: Any) -> Engine:
        """Ours, on the card."""
        from dpa1_fast import Engine

        return Engine(model, device=self.device, backend=backend, precision=precision, **options)

    def judge(self, case: str, model: str = "attention") -> dict[str, np.ndarray] | None:
        """What a case is judged by, in float64: energies (n,) eV, forces (n, 3) eV/Å, virials (S, 3, 3) eV, spread."""
        file = self.data / f"judge_{model}_{case}.npz"
        if not file.exists():
            return None
        with np.load(file) as arrays:
            return dict(arrays)

    # --- the card's clock ---------------------------------------------------------------------------------------------

    def wait(self) -> None:
        """Until the card has done all it was asked for."""
        if self.on_card:
            import torch

            torch.cuda.synchronize(self.device)

    def timed(self, call: Callable[[], Any], repeats: int = 15, spell: float = 2.5) -> tuple[float, float]:
        """Median µs of at least three calls by the card's clock and by the host's, for about ``spell`` seconds."""
        import torch

        from bench.speed.gpu import seconds_on

        device, end = torch.device(self.device), time.perf_counter() + spell
        card, host = [], []
        while len(card) < repeats and (len(card) < 3 or time.perf_counter() < end):
            before = time.perf_counter()
            card.append(1e6 * seconds_on(device, call))
            host.append(1e6 * (time.perf_counter() - before))
        return statistics.median(card), statistics.median(host)


@cache
def structures(case: str) -> list[Any]:
    """A named system of ``bench/cases.py``, or the tiny one."""
    from bench import cases

    return cases.molecules(1) if case == TINY else cases.CASES[case].build()


def errors(found: Any, judge: dict[str, np.ndarray]) -> dict[str, Any]:
    """How far results are from the judge's.

    Args:
        found: energies, dE/dd, forces, virials, as an evaluator returns them.

    Returns:
        force: RMS over the RMS force. energy: eV per atom, over all atoms. virial: the largest over the largest.
    """
    picked = (found[0], found[2], found[3])
    energies, forces, virials = (np.asarray(x.detach().cpu(), dtype=np.float64) for x in picked)
    rms = np.sqrt(np.mean(judge["forces"] ** 2))
    return {
        "force": float(np.sqrt(np.mean((forces - judge["forces"]) ** 2)) / rms),
        "energy": float(abs(energies.sum() - judge["energies"].sum()) / len(energies)),
        "virial": float(np.abs(virials - judge["virials"]).max() / max(1e-30, np.abs(judge["virials"]).max())),
        "finite": bool(np.isfinite(forces).all() and np.isfinite(energies).all() and np.isfinite(virials).all()),
    }


def verdict(found: Any, judge: dict[str, np.ndarray] | None, bar: float) -> dict[str, Any]:
    """Errors, the limit and whether they keep to it; nothing where there is no judge.

    Forces of a hard softmax are no surer than ``spread`` (see ``bench/speed/gpu.py``): no bar is below that.
    """
    if judge is None:
        return {}
    off, limit = errors(found, judge), max(bar, float(judge["spread"]))
    return {"limit": limit, "right": bool(off["finite"] and off["force"] <= limit), **off}


def device_of(place: Place) -> torch.device:
    """As torch has it."""
    import torch

    return torch.device(place.device)


def cores() -> int:
    """Processors that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
