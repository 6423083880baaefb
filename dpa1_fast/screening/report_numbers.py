"""The figures of a report, read from a summary in two passes and constant memory.

The first takes a sample and the extremes of each column, from which it is known where nearly all values lie; the second
counts every structure. Which structures the sample holds depends on their indices alone, so a report of the same
summary is the same report.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.dataset as ds

from .summary_statistics import LITTLE

SAMPLE = 20_000
GROUPS = 5
"""Kinds of structures that are told apart; whatever is left makes one more."""
FINE = 4_096
CHUNK = 8_192
NO_FORCE = 1e-4
"""eV/Å: smaller ones are what symmetry and rounding leave, and would stretch a logarithmic axis."""


class Histogram:
    """Counts values in many narrow bins, from which ``shown`` makes a few where the values are.

    Args:
        low, high: the range; what lies outside is counted as ``below`` and ``above``. groups: rows of counts.
        log: bins are equal in the logarithm. fine: how many bins.
    """

    def __init__(self, low: float, high: float, groups: int = 1, log: bool = False, fine: int = FINE) -> None:
        if log:
            low, high = np.log10(low), np.log10(high)
        if not high > low:
            width = max(abs(low) * 1e-3, 1e-3)
            low, high = low - width, high + width
        self.low, self.high, self.log, self.fine = float(low), float(high), log, fine
        self.counts = np.zeros((groups, fine), dtype=np.int64)
        self.below = self.above = 0

    def add(self, values: np.ndarray, group: np.ndarray | None = None) -> None:
        """Counts finite ``values`` (positive ones, where bins are logarithmic)."""
        values = np.log10(values) if self.log else values
        place = np.floor((values - self.low) / (self.high - self.low) * self.fine)
        place[values == self.high] = self.fine - 1
        self.below += int(np.count_nonzero(place < 0))
        self.above += int(np.count_nonzero(place >= self.fine))
        inside = (place >= 0) & (place < self.fine)
        flat = place[inside].astype(np.int64) + (0 if group is None else group[inside] * self.fine)
        self.counts += np.bincount(flat, minlength=self.counts.size).reshape(self.counts.shape)

    def shown(self, most: int = 48) -> tuple[np.ndarray, np.ndarray]:
        """Edges (B + 1,) and counts (groups, B), without empty ends, B near twice the root of how many there are."""
        filled = np.flatnonzero(self.counts.sum(axis=0))
        bins = int(np.clip(2 * np.sqrt(self.counts.sum()), 8, most))
        first, last = (int(filled[0]), int(filled[-1])) if len(filled) else (0, self.fine - 1)
        span = last + 1 - first
        each = -(-span // bins)
        bins = max(-(-span // each), 8)
        first = max(0, first - (bins * each - span) // 2)
        counts = np.zeros((len(self.counts), bins * each), dtype=np.int64)
        part = self.counts[:, first : first + bins * each]
        counts[:, : part.shape[1]] = part
        edges = self.low + (first + each * np.arange(bins + 1)) * (self.high - self.low) / self.fine
        return (10.0**edges if self.log else edges), counts.reshape(len(self.counts), bins, each).sum(axis=2)


@dataclass
class Column:
    """A column over the structures that could be done: how many numbers, their range, and how they are distributed.

    ``tiny``: values that a logarithmic axis leaves out because they are practically 0. ``low``, ``high``: the rows with
    the smallest and largest values, where they are asked for.
    """

    count: int = 0
    least: float = np.inf
    largest: float = -np.inf
    median: float = np.nan
    tiny: int = 0
    at_most_zero: int = 0
    histogram: Histogram = field(default_factory=lambda: Histogram(0, 1))
    low: list[tuple[float, int]] = field(default_factory=list)
    high: list[tuple[float, int]] = field(default_factory=list)


@dataclass
class Group:
    """Structures of one kind, its number among all, and the lowest of them in energy per atom (eV)."""

    number: int
    label: str
    count: int = 0
    energy: float = np.inf
    index: int = -1


@dataclass
class Numbers:
    """All that a report draws.

    Attributes:
        columns: by name. sample: of each column, and ``group``; a random order. groups: kinds of structures, the
            most frequent first. kind: what tells them apart, "formula", "elements" or "" where nothing does.
        ok: how many structures. sampled: whether the sample, and so the medians, leave some out.
    """

    columns: dict[str, Column]
    sample: dict[str, np.ndarray]
    groups: list[Group]
    kind: str
    ok: int
    sampled: bool


def read(summary: Path, ok: int, names: Sequence[str], extremes: Sequence[str] = (), steps: int = 0) -> Numbers:
    """Reads a summary.

    Args:
        summary: its folder. ok: how many structures could be done. names: columns; those that are not there are left
            out. extremes: of which to remember the rows at both ends. steps: at most so many, of a relaxation.
    """
    data = ds.dataset(summary, format="parquet")
    names = [n for n in names if n in data.schema.names]
    columns = {n: Column() for n in names}
    sample, formulas = _survey(data, columns, SAMPLE / max(ok, 1))
    kind, labels = _kinds(formulas)
    groups = [Group(k, label) for k, label in enumerate([*labels, "others"] if kind else [""])]
    for name, column in columns.items():
        values = sample[name][np.isfinite(sample[name])]
        if column.count:
            column.median = float(np.median(values)) if len(values) else np.nan
            column.histogram = _range(name, column, values, len(groups), steps)
    for table in _chunks(data, ["index", "formula", *names]):
        index, group = _numbers(table, "index").astype(np.int64), _group(table, kind, labels)
        for name, column in columns.items():
            _count(column, _numbers(table, name), index, group, name in extremes)
        _lowest(groups, _numbers(table, "energy_per_atom"), index, group)
    sample["group"] = _group(pa.table({"formula": formulas}), kind, labels)
    return Numbers(columns, sample, [g for g in groups if g.count], kind, ok, len(formulas) < ok)


def rows(summary: Path, indices: Sequence[int]) -> dict[int, dict[str, Any]]:
    """Where some structures came from, by index."""
    data = ds.dataset(summary, format="parquet")
    found = data.to_table(
        columns=["index", "source", "frame", "formula"], filter=ds.field("index").isin(indices), **LITTLE
    )
    return {r["index"]: r for r in found.to_pylist()}


def robust(values: np.ndarray) -> tuple[float, float]:
    """A range that holds nearly all values and is not stretched by few: one in twenty at either end may be anything."""
    if len(values) < 8:
        return float(values.min()), float(values.max())
    low, high = float(np.quantile(values, 0.05, method="higher")), float(np.quantile(values, 0.95, method="lower"))
    return low - 4 * (high - low), high + 4 * (high - low)


def _survey(
    data: ds.Dataset, columns: Mapping[str, Column], share: float
) -> tuple[dict[str, np.ndarray], list[str | None]]:
    """Fills in counts and extremes. Returns a sample in random order: columns, and formulas."""
    hashes: list[np.ndarray] = []
    kept: dict[str, list[np.ndarray]] = {n: [] for n in columns}
    formulas: list[str | None] = []
    for table in _chunks(data, ["index", "formula", *columns]):
        mixed = _mix(_numbers(table, "index").astype(np.uint64))
        take = mixed <= np.uint64(min(share, 1.0) * float(2**64 - 2048))
        hashes.append(mixed[take])
        formulas += table["formula"].filter(pa.array(take)).to_pylist()
        for name, column in columns.items():
            values = _numbers(table, name)
            kept[name].append(values[take])
            values = values[np.isfinite(values)]
            if len(values):
                column.count += len(values)
                column.least = min(column.least, float(values.min()))
                column.largest = max(column.largest, float(values.max()))
    order = np.argsort(np.concatenate([np.zeros(0, np.uint64), *hashes]))
    sample = {n: np.concatenate([np.zeros(0), *parts])[order] for n, parts in kept.items()}
    return sample, [formulas[k] for k in order]


def _kinds(formulas: Sequence[str | None]) -> tuple[str, list[str]]:
    """What tells structures apart, and the most frequent kinds: formulas where there are few, else sets of elements."""
    counts = Counter(f for f in formulas if f)
    if len(counts) > GROUPS:
        systems: Counter[str] = Counter()
        for formula, count in counts.items():
            systems["".join(c for c in formula if not c.isdigit())] += count
        return ("elements" if len(systems) > 1 else ""), [k for k, _ in systems.most_common(GROUPS)]
    return ("formula" if len(counts) > 1 else ""), [k for k, _ in counts.most_common()]


def _group(table: pa.Table, kind: str, labels: Sequence[str]) -> np.ndarray:
    """The number of each row's kind; ``len(labels)`` for all others."""
    if not kind:
        return np.zeros(len(table), dtype=np.int64)
    formulas = table["formula"]
    if kind != "formula":  # as ASE writes formulas, what stays without numbers is the same for the same elements
        formulas = pc.replace_substring_regex(formulas, pattern="[0-9]+", replacement="")
    found = pc.index_in(formulas.cast(pa.string()), value_set=pa.array(labels, pa.string()))
    return np.asarray(pc.fill_null(found, len(labels)).to_numpy()).astype(np.int64)


def _range(name: str, column: Column, values: np.ndarray, groups: int, steps: int) -> Histogram:
    if name == "steps":  # whole numbers
        most = int(max(column.largest, steps))
        return Histogram(-0.5, most + 0.5, fine=most + 1)
    if name in ("max_force", "max_devi_f"):
        positive = values[values >= NO_FORCE]
        if len(positive) > 3 and np.quantile(positive, 0.95) > 20 * np.quantile(positive, 0.05):
            most = 10.0 ** min(robust(np.log10(positive))[1], 300.0)
            return Histogram(max(column.least, NO_FORCE), min(most, column.largest), groups, log=True)
    left, right = robust(values) if len(values) else (column.least, column.largest)
    return Histogram(max(left, column.least), min(right, column.largest), groups)


def _count(column: Column, values: np.ndarray, index: np.ndarray, group: np.ndarray, extremes: bool) -> None:
    good = np.isfinite(values)
    values, index, group = values[good], index[good], group[good]
    column.at_most_zero += int(np.count_nonzero(values <= 0))
    if extremes and len(values):
        order = np.lexsort((index, values))
        ends = [[(float(values[k]), int(index[k])) for k in part] for part in (order[:5], order[-5:])]
        column.low = sorted([*column.low, *ends[0]])[:5]
        column.high = sorted([*column.high, *ends[1]])[-5:]
    if column.histogram.log:
        large = values >= NO_FORCE
        column.tiny += int(np.count_nonzero(~large))
        values, group = values[large], group[large]
    column.histogram.add(values, group if len(column.histogram.counts) > 1 else None)


def _lowest(groups: Sequence[Group], energies: np.ndarray, index: np.ndarray, group: np.ndarray) -> None:
    for k, kind in enumerate(groups):
        here = np.flatnonzero(group == k)
        kind.count += len(here)
        if len(here):
            best = here[int(np.argmin(energies[here]))]
            if energies[best] < kind.energy:
                kind.energy, kind.index = float(energies[best]), int(index[best])


def _chunks(data: ds.Dataset, columns: Sequence[str]) -> Iterator[pa.Table]:
    """The structures that could be done, many at a time: a summary has a row group a block, which would be slow."""
    waiting: list[pa.RecordBatch] = []
    reading = data.to_batches(
        columns=list(dict.fromkeys(columns)), filter=ds.field("status") == "ok", batch_size=CHUNK,
        batch_readahead=1, fragment_readahead=1, use_threads=False,
    )  # fmt: skip
    for batch in reading:
        waiting.append(batch)
        if sum(map(len, waiting)) >= CHUNK:
            yield pa.Table.from_batches(waiting)
            waiting = []
    if waiting:
        yield pa.Table.from_batches(waiting)


def _numbers(table: pa.Table, name: str) -> np.ndarray:
    """A column as float64, NaN where there is nothing."""
    return np.asarray(table[name].cast(pa.float64()).to_numpy(), dtype=np.float64)


def _mix(numbers: np.ndarray) -> np.ndarray:
    """Numbers as random ones, always the same for the same (the finalizer of splitmix64)."""
    with np.errstate(over="ignore"):
        x = (numbers + np.uint64(1)) * np.uint64(0x9E3779B97F4A7C15)
        x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
        return np.asarray(x ^ (x >> np.uint64(31)))
