"""The steps of a training, from wherever its newest checkpoint stands to the end."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from .. import __version__
from ..checkpoint import write_model
from . import checkpoint, picture
from .adapters import merged
from .distributed import World, trainable
from .ema import Average
from .lcurve import Curve
from .loss import SHORT, TERMS, Errors, errors, prefactors, total
from .optimizer import Optimizers
from .options import TrainingError
from .prepare import Prepared
from .schedule import learning_rate
from .validation import Measured, detached, measured, validate, whole

CHECKPOINTS, CURVE, VALIDATIONS, PICTURE = "checkpoints", "lcurve.out", "val.log", "loss.png"
BEST = {"model": "best.safetensors", "ema": "best_ema.safetensors"}
"""What validation found best, of the model and of its average."""
WHOLE_BATCH = 1024
"""Atoms that are evaluated at a time where all of the validation data is."""


@dataclass(frozen=True)
class Shown:
    """What is told of a training on the way: the step, its learning rate, and errors as they were measured."""

    step: int
    steps: int
    rate: float
    trained: Measured | None
    valid: Measured | None


class Loop:
    """A training in its folder.

    Args:
        prepared: options, data and model; the model is trained in place.
        backend: see ``predict``. factors: see ``Optimizers``.

    Raises:
        TrainingError: the folder holds a training of other options.
    """

    def __init__(
        self,
        prepared: Prepared,
        folder: Path,
        world: World,
        backend: str = "auto",
        factors: dict[str, float] | None = None,
    ) -> None:
        self.prepared, self.options, self.folder, self.world = prepared, prepared.options, folder, world
        self.backend = backend
        self.model = prepared.model.to(world.device)
        self.rate = learning_rate(self.options.schedule, self.options.steps)
        self.optimizers = Optimizers(self.model, self.options.optimizer, factors)
        self.average = None if self.options.ema is None else Average(self.model, self.options.ema)
        self.step, self.best = 0, dict[str, float]()
        self._fingerprint = json.dumps(self.options.fingerprint, sort_keys=True)
        self._go_on()
        self.module = trainable(self.model, backend, world)
        self.used = [name for name in TERMS if self.options.loss.uses(name)]

    # --- checkpoints --------------------------------------------------------------------------------------------------

    def _go_on(self) -> None:
        state = checkpoint.newest(self.folder / CHECKPOINTS)
        if state is None:
            return
        if state["fingerprint"] != self._fingerprint:
            raise TrainingError(f"{self.folder}: holds a training of other options; take another folder or --overwrite")
        self.model.load_state_dict(state["model"])
        self.optimizers.load_state_dict(state["optimizers"])
        if self.average is not None:
            self.average.averaged.load_state_dict(state["average"])
        self.step, self.best = state["step"], state["best"]

    def _save(self) -> None:
        if self.world.first:
            state: dict[str, Any] = {
                "version": __version__,
                "fingerprint": self._fingerprint,
                "step": self.step,
                "best": self.best,
                "model": self.model.state_dict(),
                "optimizers": self.optimizers.state_dict(),
                "average": None if self.average is None else self.average.averaged.state_dict(),
            }
            checkpoint.save(self.folder / CHECKPOINTS, self.step, state, self.options.keep)
        self.world.wait()

    # --- the steps ----------------------------------------------------------------------------------------------------

    def run(self, tell: Callable[[Shown], None] = lambda _: None) -> None:
        """Trains to the end; what is shown goes to ``tell`` and the curve's file.

        Raises:
            TrainingError: the loss is not finite any more.
        """
        curve = Curve(self.folder / CURVE, self.step) if self.world.first else None
        validations = Curve(self.folder / VALIDATIONS, self.step) if self.world.first else None
        try:
            while self.step < self.options.steps:
                rate, trained = self._take_step()
                shown = self.step == 1 or self.step % self.options.display == 0 or self.step == self.options.steps
                last = self.step == self.options.steps
                if shown:
                    found = self._measured(trained, rate)
                    valid = self._glance(rate)
                    if curve is not None:
                        curve.write(self.step, self._columns(found, valid), rate)
                    tell(Shown(self.step, self.options.steps, rate, found, valid))
                else:
                    tell(Shown(self.step, self.options.steps, rate, None, None))
                if self.step % self.options.validate == 0 or last:
                    self._validate(validations, rate)
                if self.step % self.options.save == 0 or last:
                    self._save()
        finally:
            for log in (curve, validations):
                if log is not None:
                    log.close()
        if self.world.first:
            self._finish()

    def _take_step(self) -> tuple[float, Errors]:
        rate = self.rate(self.step)
        self.optimizers.set_learning_rate(rate)
        chosen = self.prepared.order(self.step * self.world.size + self.world.rank)
        batch, labels = self.prepared.train.batch(chosen)
        batch, labels = batch.to(self.world.device), labels.to(self.world.device)
        prediction = self.module(batch)
        sums = errors(self.options.loss, prediction, labels, batch)
        weights = prefactors(self.options.loss, rate / self.options.schedule.start_lr)
        # DistributedDataParallel divides by the number of processes; what stands here is divided by counts of them all.
        loss = total(sums, self.world.sum(sums.counts), weights) * self.world.size
        if self.world.size > 1:  # it waits for a gradient of each parameter, also where a term is not used
            loss = loss + 0.0 * (prediction.energy.sum() + prediction.forces.sum())
        self.optimizers.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        if not math.isfinite(float(loss.detach())):
            names = ", ".join(self.prepared.train.samples[k].name for k in chosen[:3])
            told = f"step {self.step + 1}: the loss is not finite (batch of {names} …)"
            raise TrainingError(f"{told}; look at these structures, lower start_lr or set gradient_max_norm")
        if self.options.clip is not None:
            torch.nn.utils.clip_grad_norm_(self.optimizers.parameters, self.options.clip)
        self.optimizers.step()
        if self.average is not None:
            self.average.update(self.model)
        self.step += 1
        return rate, detached(sums)

    # --- looking at it ------------------------------------------------------------------------------------------------

    def _measured(self, sums: Errors, rate: float) -> Measured:
        summed = Errors(*(self.world.sum(x) for x in sums))
        return measured(summed, prefactors(self.options.loss, rate / self.options.schedule.start_lr))

    def _glance(self, rate: float) -> Measured | None:
        """Errors over a few validation batches."""
        data, order = self.prepared.valid, self.prepared.valid_order
        if data is None or order is None or self.options.valid is None or not self.world.first:
            return None
        count = self.options.valid.count
        if count is None:
            batches = whole(data, WHOLE_BATCH)
        else:
            turn = self.step // self.options.display
            batches = [order(turn * count + k) for k in range(count)]
        return validate(self.model, data, batches, self.options.loss, self._share(rate), self.backend)

    def _share(self, rate: float) -> float:
        return rate / self.options.schedule.start_lr

    def _columns(self, trained: Measured, valid: Measured | None) -> dict[str, float]:
        told = trained.columns(self.used)
        if valid is None:
            return {f"{k}_trn": v for k, v in told.items()}
        checked = valid.columns(self.used)
        return {f"{k}{end}": x[k] for k in told for end, x in (("_val", checked), ("_trn", told))}

    def _validate(self, log: Curve | None, rate: float) -> None:
        """Errors over all validation data, of the model and of its average; the best of each are kept as files."""
        data = self.prepared.valid
        if data is None or not self.world.first:
            return
        models = {"model": self.model} | ({} if self.average is None else {"ema": self.average.model})
        columns: dict[str, float] = {}
        for name, model in models.items():
            # Prefactors of the end: what is best does not depend on when it was measured.
            found = validate(model, data, whole(data, WHOLE_BATCH), self.options.loss, 0.0, self.backend)
            prefix = "" if name == "model" else "ema_"
            for term in self.used:
                columns[f"{prefix}rmse_{SHORT[term]}"] = found.rmse[term]
                columns[f"{prefix}mae_{SHORT[term]}"] = found.mae[term]
            value = found.metric(self.options.metric)
            if math.isfinite(value) and value < self.best.get(name, math.inf):
                self.best[name] = value
                told = f"best in validation ({self.options.metric} {value:.4g}) at step {self.step}"
                write_model(merged(model), self.folder / BEST[name], told)
        if log is not None:
            log.write(self.step, columns, rate)

    def _finish(self) -> None:
        told = f"trained for {self.options.steps} steps"
        for suffix in (".safetensors", ".dp"):
            write_model(merged(self.model), self.folder / f"model{suffix}", told)
            if self.average is not None:
                write_model(merged(self.average.model), self.folder / f"model_ema{suffix}", f"{told}, average")
        picture.draw(self.folder / CURVE, self.folder / PICTURE)
