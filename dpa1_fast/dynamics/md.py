"""Molecular dynamics of many systems at once, whatever their sizes, elements and periodicity.

All systems take their steps together, in one batch, and each does what it would do alone (CPU engine; on a GPU up to
the rounding of its sums). A system that blows up leaves the batch with an error that names the step and the atom;
nothing of it is kept from that step on, and the others go on.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import nullcontext
from typing import Any

import numpy as np
from ase import Atoms, units
from numpy.typing import NDArray

from ..engine import Engine
from ..errors import StructureError
from ..kernels.cpu.threads import one_thread
from ..structures.structure import from_ase
from .ensembles import Ensemble
from .motion import Array, Found, Motion
from .stepper import Moving
from .velocities import degrees, free_of, masses_of, maxwell, velocities_of

MAX_MOVE = 1.0
"""Å. An atom that moves further in one step has been thrown out by an overlap, or the time step is too long."""


class MolecularDynamics:
    """A set of systems, and where their molecular dynamics is.

    Velocities are those that structures bring along (``momenta``), else drawn at a temperature. FixAtoms and
    FixCartesian are heeded.

    Args:
        engine: evaluates. structures: ``ase.Atoms``.
        ensemble: moves them, see ``ensembles.py`` and ``nose_hoover.py``; it serves this set alone.
        temperature: K, of the velocities that are drawn. seed: of these.
        names: how errors refer to the structures; by default "system 0" and so on.

    Attributes:
        motion: positions (Å), velocities, and what the systems evaluated to. steps: how many were done.
        ids: (S,) which of the given structures are still in the set. failed: why each of the others is not.

    Raises:
        StructureError: a structure that cannot be evaluated as it comes in, without mass, with a constraint that is not
            supported, or that has no velocities where no temperature was given.
    """

    def __init__(
        self,
        engine: Engine,
        structures: Sequence[Atoms],
        ensemble: Ensemble,
        *,
        temperature: float | None = None,
        seed: int = 0,
        names: Sequence[str] = (),
    ) -> None:
        if not structures:
            raise ValueError("molecular dynamics needs at least one structure")
        self.engine, self.ensemble = engine, ensemble
        names = names or [f"system {k}" for k in range(len(structures))]
        checked = [from_ase(engine.config, a, name) for a, name in zip(structures, names, strict=True)]
        masses, velocities, free, dof = [], [], [], []
        for k, (atoms, name) in enumerate(zip(structures, names, strict=True)):
            m, may = masses_of(atoms, name), free_of(atoms, name)
            # The total momentum stays at rest where nothing holds an atom and no noise pushes it.
            rest = ensemble.keeps_momentum and bool(may.all())
            v = velocities_of(atoms, may, m, name)
            if v is None:
                if temperature is None:
                    raise StructureError(name, "it has no velocities: give a temperature to draw them at")
                v = maxwell(m, may, temperature, [seed, k, 1], rest)
            masses.append(m)
            velocities.append(v)
            free.append(may)
            dof.append(degrees(may, rest))
        every = np.concatenate(free)
        held = None if every.all() else every.astype(np.float64)
        self.motion = Motion(checked, np.concatenate(velocities), np.concatenate(masses), held, np.array(dof, float))
        self.ids, self.steps, self.failed = np.arange(len(checked)), 0, dict[int, StructureError]()
        self._stepper = Moving(engine)
        self._stepper.select(checked)
        ensemble.begin(self.motion)

    def begin(self) -> None:
        """Evaluates the systems as they are; those that cannot be are failed at once."""
        with self._threads():
            self._evaluate()

    def run(self, steps: int, watch: Callable[[], bool] | None = None) -> None:
        """Does so many steps, or fewer where no system is left.

        Args:
            watch: called after each step; ends the run where it gives False.
        """
        with self._threads():
            if self.motion.found is None:
                self._evaluate()
            for _ in range(steps):
                if not len(self.ids):
                    return
                self._step()
                if watch is not None and not watch():
                    return

    def _threads(self) -> Any:
        return one_thread() if self.engine.backend == "cpu" else nullcontext()

    def _step(self) -> None:
        m = self.motion
        before = m.positions
        self.steps += 1
        # What is no number is found right below, in the step that it came up in.
        with np.errstate(invalid="ignore", over="ignore", divide="ignore"):
            self.ensemble.before(m)
            gone = m.positions - before
            square = gone[:, 0] ** 2 + gone[:, 1] ** 2 + gone[:, 2] ** 2
        if not square.max() <= MAX_MOVE**2:
            self._drop(self._thrown(square))
        if len(self.ids):
            self._evaluate()
        if len(self.ids):
            with np.errstate(invalid="ignore", over="ignore", divide="ignore"):
                self.ensemble.after(m)
            if not np.isfinite(m.velocities).all():
                self._drop(self._not_finite())

    def _evaluate(self) -> None:
        found = self._stepper.step(self.motion.positions, self.motion.cells)
        self.motion.found = Found(found.energy, found.energies, found.forces, found.virial)
        self._drop({row: error.reason for row, error in found.errors.items()})

    def _thrown(self, square: Array) -> dict[int, str]:
        m, reasons = self.motion, dict[int, str]()
        for row, (a, b) in enumerate(zip(m.offsets[:-1].tolist(), m.offsets[1:].tolist(), strict=True)):
            if not square[a:b].max() <= MAX_MOVE**2:
                worst = int(np.nan_to_num(square[a:b], nan=np.inf).argmax())
                way = float(np.sqrt(square[a + worst]))
                told = f"would move {way:.3g} Å" if np.isfinite(way) else "would go to a place that is no number"
                reasons[row] = (
                    f"atom {worst} {told} in this step (more than {MAX_MOVE:g} Å): the time step is too long, or atoms "
                    "were too close together"
                )
        return reasons

    def _not_finite(self) -> dict[int, str]:
        m, reasons = self.motion, dict[int, str]()
        for row, (a, b) in enumerate(zip(m.offsets[:-1].tolist(), m.offsets[1:].tolist(), strict=True)):
            bad = np.flatnonzero(~np.isfinite(m.velocities[a:b]).all(axis=1))
            if len(bad):
                reasons[row] = f"the velocity of atom {int(bad[0])} is not finite"
        return reasons

    def _drop(self, reasons: dict[int, str]) -> None:
        """Takes systems out of the set, (row, why)."""
        if not reasons:
            return
        m = self.motion
        for row, reason in reasons.items():
            told = f"stopped at step {self.steps}: {reason}"
            self.failed[int(self.ids[row])] = StructureError(m.structures[row].name, told)
        stay = np.ones(len(self.ids), dtype=bool)
        stay[list(reasons)] = False
        self._keep(stay)

    def _keep(self, stay: NDArray[np.bool_]) -> None:
        """Goes on with these systems alone."""
        self.ids = self.ids[stay]
        if len(self.ids):
            self.motion.change(stay)
            self.ensemble.change(stay)
            self._stepper.select(np.flatnonzero(stay).tolist())

    # --- what can be known ------------------------------------------------------------------------------------------

    def temperatures(self) -> Array:
        """(S,) K."""
        m = self.motion
        return m.twice_kinetic() / (np.maximum(m.dof, 1.0) * units.kB)

    def conserved(self) -> Array:
        """(S,) eV: what the ensemble conserves: in NVE the total energy."""
        m = self.motion
        return m.step.energy + 0.5 * m.twice_kinetic() + self.ensemble.outside(m)

    # --- going on later ---------------------------------------------------------------------------------------------

    def state(self) -> dict[str, NDArray[Any]]:
        """Everything that the next steps depend on, as arrays that no pickle is needed for."""
        m, found = self.motion, self.motion.step
        failed = [(k, e.name, e.reason) for k, e in sorted(self.failed.items())]
        own = {
            "steps": self.steps, "ids": self.ids, "positions": m.positions, "velocities": m.velocities,
            "cells": m.cells, "energy": found.energy, "energies": found.energies, "forces": found.forces,
            "virial": found.virial, "failed": np.array([[str(x) for x in f] for f in failed]).reshape(-1, 3),
        }  # fmt: skip
        ensemble = {f"ensemble_{k}": x for k, x in self.ensemble.state().items()}
        return {k: np.asarray(x) for k, x in {**own, **ensemble}.items()}

    def restore(self, state: dict[str, NDArray[Any]]) -> None:
        """Goes on from what ``state`` gave, to the same bits; made with the same structures and the same ensemble.

        Raises:
            KeyError, ValueError: it is of other systems, or holds what is no number.
        """
        stay = np.isin(np.arange(len(self.ids)), state["ids"])
        self.steps = int(state["steps"])
        if self.steps < 0 or int(stay.sum()) != len(state["ids"]):
            raise ValueError("its steps or its systems are none of this run")
        self.failed = {int(k): StructureError(str(name), str(why)) for k, name, why in state["failed"]}
        m = self.motion
        if not stay.all():
            self._keep(stay)
        if not len(self.ids):
            return
        m.positions, m.velocities, m.cells = (np.array(state[x]) for x in ("positions", "velocities", "cells"))
        energy, energies, forces, virial = (np.array(state[x]) for x in ("energy", "energies", "forces", "virial"))
        m.found = Found(energy, energies, forces, virial)
        self.ensemble.restore({k.removeprefix("ensemble_"): x for k, x in state.items() if k.startswith("ensemble_")})
        self._check(len(m.masses), len(self.ids))

    def _check(self, atoms: int, systems: int) -> None:
        """Of a state that was restored."""
        shapes = {
            "positions": (atoms, 3), "velocities": (atoms, 3), "forces": (atoms, 3), "energies": (atoms,),
            "cells": (systems, 3, 3), "virial": (systems, 3, 3), "energy": (systems,),
        }  # fmt: skip
        now = self.state()
        for name, array in now.items():
            if name in shapes and array.shape != shapes[name]:
                raise ValueError(f"{name} has the shape {array.shape}, not {shapes[name]}")
            if array.dtype.kind == "f" and not np.isfinite(array).all():
                raise ValueError(f"{name} holds what is no number")
