"""From options to data sets and a model that is ready to be trained."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from fnmatch import fnmatch

import numpy as np
import torch

from ..model import DPA1
from ..structures.neighbors import neighbor_edges
from .batches import Order, SystemOrder, make_order
from .check import FILES, check, check_dense, note_beyond_sel
from .data import Dataset, elements
from .options import METRIC_TERMS, Options, TrainingError
from .statistics import chosen_for_statistics, set_statistics


@dataclass(frozen=True)
class Prepared:
    """Options with nothing left open, data and their orders, and the model with its statistics."""

    options: Options
    model: DPA1
    train: Dataset
    order: Order
    valid: Dataset | None
    valid_order: Order | None


Make = Callable[[Options, Dataset, list[int]], DPA1]
"""A model out of options, training data, and the samples that statistics are made of."""


def fresh(options: Options, data: Dataset, chosen: list[int]) -> DPA1:
    """A new model with the statistics of its data."""
    model = new_model(options)
    set_statistics(model, data, options, chosen)
    return model


def prepare(options: Options, checked: bool = True, make: Make = fresh) -> Prepared:
    """Reads the data, looks at it and makes the model.

    Args:
        checked: whether data is refused for what ``check`` finds. make: the model.

    Raises:
        TrainingError, SourceError, StructureError: data that nothing can be trained on, by its name.
    """
    if options.type_map_auto:
        found = elements(options.train.systems)
        if not found:
            raise TrainingError("the training data holds no structure; give other systems")
        options = replace(options, model=replace(options.model, type_map=found), type_map_auto=False)
    if options.sel_auto is not None:
        options = _with_sel(options, checked)
    train = _read(options, "training", options.train.systems)
    if checked:
        check_dense(train)
    if options.train.batch.rule == "filter":
        most, system_of = options.train.batch.size, np.array([s.system for s in train.samples])
        largest = [int(train.atoms[system_of == k].max()) for k in range(len(train.systems))]
        train.keep(lambda k: largest[k] <= most)
        if not len(train):
            raise TrainingError(f"batch_size filter:{most} leaves no training data")
    order = make_order(train, options.train.batch, options.seed)
    valid = None if options.valid is None else _read(options, "validation", options.valid.systems)
    valid_order = None
    if valid is not None and options.valid is not None:
        valid_order = make_order(valid, options.valid.batch, options.seed)
        term = METRIC_TERMS.get(options.metric.partition(":")[0])
        if term is not None and all(getattr(s, term) is None for s in valid.samples):
            raise TrainingError(
                f"validation_metric (metric) {options.metric}: the validation data has no {FILES[term]}, so no model "
                "would be the best; choose another"
            )
    if checked:
        check(train, valid, options.loss)
    per_system = None
    if options.statistics_batches is not None and isinstance(order, SystemOrder):
        per_system = [options.statistics_batches * size for size in order.sizes]
    chosen = chosen_for_statistics(train, per_system)
    note_beyond_sel(train, chosen)
    return Prepared(options, make(options, train, chosen), train, order, valid, valid_order)


def new_model(options: Options) -> DPA1:
    """A model with random parameters of the options' seed, in the precision that they name."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(options.seed)
        model = DPA1(options.model)
    c = options.model
    model.set_dtype(torch.float64 if "float64" in (c.precision, c.fitting.precision) else torch.float32)
    freeze(model, options.frozen)
    return model


def freeze(model: DPA1, patterns: tuple[str, ...]) -> None:
    """Keeps parameters as they are whose names begin like one of the patterns (``*`` stands for anything).

    Raises:
        TrainingError: a pattern fits none.
    """
    for pattern in patterns:
        fitting = [p for name, p in model.named_parameters() if fnmatch(name, f"{pattern}*")]
        if not fitting and not pattern.startswith("attention"):  # a model may have no layer of it
            names = ", ".join(dict.fromkeys(n.split(".")[0] for n, _ in model.named_parameters()))
            raise TrainingError(f"no parameter's name begins with {pattern!r}; they begin with {names}")
        for parameter in fitting:
            parameter.requires_grad_(False)
    if not any(p.requires_grad for p in model.parameters()):
        raise TrainingError("all parameters are frozen: there is nothing to train")


def _read(options: Options, what: str, systems: tuple[str, ...]) -> Dataset:
    data = Dataset(options.model, systems)
    if not len(data):
        raise TrainingError(f"the {what} data ({', '.join(systems[:3])}) holds no structure; give other systems")
    return data


def _with_sel(options: Options, checked: bool) -> Options:
    """Room for the largest number of neighbours in the training data times a factor, rounded up to a multiple of 4."""
    probe = Dataset(options.model, options.train.systems)
    if checked:
        check_dense(probe)
    most = 0
    for s in probe.samples:
        edges = neighbor_edges(s.structure, options.model.rcut)
        most = max(most, int(np.bincount(edges.center, minlength=1).max()))
    assert options.sel_auto is not None
    sel = -(-max(1, int(most * options.sel_auto)) // 4) * 4
    return replace(options, model=replace(options.model, sel=(sel,)), sel_auto=None)
