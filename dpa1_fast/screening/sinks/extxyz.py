"""Structures with energy, forces and stress as extended XYZ: one file that grows, cut back to where its job was."""

from __future__ import annotations

import io
import os
from pathlib import Path
from typing import IO, Any

from ..folder import RESULTS
from ..own_keys import clean_arrays, clean_info, free
from .base import ChangedOutputError, Frame, Written, durable, owned

NAME = RESULTS["extxyz"]


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
        self._file.write(text.getvalue().encode("utf-8", "backslashreplace"))
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
    """A copy of a frame's atoms that carries its results."""
    from ase.calculators.singlepoint import SinglePointCalculator

    out, result = frame.atoms.copy(), frame.result
    out.calc = SinglePointCalculator(
        out, energy=result.energy, forces=result.forces, energies=result.energies, stress=result.stress
    )
    return out


def write_frame(file: Any, frame: Frame) -> None:
    """Appends one structure, by ASE's writer. What it brought along keeps its keys; ours give way to them."""
    from ase.io.extxyz import write_extxyz

    out, row = with_results(frame), frame.row
    info = clean_info(out.info)
    ours = clean_info({k: row[k] for k in ("source", "frame", "index")})
    for key, value in ours.items():
        info[free(f"input_{key}" if key in info else key, info)] = value
    info[free("model_virial" if "virial" in info else "virial", info)] = frame.result.virial
    out.info = info
    kept = {"numbers": out.arrays["numbers"], "positions": out.arrays["positions"]}
    columns = clean_arrays(out.arrays, len(out))
    if frame.descriptor is not None:
        columns[free("model_descriptor" if "descriptor" in columns else "descriptor", columns)] = frame.descriptor
    if frame.result.uncertainty is not None:
        info[free("energy_std", info)] = frame.result.uncertainty.energy_std
        info[free("flags", info)] = " ".join(frame.result.uncertainty.flags)
        columns[free("force_std", columns)] = frame.result.uncertainty.force_std
    out.arrays = kept | columns
    write_extxyz(file, [out])
