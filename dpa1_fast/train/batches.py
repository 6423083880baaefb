"""Which samples a step sees: a pure function of seed and step, so that a resumed training sees what it would have."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from .data import Dataset
from .options import BatchOptions, TrainingError

BLOCK = 1024
"""Systems are drawn for so many steps at a time."""


class Order(Protocol):
    """Batches by number, without end."""

    def __call__(self, number: int) -> list[int]:
        """The samples of a batch."""
        ...


class AtomOrder:
    """All samples shuffled anew in each epoch, one epoch after another, and the whole row cut every ``budget`` atoms.

    A sample belongs to the batch in which its first atom lies. So batch k of budget B is known without those before,
    and batches 2k and 2k + 1 of budget B together are batch k of budget 2B.

    Args:
        atoms: (samples,) of each sample. budget: atoms of a batch; at least those of the largest sample.
    """

    def __init__(self, atoms: NDArray[np.int64], budget: int, seed: int) -> None:
        self.atoms, self.budget, self.seed = atoms, max(budget, int(atoms.max())), seed
        self.epoch_atoms = int(atoms.sum())
        self._epoch = lru_cache(maxsize=4)(self._shuffled)

    def __call__(self, number: int) -> list[int]:
        """The samples of a batch."""
        low, high = number * self.budget, (number + 1) * self.budget
        out: list[int] = []
        for epoch in range(low // self.epoch_atoms, (high - 1) // self.epoch_atoms + 1):
            order, starts = self._epoch(epoch)
            a, b = np.searchsorted(starts, (low - epoch * self.epoch_atoms, high - epoch * self.epoch_atoms))
            out += order[a:b].tolist()
        return out

    def _shuffled(self, epoch: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        order = np.random.default_rng([self.seed, epoch]).permutation(len(self.atoms))
        sizes = self.atoms[order]
        return order, np.cumsum(sizes) - sizes


class SystemOrder:
    """A system is drawn, and the next frames of it: each system is shuffled anew whenever it is through.

    Args:
        members: the samples of each system. sizes: frames of a batch of each. weights: how often each comes.
    """

    def __init__(
        self, members: Sequence[NDArray[np.int64]], sizes: Sequence[int], weights: NDArray[np.float64], seed: int
    ) -> None:
        self.members, self.seed, self.weights = members, seed, weights / weights.sum()
        self.sizes = [min(size, len(m)) for size, m in zip(sizes, members, strict=True)]
        self._before = [np.zeros(len(members), np.int64)]  # draws of each system before each block
        self._draws = lru_cache(maxsize=4)(self._drawn)
        self._pass = lru_cache(maxsize=64)(self._shuffled)

    def __call__(self, number: int) -> list[int]:
        """The samples of a batch."""
        block, place = divmod(number, BLOCK)
        while len(self._before) <= block:
            counts = np.bincount(self._draws(len(self._before) - 1), minlength=len(self.members))
            self._before.append(self._before[-1] + counts)
        drawn = self._draws(block)
        system = int(drawn[place])
        earlier = int(self._before[block][system] + (drawn[:place] == system).sum())
        first, count = earlier * self.sizes[system], len(self.members[system])
        where = [divmod(k, count) for k in range(first, first + self.sizes[system])]
        return [int(self._pass(system, around)[k]) for around, k in where]

    def _drawn(self, block: int) -> NDArray[np.int64]:
        rng = np.random.default_rng([self.seed, 1, block])
        return rng.choice(len(self.members), BLOCK, p=self.weights)

    def _shuffled(self, system: int, around: int) -> NDArray[np.int64]:
        return np.random.default_rng([self.seed, 2, system, around]).permutation(self.members[system])


def make_order(data: Dataset, options: BatchOptions, seed: int) -> Order:
    """The order in which batches are made of a data set.

    Raises:
        TrainingError: sizes or weights that do not fit the systems.
    """
    atoms = data.atoms
    if options.rule == "atoms":
        return AtomOrder(atoms, options.size, seed)
    system_of = np.array([s.system for s in data.samples])
    members = [np.flatnonzero(system_of == k) for k in range(len(data.systems))]
    sizes = _sizes(options, [int(atoms[m].max()) for m in members])
    batches = np.array([-(-len(m) // size) for m, size in zip(members, sizes, strict=True)], np.float64)
    return SystemOrder(members, sizes, _weights(options, batches), seed)


def _sizes(options: BatchOptions, atoms: Sequence[int]) -> list[int]:
    if options.rule == "frames":
        given = options.sizes or (options.size,)
        if len(given) not in (1, len(atoms)):
            raise TrainingError(f"batch_size lists {len(given)} numbers for {len(atoms)} systems; give one for each")
        return list(given) * (len(atoms) if len(given) == 1 else 1)
    if options.rule == "auto":
        return [-(-options.size // n) for n in atoms]
    return [max(1, options.size // n) for n in atoms]


def _weights(options: BatchOptions, batches: NDArray[np.float64]) -> NDArray[np.float64]:
    n = len(batches)
    if options.weights:
        given = np.array(options.weights, np.float64)
        if len(given) != n or not (given >= 0).all() or given.sum() <= 0:
            raise TrainingError(f"sys_probs must be {n} numbers, one a system, none negative and not all zero")
        return given
    kind, *blocks = options.auto_prob.split(";")
    if kind == "prob_uniform" and not blocks:
        return np.ones(n)
    if kind != "prob_sys_size":
        raise TrainingError(f"auto_prob {options.auto_prob!r} is not known; known are prob_uniform, prob_sys_size")
    if not blocks:
        return batches
    weights = np.zeros(n)
    for block in blocks:
        try:
            first, end, share = (float(x) if k == 2 else int(x) for k, x in enumerate(block.split(":")))
        except ValueError:
            raise TrainingError(f"auto_prob {options.auto_prob!r}: {block!r} is not FIRST:END:WEIGHT") from None
        part = slice(int(first), int(end))
        if not len(batches[part]):
            raise TrainingError(f"auto_prob {options.auto_prob!r}: {block!r} names none of the {n} systems")
        weights[part] = share * batches[part] / batches[part].sum()
    if weights.sum() <= 0 or (weights < 0).any():
        raise TrainingError(f"auto_prob {options.auto_prob!r} leaves no system")
    return weights
