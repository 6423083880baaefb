"""The files that ``dp test --detail-file`` writes: labels and results side by side."""

from __future__ import annotations

from pathlib import Path
from types import TracebackType
from typing import TextIO

import numpy as np
from numpy.typing import NDArray

from .compare import Compared

XYZ = ["x", "y", "z"]
PAIRS = [a + b for a in XYZ for b in XYZ]
COLUMNS = {
    "e": ["e"],
    "e_peratom": ["e"],
    "f": [f"f{a}" for a in XYZ],
    "v": [f"v{a}" for a in PAIRS],
    "v_peratom": [f"v{a}" for a in PAIRS],
}


class Details:
    """Writes ``detail.e.out`` and its kind into a folder; use as a context manager."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._files: dict[str, TextIO] = {}
        self._system = ""

    def __enter__(self) -> Details:
        for name in COLUMNS:  # of an earlier test, of data that may have had other labels
            (self.folder / f"detail.{name}.out").unlink(missing_ok=True)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        for file in self._files.values():
            file.close()

    def write(self, one: Compared) -> None:
        """The rows of a structure; a comment names the system where another one begins."""
        if one.system != self._system:
            self._system = one.system
            for name in self._files:
                self._head(name)
        s, r, n = one.sample, one.result, len(one.sample.structure)
        if s.energy is not None:
            self._rows("e", np.array([[s.energy, r.energy]]))
            self._rows("e_peratom", np.array([[s.energy, r.energy]]) / n)
        if s.force is not None:
            self._rows("f", np.hstack([s.force, r.forces]))
        if s.virial is not None:
            row = np.hstack([s.virial.reshape(1, 9), r.virial.reshape(1, 9)])
            self._rows("v", row)
            self._rows("v_peratom", row / n)

    def _rows(self, name: str, rows: NDArray[np.float64]) -> None:
        if name not in self._files:
            self._files[name] = (self.folder / f"detail.{name}.out").open("w", encoding="utf-8")
            self._head(name)
        np.savetxt(self._files[name], rows)

    def _head(self, name: str) -> None:
        told = " ".join(f"{side}_{column}" for side in ("data", "pred") for column in COLUMNS[name])
        self._files[name].write(f"# {self._system}: {told}\n")
