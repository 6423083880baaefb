"""Fine-tuning: from a trained model and some data to what a training begins with."""

from __future__ import annotations

import hashlib
import json
import math
from dataclasses import asdict, dataclass, replace
from itertools import islice
from pathlib import Path

import torch

from ..checkpoint import read_model
from ..model import DPA1
from .adapters import adapt
from .bias import shift_bias
from .data import Dataset, elements, frames
from .extend import extended, set_new_statistics
from .options import Options, TrainingError
from .prepare import Prepared, freeze, prepare
from .similar import WAYS

MOST = 2000
"""Structures of which biases and the statistics of new types are made, evenly over the data."""

FEWEST_STEPS, STEPS_EACH, MOST_STEPS = 300, 20, 3000

PARTS = {"descriptor": ("type_embedding", "embedding", "attention")}
"""Names for several beginnings of parameters' names."""


@dataclass(frozen=True)
class FinetuneOptions:
    """What is done to the model before training.

    Attributes:
        freeze: parameters that stay as they are, by the beginnings of their names; ``descriptor`` is all but the
            energy net. factors: on the learning rate, likewise.
        lora: rank of adapters, which alone are trained in place of their matrices; None: matrices are.
        new_elements: how a first guess for new elements is made, see ``similar.WAYS``.
        shift: whether energy biases are fitted to the data first.
    """

    freeze: tuple[str, ...] = ()
    factors: tuple[tuple[str, float], ...] = ()
    lora: int | None = None
    new_elements: str = "neighbors"
    shift: bool = True

    def __post_init__(self) -> None:
        if self.new_elements not in WAYS:
            raise TrainingError(f"new elements by {self.new_elements!r} are not known; known are {', '.join(WAYS)}")
        if self.lora is not None and self.lora < 1:
            raise TrainingError(f"a rank of adapters is {self.lora}; it must be at least 1")
        for name, factor in self.factors:
            if not (math.isfinite(factor) and factor >= 0):
                raise TrainingError(f"--lr-factor {name}={factor:g}: a factor is a number of at least 0")


@dataclass(frozen=True)
class Start:
    """A model that knows all elements of the data, and where it comes from.

    Attributes:
        known: how many types it had. digest: of its file, and which of its heads it is.
    """

    model: DPA1
    path: Path
    known: int
    digest: str


def begin(model: str, head: str | None, data: tuple[str, ...], way: str) -> Start:
    """Reads a model and adds the elements of the data that it lacks.

    Raises:
        ModelFileError, SourceError, TrainingError: the model or the data cannot be used.
    """
    loaded = read_model(model, head)
    c = loaded.model.config
    new = tuple(name for name in elements(data) if name not in c.type_map)
    digest = hashlib.sha256(loaded.path.read_bytes()).hexdigest() + (f" {head}" if head else "")
    grown = extended(loaded.model, new, way)
    grown.uncertainty = None  # it is one of the weights that are left
    wide = "float64" in (c.precision, c.fitting.precision)
    return Start(grown.set_dtype(torch.float64 if wide else torch.float32), loaded.path, c.ntypes, digest)


def ready(start: Start, options: Options, tuning: FinetuneOptions, backend: str, checked: bool) -> Prepared:
    """Data and model as a training takes them."""
    origin = json.dumps([start.digest, asdict(tuning)])
    options = replace(options, model=start.model.config, sel_auto=None, type_map_auto=False, origin=origin)

    def make(options: Options, data: Dataset, chosen: list[int]) -> DPA1:
        model = start.model
        few = chosen[:: -(-len(chosen) // MOST)]
        set_new_statistics(model, data, few, start.known)
        if tuning.shift and any(data.samples[k].energy is not None for k in few):
            shift_bias(model, data, few, backend, shrink=True)
        freeze(model, (*options.frozen, *spelled(tuning.freeze)))
        if tuning.lora is not None and not adapt(model, tuning.lora, options.seed):
            raise TrainingError(f"adapters of rank {tuning.lora} are no smaller than any matrix; take a lower rank")
        return model

    return prepare(options, checked, make)


def steps_for(samples: int) -> int:
    """Steps of a fine-tuning on so many structures: 20 for each, from 300 to 3,000. With more, few are learnt by heart.

    The figures behind it and ``rate_for``: ``docs/training.md``.
    """
    return min(MOST_STEPS, max(FEWEST_STEPS, STEPS_EACH * samples))


def rate_for(samples: int) -> float:
    """The learning rate that a fine-tuning on so many structures begins with: 1e-4 times their root, at most 1e-3."""
    return min(1e-3, 1e-4 * math.sqrt(samples))


def default_length(systems: tuple[str, ...]) -> tuple[int, float]:
    """``steps_for`` and ``rate_for`` the structures of training data; no more are read than make a difference."""
    count = sum(1 for _ in islice(frames(systems, ()), MOST_STEPS // STEPS_EACH))
    return steps_for(count), rate_for(count)


def spelled(names: tuple[str, ...]) -> tuple[str, ...]:
    """Beginnings of parameters' names, with those of ``PARTS`` written out."""
    return tuple(part for name in names for part in PARTS.get(name, (name,)))


def factors(tuning: FinetuneOptions) -> dict[str, float]:
    """Factors on the learning rate by the beginning of a parameter's name."""
    return {part: factor for name, factor in tuning.factors for part in PARTS.get(name, (name,))}
