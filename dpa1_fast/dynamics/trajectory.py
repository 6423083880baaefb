"""What molecular dynamics writes while it runs: trajectories and the log, which grow and can be cut back.

Everything is kept in memory until ``flush``, which brings it to the disk and says how much there is now. A run that was
killed goes on with ``resume`` at what its restart file says, and whatever was written after that is cut off.
"""

from __future__ import annotations

import io
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Protocol

import h5py
import numpy as np
from ase import Atoms, units
from ase.calculators.singlepoint import SinglePointCalculator

from ..engine import VOIGT
from ..screening.sinks.base import ChangedOutputError, Parts, durable
from ..screening.sinks.hdf5 import extend
from ..structures.type_names import TYPE_NAMES
from .md import MolecularDynamics
from .stepper import stress

FORMATS = ("extxyz", "hdf5")
OWN = ("masses", TYPE_NAMES)
"""What a structure may say of its atoms besides elements: without masses momenta are no velocities."""


class Grown:
    """A text file that grows.

    Args:
        path: where. first: what it begins with.
    """

    def __init__(self, path: Path, first: str = "") -> None:
        self.path, self._text = path, io.StringIO()
        self._text.write(first)

    def append(self, text: str) -> None:
        """Keeps text for the next ``flush``."""
        self._text.write(text)

    def resume(self, size: int) -> None:
        """Cuts the file back to so many bytes, which ``flush`` returned.

        Raises:
            ChangedOutputError: it is shorter.
        """
        self._text = io.StringIO()
        if not self.path.is_file() or self.path.stat().st_size < size:
            raise ChangedOutputError(self.path, "is gone, or shorter than the restart file says")
        os.truncate(self.path, size)

    def flush(self, begin: bool) -> int:
        """Writes what was kept. Returns the size of the file.

        Args:
            begin: whether the file begins here, whatever there was before.
        """
        text = self._text.getvalue()
        self._text = io.StringIO()
        if not text and not begin:
            return self.path.stat().st_size
        with self.path.open("wb" if begin else "ab") as file:
            file.write(text.encode())
            file.flush()
            os.fsync(file.fileno())
        return self.path.stat().st_size


class Trajectory(Protocol):
    """Where frames go."""

    def append(self, md: MolecularDynamics, time: float) -> None:
        """Keeps a frame of every system that still runs, for the next ``flush``; time in fs."""
        ...

    def flush(self, begin: bool) -> Any:
        """Brings frames to the disk. Returns what ``resume`` needs, a value that JSON keeps as it is."""
        ...

    def checked(self, state: Any) -> list[int]:
        """The same as a list of numbers, as ``flush`` returns it.

        Raises:
            TypeError, ValueError: it is none, or not of so many.
        """
        ...

    def resume(self, state: list[int]) -> None:
        """Cuts back to what ``flush`` returned."""
        ...

    def finish(self) -> list[Path]:
        """Puts the whole under its name. Returns what was written."""
        ...


class ExtxyzTrajectory:
    """One extended XYZ a system: positions (never wrapped), momenta, forces; energy, stress, step and time.

    Args:
        folder: of the run. structures: as they came in.
    """

    def __init__(self, folder: Path, structures: Sequence[Atoms]) -> None:
        self._structures = structures
        if len(structures) == 1:
            paths = [folder / "trajectory.extxyz"]
        else:
            paths = [folder / "trajectory" / f"{k:04d}.extxyz" for k in range(len(structures))]
        self._files = [Grown(path) for path in paths]

    def append(self, md: MolecularDynamics, time: float) -> None:
        """See ``Trajectory``."""
        from ase.io.extxyz import write_extxyz

        m, found = md.motion, md.motion.step
        full = stress(found.virial, m.cells, np.stack([s.pbc for s in m.structures]))
        for row, k in enumerate(md.ids.tolist()):
            here = slice(int(m.offsets[row]), int(m.offsets[row + 1]))
            first = self._structures[k]
            atoms = Atoms(first.numbers, m.positions[here], cell=m.cells[row], pbc=first.pbc)
            for name in OWN:
                if name in first.arrays:
                    atoms.set_array(name, first.arrays[name])
            atoms.set_momenta(m.velocities[here] * m.masses[here])
            results = {"energy": float(found.energy[row]), "forces": found.forces[here]}
            if m.structures[row].volume is not None:
                results["stress"] = np.array([full[row][a, b] for a, b in VOIGT])
            atoms.calc = SinglePointCalculator(atoms, **results)
            atoms.info = {"step": md.steps, "time_fs": time}
            text = io.StringIO()
            write_extxyz(text, [atoms])
            self._files[k].append(text.getvalue())

    def flush(self, begin: bool) -> list[int]:
        """See ``Trajectory``."""
        if begin:
            self._files[0].path.parent.mkdir(exist_ok=True)
        return [file.flush(begin) for file in self._files]

    def checked(self, state: Any) -> list[int]:
        """See ``Trajectory``."""
        return _numbers(state, len(self._files))

    def resume(self, state: list[int]) -> None:
        """See ``Trajectory``."""
        for file, size in zip(self._files, state, strict=True):
            file.resume(size)

    def finish(self) -> list[Path]:
        """See ``Trajectory``."""
        paths = [file.path for file in self._files]
        return paths if len(paths) == 1 else [paths[0].parent]


class Hdf5Trajectory:
    """``trajectory.h5``, a group a system ("0000"): arrays over frames, to the last bit; while it grows, parts of it.

    Args:
        folder: of the run. structures: as they came in.
    """

    def __init__(self, folder: Path, structures: Sequence[Atoms]) -> None:
        self._structures, self._target = structures, folder / "trajectory.h5"
        self._parts = Parts(folder / "trajectory.h5.partial", ".h5")
        self._kept: dict[str, list[Any]] = {}
        self._generation = self._count = 0

    def append(self, md: MolecularDynamics, time: float) -> None:
        """See ``Trajectory``."""
        m, found = md.motion, md.motion.step
        for row, k in enumerate(md.ids.tolist()):
            here = slice(int(m.offsets[row]), int(m.offsets[row + 1]))
            frame = {
                "step": md.steps, "time": time, "energy": found.energy[row], "cell": m.cells[row].copy(),
                "virial": found.virial[row], "positions": m.positions[here].copy(),
                "velocities": m.velocities[here] * units.fs, "forces": found.forces[here],
            }  # fmt: skip
            for name, value in frame.items():
                self._kept.setdefault(f"{k:04d}/{name}", []).append(value)

    def flush(self, begin: bool) -> list[int]:
        """See ``Trajectory``."""
        if begin:
            self._target.unlink(missing_ok=True)
            self._parts.resume(0)
        if self._kept:
            buffer = io.BytesIO()
            with h5py.File(buffer, "w") as file:
                for name, values in self._kept.items():
                    file[name] = np.array(values)
            self._count = self._parts.write(self._count, buffer.getvalue())
            self._kept = {}
        return [self._generation, self._count]

    def checked(self, state: Any) -> list[int]:
        """See ``Trajectory``."""
        return _numbers(state, 2)

    def resume(self, state: list[int]) -> None:
        """See ``Trajectory``."""
        self._kept = {}
        self._generation, count = state
        if self._target.exists():
            # A run that was complete goes on: what it wrote is the first part. Parts were deleted, or are in it.
            self._parts.remove()
            self._parts.folder.mkdir()
            os.replace(self._target, self._parts.path(0))
            durable(self._parts.folder)
        first = self._parts.path(0)
        if first.exists():
            with h5py.File(first, "r") as file:
                generation = int(file.attrs.get("generation", 0))
            if generation > self._generation:  # the restart file was written before these parts became one
                self._generation, count = generation, 1
        self._parts.resume(count)
        self._count = count

    def finish(self) -> list[Path]:
        """See ``Trajectory``."""
        if not self._target.exists():
            partial = self._target.with_name("trajectory.h5.whole")
            with h5py.File(partial, "w") as whole:
                whole.attrs["generation"] = self._generation + 1
                for part in self._parts.all():
                    with h5py.File(part, "r") as file:
                        for system in file:
                            for name in file[system]:
                                if name not in ("numbers", "pbc"):
                                    extend(whole, f"{system}/{name}", file[system][name][()])
                for k, atoms in enumerate(self._structures):
                    group = whole.require_group(f"{k:04d}")
                    group["numbers"], group["pbc"] = atoms.numbers, atoms.pbc
            durable(partial)
            os.replace(partial, self._target)
            durable(self._target.parent)
        self._parts.remove()
        return [self._target]


def _numbers(state: Any, count: int) -> list[int]:
    numbers = [int(x) for x in state]
    if len(numbers) != count or min(numbers) < 0:
        raise ValueError(f"{count} sizes of files are needed")
    return numbers


def trajectory(kind: str, folder: Path, structures: Sequence[Atoms]) -> Trajectory:
    """What writes a format of ``FORMATS``."""
    return ExtxyzTrajectory(folder, structures) if kind == "extxyz" else Hdf5Trajectory(folder, structures)
