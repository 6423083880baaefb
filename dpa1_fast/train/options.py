"""What a training is asked to do, in DeePMD-kit's own names, validated once."""

from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass, field
from typing import Any

from ..config import DPA1Config
from ..errors import DPA1Error

SCHEDULES = ("exp", "cosine", "wsd")
DECAYS = ("inverse_linear", "cosine", "linear")
OPTIMIZERS = ("Adam", "AdamW", "Muon")
LOSSES = ("mse", "mae", "huber")
METRIC_TERMS = {"E": "energy", "F": "force", "V": "virial"}
METRICS = ("loss", *(f"{what}:{how}" for what in METRIC_TERMS for how in ("MAE", "RMSE")))


class TrainingError(DPA1Error, ValueError):
    """A training that cannot begin or go on; one line that names the option or the data, and the remedy."""


def _positive(name: str, value: float) -> None:
    if not (math.isfinite(value) and value > 0):
        raise TrainingError(f"{name} is {value!r}; it must be a positive number")


def _at_least(name: str, value: float, low: float) -> None:
    if not (math.isfinite(value) and value >= low):
        raise TrainingError(f"{name} is {value!r}; it must be at least {low:g}")


def _one_of(name: str, value: Any, known: tuple[str, ...]) -> None:
    if value not in known:
        raise TrainingError(f"{name} is {value!r}; known are {', '.join(known)}")


@dataclass(frozen=True)
class LossOptions:
    """DeePMD-kit's energy loss; each prefactor runs from start to limit as the learning rate falls to nothing.

    Attributes:
        energy, force, virial, atomic: (start, limit) prefactors; a term with one of them zero is left out.
        kind: ``mse``, ``mae`` or ``huber``. huber_delta: of energy (eV/atom), force (eV/Å) and virial (eV/atom).
        norm: of forces: the length of each atom's error instead of its components (mae and huber).
        intensive: energy and virial per atom squared (1/N²), not DeePMD-kit's older 1/N.
        relative_force: eV/Å; force errors are divided by the label's length plus this.
    """

    energy: tuple[float, float] = (0.02, 1.0)
    force: tuple[float, float] = (1000.0, 1.0)
    virial: tuple[float, float] = (0.0, 0.0)
    atomic: tuple[float, float] = (0.0, 0.0)
    kind: str = "mse"
    huber_delta: tuple[float, float, float] = (0.01, 0.01, 0.01)
    norm: bool = False
    intensive: bool = False
    relative_force: float | None = None

    def __post_init__(self) -> None:
        for name in ("energy", "force", "virial", "atomic"):
            for value in getattr(self, name):
                _at_least(f"the prefactor of {name}", value, 0.0)
        _one_of("the kind of loss", self.kind, LOSSES)
        for value in self.huber_delta:
            _positive("huber_delta", value)
        if self.norm and self.kind == "mse":
            raise TrainingError("f_use_norm is true; it goes with use_huber or loss_func 'mae' only")
        if self.relative_force is not None:
            _positive("relative_f", self.relative_force)
            if self.kind == "huber":
                raise TrainingError("relative_f does not go with use_huber")
        if not any(self.uses(name) for name in ("energy", "force", "virial", "atomic")):
            raise TrainingError("all prefactors of the loss are zero: there is nothing to train on")

    def uses(self, name: str) -> bool:
        """Whether a term counts."""
        start, limit = getattr(self, name)
        return bool(start != 0.0 and limit != 0.0)


@dataclass(frozen=True)
class ScheduleOptions:
    """Learning rate against the step; see ``schedule.learning_rate``."""

    kind: str = "exp"
    start_lr: float = 1e-3
    stop_lr: float = 1e-6
    decay_steps: int = 5000
    decay_rate: float | None = None
    smooth: bool = False
    warmup_steps: int = 0
    warmup_start_factor: float = 0.0
    decay_phase_ratio: float = 0.1
    decay_type: str = "inverse_linear"

    def __post_init__(self) -> None:
        _one_of("learning_rate type", self.kind, SCHEDULES)
        _one_of("decay_type", self.decay_type, DECAYS)
        _positive("start_lr", self.start_lr)
        _at_least("stop_lr", self.stop_lr, 0.0)
        _positive("decay_steps", self.decay_steps)
        if self.decay_rate is not None:
            _positive("decay_rate", self.decay_rate)
        _at_least("warmup_steps", self.warmup_steps, 0)
        _at_least("warmup_start_factor", self.warmup_start_factor, 0.0)
        if not 0 < self.decay_phase_ratio <= 1:
            raise TrainingError(f"decay_phase_ratio is {self.decay_phase_ratio}; it must lie in (0, 1]")
        if self.kind == "wsd" and self.stop_lr <= 0:
            raise TrainingError("stop_lr must be positive for the schedule wsd")


@dataclass(frozen=True)
class OptimizerOptions:
    """An optimizer of torch.optim. Muon takes the matrices between hidden layers, AdamW all else."""

    kind: str = "Adam"
    beta1: float = 0.9
    beta2: float = 0.999
    weight_decay: float = 0.0
    momentum: float = 0.95

    def __post_init__(self) -> None:
        _one_of("optimizer type", self.kind, OPTIMIZERS)
        for name in ("beta1", "beta2", "momentum"):
            if not 0 <= getattr(self, name) < 1:
                raise TrainingError(f"{name} is {getattr(self, name)}; it must lie in [0, 1)")
        _at_least("weight_decay", self.weight_decay, 0.0)


@dataclass(frozen=True)
class BatchOptions:
    """How batches are made of a data set.

    Attributes:
        rule: ``atoms``: structures of all systems, mixed, of ``size`` atoms together. ``frames``, ``auto``, ``max``,
            ``filter``: of one system at a time, as DeePMD-kit does: ``size`` frames, at least or at most ``size``
            atoms, at most and without larger systems.
        sizes: with ``frames``: of each system; one for all.
        auto_prob: how often each system comes: prob_uniform, prob_sys_size, or prob_sys_size;0:2:0.5;2:9:0.5.
        weights: of each system, in place of ``auto_prob``.
    """

    rule: str = "atoms"
    size: int = 256
    sizes: tuple[int, ...] = ()
    auto_prob: str = "prob_sys_size"
    weights: tuple[float, ...] = ()

    def __post_init__(self) -> None:
        _one_of("the rule of batches", self.rule, ("atoms", "frames", "auto", "max", "filter"))
        for size in (self.size, *self.sizes):
            _positive("batch_size", size)
        if self.rule == "atoms" and (self.weights or self.auto_prob != "prob_sys_size"):
            raise TrainingError(
                "sys_probs and auto_prob have no say where structures of all systems are mixed (mix:N); leave them out"
            )


@dataclass(frozen=True)
class DataOptions:
    """Where data is: files, folders and patterns as ``dpa1-fast screen`` takes them, and how batches are made of it.

    Attributes:
        count: of validation: how many batches are looked at for one line; None: all.
    """

    systems: tuple[str, ...]
    batch: BatchOptions = field(default_factory=BatchOptions)
    count: int | None = None

    def __post_init__(self) -> None:
        if not self.systems:
            raise TrainingError("no data is named; give systems")
        if self.count is not None:
            _positive("valid_batches (numb_btch)", self.count)


@dataclass(frozen=True)
class Options:
    """A whole training.

    Attributes:
        model: hyper-parameters; ``sel`` may have to be found in the data first, see ``sel_auto``.
        sel_auto: factor on the largest number of neighbours in the training data; None: the model's own ``sel``.
        type_map_auto: the types are the elements in the training data.
        steps: in all. display, save, validate: every how many steps a line is written, a checkpoint is kept, all
            validation data is looked at.
        keep: how many checkpoints. clip: largest norm of the gradient.
        ema: decay of the moving average of parameters; None: none is kept.
        metric: by which the best model is chosen, see ``METRICS``.
        statistics_batches: batches a system of which statistics are made; None: all data.
        protection: smallest standard deviation of frame and atomic parameters.
        preset_bias: eV, by type; None where least squares finds it.
        frozen: beginnings of the names of parameters that stay as they are.
        origin: of fine-tuning: which model it starts from, and what is done to it first.
    """

    model: DPA1Config
    train: DataOptions
    valid: DataOptions | None = None
    loss: LossOptions = field(default_factory=LossOptions)
    schedule: ScheduleOptions = field(default_factory=ScheduleOptions)
    optimizer: OptimizerOptions = field(default_factory=OptimizerOptions)
    steps: int = 1_000_000
    seed: int = 1
    display: int = 1000
    save: int = 1000
    validate: int = 1000
    keep: int = 5
    clip: float | None = None
    ema: float | None = None
    metric: str = "loss"
    sel_auto: float | None = None
    type_map_auto: bool = False
    statistics_batches: int | None = None
    protection: float = 1e-2
    rcond: float | None = None
    preset_bias: tuple[float | None, ...] = ()
    frozen: tuple[str, ...] = ()
    origin: str = ""

    def __post_init__(self) -> None:
        for name in ("steps", "display", "save", "validate", "keep"):
            _positive(name, getattr(self, name))
        _at_least("seed", self.seed, 0)
        if self.clip is not None:
            _positive("gradient_max_norm", self.clip)
        if self.ema is not None and not 0 <= self.ema < 1:
            raise TrainingError(f"ema_decay is {self.ema}; it must lie in [0, 1)")
        _one_of("validation_metric", self.metric, METRICS)
        if self.schedule.warmup_steps >= self.steps:
            raise TrainingError(f"warmup_steps ({self.schedule.warmup_steps}) must be fewer than all {self.steps}")
        for name, value in (("precision", self.model.precision), ("fitting precision", self.model.fitting.precision)):
            if value not in ("float32", "float64"):
                raise TrainingError(f"{name} is {value}; training is done in float32 or float64")

    @property
    def fingerprint(self) -> dict[str, Any]:
        """What decides the weights: all but how often something is shown or kept."""
        told = dataclasses.asdict(self)
        for name in ("display", "save", "keep"):
            del told[name]
        if not self.origin:
            del told["origin"]
        return told
