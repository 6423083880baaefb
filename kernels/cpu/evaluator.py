"""The CPU engine: a batch's energies and gradients by compiled code, atom by atom, in constant memory."""

from __future__ import annotations

import threading
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ..outputs import Outputs, OutputsWithHidden
from ..prepare import bases, chebyshev, merging
from ..prepare.weights import Weights
from .buffer_pool import BufferPool
from .library import NativeModel, Request
from .threads import one_thread

MOST_SERIES = 4096
"""Only the first so many pairs of types are fitted, about 70 kB each; others are evaluated by the net. By their number
and not by who comes first, so that results do not depend on what was evaluated before."""

MOST_BASES = 256
"""Kept from batch to batch, about 50 kB each; when there are more, all are forgotten and made again when needed."""

MOST_ATOMS, MOST_BATCHES = 1024, 64
"""What was prepared for so many batches of at most so many atoms is kept: in molecular dynamics the same atoms come
again at every step, and for few of them preparing takes as long as evaluating."""


@dataclass(frozen=True)
class _Centers:
    """What is known of a batch's atoms, wherever they are.

    Attributes:
        center (count,): atoms that have an energy. first_type (count,): of their structure's first atom. basis (count,)
        int32: which serves each. complete: no pair of types is left to be fitted, whoever neighbours whom.
    """

    center: Tensor
    first_type: Tensor
    basis: Tensor
    complete: bool


class CpuEvaluator:
    """Evaluates batches with hand-derived gradients; no tape, nothing kept but inputs, edges and results.

    Args:
        weights: the model's. precision: of the networks; the environment matrix and all sums are float64.
        threads: worker threads. build: see ``library.library``.
    """

    def __init__(
        self, weights: Weights, precision: torch.dtype = torch.float64, threads: int = 1, build: str | None = None
    ) -> None:
        self.weights, self.config = weights.double(), weights.config
        self.precision, self.threads = precision, threads
        f = self.config.fitting
        self._extras = f.numb_fparam + f.numb_aparam_in + f.dim_case_embd
        self._model = NativeModel(merging.of_model(self.weights, bases.NEAREST, self._extras), precision, build)
        n = self.config.ntypes
        self._series: dict[int, chebyshev.Series | None] = {}
        self._seen = torch.zeros(n * n, dtype=torch.bool)
        self._bases: dict[tuple[int, tuple[int, ...]], int] = {}
        self._most_terms = bases.most_terms(self.weights)
        self._has_bases = bool(self.weights.attention) or bases.has_head(self.weights)
        self._centers: dict[tuple[bytes, ...], _Centers] = {}
        self._pool = BufferPool()
        self._lock = threading.Lock()

    def __call__(self, batch: Any, hidden: bool = False) -> Outputs:
        """Atomic energies (n,) in eV, dE/dd of every edge (e, 3) and forces (n, 3) in eV/Å, virials (S, 3, 3) in eV.

        Args:
            batch: see ``dpa1_fast.structures.batch.Batch``. hidden: the energy net's last hidden layer too.
        """
        # numpy's zeros: torch would fill large ones on threads of its own, which then stand in the way of ours.
        shapes = ((batch.n_atoms,), (batch.n_atoms, 3), (batch.n_structures, 3, 3))
        energy, force, virial = (torch.from_numpy(np.zeros(shape)) for shape in shapes)
        last = torch.from_numpy(np.zeros((batch.n_atoms, len(self.weights.fitting[-1].weight)))) if hidden else None
        edges = self._pool.take("gradient", tuple(batch.vector.shape))
        with self._lock:
            known = self._known(batch)
            if len(known.center) < batch.n_atoms:
                edges.fill(0.0)  # nobody writes to the edges of other atoms
            gradient, extras = torch.from_numpy(edges), self._parameters(batch, known.center)
            request = Request(
                count=len(known.center), center=known.center.data_ptr(), type=batch.types.data_ptr(),
                first_edge=batch.first_edge.data_ptr(), neighbor=batch.neighbor.data_ptr(),
                vector=batch.vector.data_ptr(), n_filled=batch.n_filled.data_ptr(),
                first_type=known.first_type.data_ptr(), extras=extras.data_ptr(), basis=known.basis.data_ptr(),
                energy=energy.data_ptr(), gradient=gradient.data_ptr(), atoms=batch.n_atoms,
                structures=batch.n_structures, offset=batch.offsets.data_ptr(), force=force.data_ptr(),
                virial=virial.data_ptr(), hidden=None if last is None else last.data_ptr(),
            )  # fmt: skip
            self._model.evaluate(request, self.threads)
        outputs = Outputs(energy, gradient, force, virial)
        return outputs if last is None else OutputsWithHidden.of(outputs, last)

    def _parameters(self, batch: Any, center: Tensor) -> Tensor:
        """What the energy net reads besides the descriptor, for each centre. (count, extras)."""
        w, parts = self.weights, []
        if batch.fparam is not None and w.fparam is not None:
            parts.append((batch.fparam[batch.structure[center]] - w.fparam[0]) * w.fparam[1])
        if batch.aparam is not None and w.aparam is not None and self.config.fitting.numb_aparam_in:
            parts.append((batch.aparam[center] - w.aparam[0]) * w.aparam[1])
        if w.case_embd is not None:
            parts.append(w.case_embd.expand(len(center), -1))
        return torch.cat(parts, dim=-1).contiguous() if parts else torch.zeros(len(center), 0, dtype=torch.float64)

    # --- prepared once for the atoms of a batch, and once per pair of types -------------------------------------------

    def _known(self, batch: Any) -> _Centers:
        """What is known of the batch's atoms; series that its edges need are there then."""
        # Copies, and compared whole: nothing depends on whether somebody changes a tensor that was given before.
        key = tuple(x.numpy().tobytes() for x in (batch.types, batch.offsets, batch.active))
        found = self._centers.get(key)
        if found is None or not found.complete:
            with one_thread():
                found = self._prepare(batch)
            if batch.n_atoms <= MOST_ATOMS:
                if len(self._centers) >= MOST_BATCHES and key not in self._centers:
                    del self._centers[next(iter(self._centers))]
                self._centers[key] = found
        return found

    def _prepare(self, batch: Any) -> _Centers:
        """Fits what this batch's pairs of types need."""
        n = self.config.ntypes
        present = self._model.pairs(batch.types, batch.first_edge, batch.neighbor, n)
        for pair in torch.nonzero(present & ~self._seen).flatten().tolist():
            self._series_of(pair)
        center = torch.nonzero(batch.active).squeeze(-1)
        first_type = batch.types[batch.offsets[batch.structure[center]]].clamp_min(0)
        made_of, which = _compositions(batch, n)
        basis = self._bases_of(batch, center, made_of, which)
        seen = self._seen.numpy().reshape(n, n)
        complete = all(seen[np.ix_(around, around)].all() for around in made_of)
        return _Centers(center, first_type, basis, complete)

    def _bases_of(self, batch: Any, center: Tensor, made_of: list[tuple[int, ...]], which: NDArray[np.int64]) -> Tensor:
        """Which basis serves each centre, (count,) int32; −1 where none does."""
        n = self.config.ntypes
        if not self._has_bases:
            return torch.full((len(center),), -1, dtype=torch.int32)
        # By the structure alone and not by what is in the batch: packing may not change a bit of a result.
        structure, types = batch.structure.numpy(), batch.types.numpy()
        atoms = np.diff(batch.offsets.numpy())
        least = np.array([bases.least_atoms(self.weights, len(around)) for around in made_of], dtype=np.int64)
        served = atoms >= least[which]
        keys = [
            (k, t, made_of[k])
            for k in np.unique(which[served]).tolist()
            if len(made_of[k]) <= bases.MOST_TYPES_AROUND
            for t in made_of[k]
        ]
        if len(self._bases) + sum(key[1:] not in self._bases for key in keys) > MOST_BASES:
            self._bases.clear()
            self._centers.clear()
            self._model.forget_bases()
        table = np.full((len(made_of), n), -1, dtype=np.int32)
        for k, t, around in keys:
            table[k, t] = self._basis(t, around)
        home = structure[center.numpy()]
        found = table[which[home], types[center.numpy()]]
        return torch.from_numpy(np.where(served[home], found, np.int32(-1)))

    def _series_of(self, pair: int) -> chebyshev.Series | None:
        """The embedding of a pair of types as polynomials, fitted when it is first asked for; None: the net serves."""
        if not self._seen[pair]:
            self._seen[pair] = True
            found = self._fit(pair) if pair < MOST_SERIES else None
            self._series[pair] = found
            if found is not None:
                self._model.add_series(pair, found.lo, found.hi, found.c, found.slope)
        return self._series[pair]

    def _fit(self, pair: int) -> chebyshev.Series | None:
        """The embedding of a pair of types as polynomials of s."""
        return bases.series_of_pair(self.weights, pair, chebyshev.TOLERANCE[self.precision], self._most_terms)

    def _basis(self, center: int, around: tuple[int, ...]) -> int:
        """The index of the basis of a centre type with the types around it, or −1 where there is none."""
        key = (center, around)
        if key not in self._bases:
            self._bases[key] = self._make_basis(center, around)
        return self._bases[key]

    def _make_basis(self, center: int, around: tuple[int, ...]) -> int:
        pairs = [center * self.config.ntypes + t for t in around]
        series = [found for pair in pairs if (found := self._series_of(pair)) is not None]
        if len(series) < len(pairs):
            return -1
        numbers = bases.layer_numbers(self.weights, center, around, series, self.precision)
        return -1 if numbers is None else self._model.add_basis(numbers)


def _compositions(batch: Any, ntypes: int) -> tuple[list[tuple[int, ...]], NDArray[np.int64]]:
    """The different sets of types that structures are made of, and which each structure has, (S,)."""
    holds = np.zeros((batch.n_structures, ntypes), dtype=bool)
    types, structure = batch.types.numpy(), batch.structure.numpy()
    real = types >= 0
    holds[structure[real], types[real]] = True
    place: dict[bytes, int] = {}
    which = [place.setdefault(row.tobytes(), len(place)) for row in np.packbits(holds, axis=1)]
    first = {k: s for s, k in reversed(list(enumerate(which)))}
    return [tuple(np.flatnonzero(holds[first[k]]).tolist()) for k in range(len(place))], np.array(which, dtype=np.int64)
