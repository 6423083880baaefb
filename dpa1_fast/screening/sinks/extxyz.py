"""Structures with energy, forces and stress as extended XYZ: one file that grows, cut back to where its job was."""

from __future__ import annotations

import io
import os
from pathlib import Path
from typing import IO, Any

from ..folder import RESULTS
from .base import ChangedOutputError, Frame, Written, durable, owned

NAME = RESULTS["extxyz"]
OURS = ("energy", "stress", "virial", "free_energy")


class ExtxyzSink:
    """Args: folder: of the job."""

    name = NAME

    def __init__(self, folder: Path) -> None:
        self.target, self.partial = folder / NAME, folder / f"{NAME}.partial"
        self._file: IO[bytes] | None = None
        self._size = 0

    def resume(self, state: Any) -> None:
        """See ``Sink``; the state is the file's length."""
        if owned(self.target, state):
            return
        self._file = self.partial.open("ab")
        self._size = state or 0
        if os.fstat(self._file.fileno()).st_size < self._size:
            raise ChangedOutputError(self.partial, "is shorter than the journal says")
        self._file.truncate(self._size)

    def append(self, block: Written) -> int:
        """See ``Sink``."""
        if self._file is None:
            raise ChangedOutputError(self.target, "is finished, though the journal says that structures are left")
        if os.fstat(self._file.fileno()).st_size != self._size:
            raise ChangedOutputError(self.partial, "was changed by somebody else while this job was running")
        text = io.StringIO()
        for frame in block.frames:
            write_frame(text, frame)
        self._file.write(text.getvalue().encode())
        self._file.flush()
        os.fsync(self._file.fileno())
        self._size = os.fstat(self._file.fileno()).st_size
        return self._size

    def finish(self) -> None:
        """See ``Sink``."""
        if self._file is not None:
            self._file.close()
            self._file = None
        if self.partial.exists():
            os.replace(self.partial, self.target)
            durable(self.target.parent)


def with_results(frame: Frame) -> Any:
    """A copy of a frame's atoms that carries its results and where it came from."""
    from ase.calculators.singlepoint import SinglePointCalculator

    out, result, row = frame.atoms.copy(), frame.result, frame.row
    given = {k: v for k, v in out.info.items() if k not in OURS}
    out.info = {**given, "source": row["source"], "frame": row["frame"], "index": row["index"]}
    out.calc = SinglePointCalculator(
        out, energy=result.energy, forces=result.forces, energies=result.energies, stress=result.stress
    )
    return out


def write_frame(file: Any, frame: Frame) -> None:
    """Appends one structure, by ASE's writer."""
    from ase.io.extxyz import write_extxyz

    out = with_results(frame)
    out.info["virial"] = frame.result.virial
    if frame.descriptor is not None:
        out.arrays["descriptor"] = frame.descriptor
    write_extxyz(file, [out])
