"""One training, from a pretrained model or from scratch, and its errors on test data."""

from __future__ import annotations

import json
import shutil
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

from dpa1_fast import DPA1, Engine
from dpa1_fast.checkpoint import read_model
from dpa1_fast.config import DPA1Config
from dpa1_fast.testing.command import tested
from dpa1_fast.train.command import started
from dpa1_fast.train.data import elements
from dpa1_fast.train.finetune import FinetuneOptions, begin, rate_for, ready
from dpa1_fast.train.loop import Loop
from dpa1_fast.train.options import BatchOptions, DataOptions, LossOptions, Options, ScheduleOptions
from dpa1_fast.train.prepare import prepare

BATCH_ATOMS = 96
FROM_SCRATCH = 2e-3
"""The first learning rate."""


def rate_of(start: str, samples: int) -> float:
    """The first learning rate: of a pretrained model that which ``dpa1-fast finetune`` takes."""
    return FROM_SCRATCH if start == "scratch" else round(rate_for(samples), 6)


def options(config: DPA1Config, train: Path, steps: int, seed: int, rate: float) -> Options:
    """The same for all but the first learning rate: Adam, cosine, energies and forces, the average of parameters."""
    return Options(
        model=config,
        train=DataOptions((str(train),), BatchOptions("atoms", BATCH_ATOMS)),
        loss=LossOptions(energy=(5.0, 50.0), force=(10.0, 5.0), intensive=True),
        schedule=ScheduleOptions(kind="cosine", start_lr=rate, stop_lr=1e-6),
        steps=steps,
        seed=seed,
        display=steps,
        save=500,
        keep=1,
        clip=10.0,
        ema=0.99,
    )


def trained(
    model: Path, train: Path, steps: int, seed: int, start: str, rate: float, folder: Path, **changes: Any
) -> DPA1:
    """A model trained on a file of structures; a killed training goes on where its folder stands.

    Args:
        model: pretrained; from scratch its hyper-parameters count. changes: of these.
    """
    with started(folder, "cpu", None, False) as here:
        if start == "pretrained":
            began = begin(str(model), None, (str(train),), "neighbors")
            asked = options(began.model.config, train, steps, seed, rate)
            prepared = ready(began, asked, FinetuneOptions(), "auto", True)
        else:
            config = replace(read_model(model).model.config, type_map=elements([str(train)]), **changes)
            prepared = prepare(options(config, train, steps, seed, rate))
        loop = Loop(prepared, folder, here)
        loop.run()
    assert loop.average is not None
    return loop.average.model


def judged(model: DPA1, test: Path) -> dict[str, float]:
    """Errors on a file: meV/Å and meV/atom, and the labels' RMS force."""
    errors = tested(Engine(model, precision="float32"), [str(test)], None)[0].whole.errors()
    return {
        "force": round(1e3 * errors["rmse_f"], 2),
        "energy": round(1e3 * errors["rmse_ea"], 2),
        "rms_force": round(1e3 * errors["rms_f"], 2),
    }


class Clock:
    """Processor seconds of a run, those of earlier starts too, which are kept in its folder."""

    def __init__(self, folder: Path) -> None:
        self.path = folder / "seconds.json"
        self._before = json.loads(self.path.read_text()) if self.path.exists() else 0.0
        self._began = time.process_time()

    def read(self) -> float:
        """Up to now."""
        found: float = round(self._before + time.process_time() - self._began, 1)
        self.path.parent.mkdir(parents=True, exist_ok=True)
        self.path.write_text(json.dumps(found))
        return found


def forget(folder: Path) -> None:
    """What a finished run left: its line says all."""
    shutil.rmtree(folder, ignore_errors=True)
