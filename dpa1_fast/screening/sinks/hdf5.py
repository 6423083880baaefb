"""Structures and per-atom results as flat arrays in HDF5: what a training set or an analysis in numpy wants.

``offsets`` (S + 1,) says where each structure's atoms are in ``numbers``, ``positions``, ``forces``, ``energies`` and
``descriptor``; ``index`` (S,) is its row in the summary.
"""

from __future__ import annotations

import io
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from ...printable import printable
from ..folder import RESULTS
from ..own_keys import as_text
from .base import ChangedOutputError, Parts, Written, durable, owned

NAME = RESULTS["hdf5"]
TEXT = h5py.string_dtype()
UNITS = {
    "positions": "Å", "cell": "Å", "energy": "eV", "energies": "eV", "forces": "eV/Å", "stress": "eV/Å³",
    "virial": "eV", "velocities": "Å/fs", "time": "fs",
}  # fmt: skip


class Hdf5Sink:
    """Results as arrays.

    Args:
        folder: of the job. descriptor: whether that is kept. provenance: attributes of the finished file.
        kept: names of what structures bring along, which stands as text in the group ``kept``.
    """

    name = NAME

    def __init__(self, folder: Path, descriptor: bool, provenance: dict[str, str], kept: Sequence[str] = ()) -> None:
        self.target, self.descriptor, self.provenance = folder / NAME, descriptor, provenance
        self.kept = kept
        self.parts = Parts(folder / f"{NAME}.partial", ".h5")

    def resume(self, state: Any) -> None:
        """See ``Sink``; the state is how many parts there are."""
        if not owned(self.target, state):
            self.parts.resume(state or 0)

    def append(self, block: Written) -> int:
        """See ``Sink``."""
        if self.target.exists():
            raise ChangedOutputError(self.target, "is finished, though the journal says that structures are left")
        buffer = io.BytesIO()
        with h5py.File(buffer, "w") as file:
            for name, array in self._arrays(block).items():
                file[name] = array
            for name in self.kept:
                values = [f.row["kept"].get(name) for f in block.frames]
                if any(v is not None for v in values):
                    texts = ["" if v is None else as_text(v) for v in values]
                    file.create_dataset(f"kept/{_path(name)}", data=[printable(t) for t in texts], dtype=TEXT)
        return self.parts.write(block.number, buffer.getvalue())

    def _arrays(self, block: Written) -> dict[str, Any]:
        frames = block.frames
        none = np.full(6, np.nan)
        stress = [none if f.result.stress is None else f.result.stress for f in frames]

        def joined(parts: list[Any], *shape: int) -> Any:
            return np.concatenate([np.zeros((0, *shape)), *parts])

        out = {
            "index": np.array([f.row["index"] for f in frames], dtype=np.int64),
            "natoms": np.array([len(f.atoms) for f in frames], dtype=np.int64),
            "pbc": np.array([f.atoms.pbc for f in frames], dtype=bool).reshape(-1, 3),
            "cell": np.array([f.atoms.cell[:] for f in frames], dtype=np.float64).reshape(-1, 3, 3),
            "energy": np.array([f.result.energy for f in frames], dtype=np.float64),
            "stress": np.array(stress, dtype=np.float64).reshape(-1, 6),
            "virial": np.array([f.result.virial for f in frames], dtype=np.float64).reshape(-1, 3, 3),
            "numbers": joined([f.atoms.numbers for f in frames]).astype(np.int64),
            "positions": joined([f.atoms.positions for f in frames], 3),
            "forces": joined([f.result.forces for f in frames], 3),
            "energies": joined([f.result.energies for f in frames]),
        }
        if self.descriptor:
            width = frames[0].descriptor.shape[1] if frames else 0
            out["descriptor"] = joined([f.descriptor for f in frames], width)
        return out

    def finish(self) -> None:
        """See ``Sink``."""
        if not self.target.exists():
            partial = self.target.with_name(f"{NAME}.whole")
            with h5py.File(partial, "w") as whole:
                for part in self.parts.all():
                    with h5py.File(part, "r") as file:
                        for name in file:
                            if name == "kept":
                                _extend_kept(whole, file)
                            else:
                                extend(whole, name, file[name][()])
                for texts in whole.get("kept", {}).values():
                    texts.resize((len(whole["index"]),))
                counts = whole["natoms"][()] if "natoms" in whole else np.zeros(0, dtype=np.int64)
                whole["offsets"] = np.concatenate([[0], np.cumsum(counts)])
                whole.attrs.update(self.provenance)
            durable(partial)
            os.replace(partial, self.target)
            durable(self.target.parent)
        self.parts.remove()


def _path(name: str) -> str:
    """A name that HDF5 does not take for a path."""
    return name.replace("/", "_").replace("\0", "_").strip(".") or "_"


def _extend_kept(whole: Any, part: Any) -> None:
    """Texts of a part behind those before it, which are empty where a part had none."""
    end = len(whole["index"]) if "index" in whole else 0  # "index" comes before "kept" in each part
    for name, texts in part["kept"].items():
        path = f"kept/{name}"
        if path not in whole:
            whole.create_dataset(path, (0,), TEXT, maxshape=(None,), chunks=True)
        whole[path].resize((end,))
        whole[path][end - len(texts) :] = texts[()]


def extend(file: Any, name: str, array: Any) -> None:
    """Appends to a dataset, or begins one that can grow; datasets of known quantities say their units."""
    if name not in file:
        shape = array.shape[1:]
        data = file.create_dataset(name, (0, *shape), array.dtype, maxshape=(None, *shape), chunks=True)
        quantity = name.rpartition("/")[2]
        if quantity in UNITS:
            data.attrs["unit"] = UNITS[quantity]
    elif not len(array):
        return
    data = file[name]
    if array.shape[1:] != data.shape[1:]:  # a block of nothing but failures did not know the descriptor's width
        if len(data) == 0:
            del file[name]
            extend(file, name, array)
        return
    data.resize(len(data) + len(array), axis=0)
    data[len(data) - len(array) :] = array
