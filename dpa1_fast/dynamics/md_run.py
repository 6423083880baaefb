"""A run of molecular dynamics in a folder: frames, log, and a restart file from which it goes on to the same bits."""

from __future__ import annotations

import io
import json
import time
import zipfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from ase import Atoms, units

from ..checkpoint.writing import write_whole
from ..engine import Engine
from ..screening.folder import remove
from ..screening.locks import FolderLock
from .md import MolecularDynamics
from .md_options import MdError, MdOptions
from .trajectory import Grown, trajectory

RESTART, LOG = "restart.npz", "log.csv"
OURS = (RESTART, LOG, "trajectory.extxyz", "trajectory.h5", "trajectory.h5.partial", "trajectory.h5.whole")
"""What a run writes, besides the numbered files in ``trajectory``; ``--overwrite`` deletes these."""

COLUMNS = "step,time_ps,system,energy,kinetic,conserved,temperature,pressure,volume"
"""Of the log: eV, K, GPa, Å³. The pressure has the part of an ideal gas; both are empty without a volume."""


@dataclass(frozen=True)
class Now:
    """How far a run is.

    Attributes:
        step, steps: done and to be done in all. systems, failed: how many run, and how many had to stop.
        temperature: K, mean over systems. energy: eV, what is conserved, mean over systems.
    """

    step: int
    steps: int
    systems: int
    failed: int
    temperature: float
    energy: float


class Run:
    """Molecular dynamics of structures in a folder, begun or gone on with.

    Attributes:
        md: the systems. resumed: the step at which this run went on, or 0.

    Raises:
        StructureError: a structure cannot be simulated. MdError: the folder holds another run.
        JobError: another process writes there.
    """

    def __init__(self, options: MdOptions, engine: Engine, structures: Sequence[Atoms], names: Sequence[str]) -> None:
        self.options = o = options
        self.identity = o.identity(structures, engine.backend, str(engine.device))
        self.md = MolecularDynamics(
            engine, structures, o.make(len(structures)), temperature=o.temperature, seed=o.seed, names=names
        )
        # What cannot be simulated has been said: an earlier run is thrown away for one that begins.
        self.folder = o.output
        self._lock = FolderLock(self.folder)
        try:
            self._begin(structures)
        except BaseException:
            self._lock.close()
            raise

    def _begin(self, structures: Sequence[Atoms]) -> None:
        """Finds the run in its folder, or writes its beginning there."""
        if self.options.overwrite:
            self._start()
            clear(self.folder)
        self._trajectory = trajectory(self.options.write, self.folder, structures)
        self._log = Grown(self.folder / LOG, COLUMNS + "\n")
        self._written = time.monotonic()
        self.resumed = 0
        state, outputs = self._read()
        if state is None or outputs is None:
            self._start()
            self._restart_file(None)  # from here on the folder is this run's
            self._keep(force=True)
            self._checkpoint(begin=True)
        else:
            try:
                self.md.restore(state)
            except (KeyError, ValueError, TypeError) as error:
                raise self._damaged(error) from None
            self.resumed = self.md.steps
            self._trajectory.resume(outputs["trajectory"])
            self._log.resume(outputs["log"])

    def _start(self) -> None:
        """Evaluates the structures as they come in, once.

        Raises:
            StructureError: of one that cannot be.
        """
        if self.md.motion.found is None:
            self.md.begin()
        for error in self.md.failed.values():
            raise error

    def __call__(self, watch: Callable[[Now], bool] | None = None) -> bool:
        """Runs to the end; once.

        Args:
            watch: told after each step; ends the run for now where it gives False.

        Returns:
            Whether it is complete.
        """
        try:
            return self._go(watch)
        finally:
            self._lock.close()

    def _go(self, watch: Callable[[Now], bool] | None) -> bool:
        go = True

        def after() -> bool:
            nonlocal go
            self._keep()
            if time.monotonic() - self._written >= self.options.checkpoint:
                self._checkpoint()
            go = watch is None or watch(self.now())
            return go

        left = self.options.steps - self.md.steps
        if left > 0 and len(self.md.ids):
            self.md.run(left, after)
            self._checkpoint()
        if go:
            self.wrote = [*self._trajectory.finish(), self.folder / LOG, self.folder / RESTART]
        return go

    def now(self) -> Now:
        """How far it is."""
        md, o = self.md, self.options
        some = len(md.ids) > 0
        heat = float(md.temperatures().mean()) if some else float("nan")
        energy = float(md.conserved().mean()) if some else float("nan")
        return Now(md.steps, o.steps, len(md.ids), len(md.failed), heat, energy)

    # --- what is written --------------------------------------------------------------------------------------------

    def _keep(self, force: bool = False) -> None:
        md, o = self.md, self.options
        if not len(md.ids):
            return
        if force or md.steps % o.save == 0:
            self._trajectory.append(md, md.steps * o.timestep)
        if force or md.steps % o.log == 0:
            self._log.append(self._rows())

    def _rows(self) -> str:
        md, m = self.md, self.md.motion
        twice, virial = m.twice_kinetic(), m.step.virial
        columns = zip(
            md.ids.tolist(), m.step.energy.tolist(), (0.5 * twice).tolist(), md.conserved().tolist(),
            md.temperatures().tolist(), (np.trace(virial, axis1=1, axis2=2) + twice).tolist(), m.structures,
            np.abs(np.linalg.det(m.cells)).tolist(), strict=True,
        )  # fmt: skip
        when = f"{md.steps},{md.steps * self.options.timestep / 1000.0!r}"
        rows = []
        for k, energy, kinetic, conserved, heat, inner, structure, volume in columns:
            has = structure.volume is not None
            pressure = f"{inner / (3.0 * volume) / units.GPa!r},{volume!r}" if has else ","
            rows.append(f"{when},{k},{energy!r},{kinetic!r},{conserved!r},{heat!r},{pressure}\n")
        return "".join(rows)

    def _checkpoint(self, begin: bool = False) -> None:
        self._restart_file({"trajectory": self._trajectory.flush(begin), "log": self._log.flush(begin)})
        self._written = time.monotonic()

    def _restart_file(self, outputs: dict[str, Any] | None) -> None:
        buffer = io.BytesIO()
        told = {"identity": json.dumps(self.identity), "outputs": json.dumps(outputs)}
        np.savez(buffer, **self.md.state(), **{k: np.asarray(x) for k, x in told.items()})  # type: ignore[arg-type]
        write_whole(self.folder / RESTART, buffer.getvalue())

    def _read(self) -> tuple[dict[str, Any] | None, dict[str, Any] | None]:
        """The restart file and what it says of the outputs; None where a run begins, or has not written any."""
        path = self.folder / RESTART
        if not path.exists():
            found = [name for name in (*OURS, "trajectory") if (self.folder / name).exists()]
            if found:
                raise MdError(
                    f"{self.folder} holds {found[0]} but no {RESTART}; choose another --output, or --overwrite"
                )
            return None, None
        try:
            with np.load(path, allow_pickle=False) as file:
                state = {name: file[name] for name in file.files}
            identity, outputs = dict(json.loads(str(state["identity"]))), json.loads(str(state["outputs"]))
        except (OSError, TypeError, ValueError, KeyError, EOFError, zipfile.BadZipFile) as error:
            raise self._damaged(error) from None
        # What only one of them has was left out of the other's options, which is a difference too.
        other = [k for k in {**self.identity, **identity} if identity.get(k) != self.identity.get(k)]
        if other:
            k = other[0]
            told = f"its {k} was {identity.get(k)} and now is {self.identity.get(k)}"
            raise MdError(f"{self.folder} holds another run: {told}; choose another --output, or --overwrite")
        if outputs is not None:
            try:
                outputs = {"trajectory": self._trajectory.checked(outputs["trajectory"]), "log": int(outputs["log"])}
            except (TypeError, ValueError, KeyError, OverflowError) as error:
                raise self._damaged(error) from None
        return state, outputs

    def _damaged(self, error: Exception) -> MdError:
        return MdError(f"{self.folder / RESTART} is damaged ({error}); --overwrite begins the run anew")


def clear(folder: Path) -> None:
    """Deletes what an earlier run wrote, and nothing else."""
    for name in OURS:
        if (folder / name).exists() or (folder / name).is_symlink():
            remove(folder / name)
    inner = folder / "trajectory"
    if inner.is_dir() and not inner.is_symlink():
        for path in inner.glob("[0-9]*.extxyz"):
            path.unlink()
        if not any(inner.iterdir()):
            inner.rmdir()
