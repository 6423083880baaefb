"""DeePMD-kit's data folders (``npy`` and ``mixed_type``) as ASE structures."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ...errors import StructureError

Array = NDArray[Any]


def is_system(folder: Path) -> bool:
    """Whether a folder is a DeePMD-kit system: ``type.raw`` and at least one ``set.*``."""
    return (folder / "type.raw").is_file() and any(folder.glob("set.*"))


def systems(folder: Path) -> list[Path]:
    """The systems in a folder: itself, or all below it, sorted by path."""
    if is_system(folder):
        return [folder]
    return sorted(p.parent for p in folder.rglob("type.raw") if is_system(p.parent))


def read_system(folder: Path, type_map: Sequence[str]) -> Iterator[Any]:
    """The frames of one system, as ``ase.Atoms`` with whatever labels there are.

    Args:
        type_map: names of the types where the folder has no ``type_map.raw`` of its own.

    Raises:
        StructureError: a file that is missing or damaged, or does not fit the others.
    """
    try:
        names = (folder / "type_map.raw").read_text().split() if (folder / "type_map.raw").exists() else list(type_map)
        common = np.loadtxt(folder / "type.raw", dtype=np.int64, ndmin=1).reshape(-1)
    except (OSError, ValueError) as error:
        raise StructureError(str(folder), f"cannot read type.raw or type_map.raw: {error}") from None
    periodic = not (folder / "nopbc").exists()
    for part in sorted(folder.glob("set.*")):
        yield from _read_set(part, names, common, periodic)


def _read_set(part: Path, names: list[str], common: Array, periodic: bool) -> Iterator[Any]:
    from ase import Atoms
    from ase.calculators.singlepoint import SinglePointCalculator

    n = len(common)
    coord = _load(part, "coord", 3 * n)
    if coord is None:
        raise StructureError(str(part), "has no coord.npy")
    frames = len(coord)
    box = _load(part, "box", 9, frames) if periodic else None
    if periodic and box is None:
        raise StructureError(str(part), "has no box.npy; put a file named nopbc beside it for open boundaries")
    mixed = _load(part, "real_atom_types", n, frames)
    labels = {"energy": 1, "force": 3 * n, "virial": 9}
    given = {k: _load(part, k, width, frames) for k, width in labels.items()}
    fparam, aparam = _load(part, "fparam", None, frames), _load(part, "aparam", None, frames)
    for k in range(frames):
        types = common if mixed is None else mixed[k].astype(np.int64)
        if types.max(initial=-1) >= len(names):
            raise StructureError(f"{part} frame {k}", f"type {types.max()} has no name in type_map {names}")
        symbols = ["X" if t < 0 else names[t] for t in types]
        try:
            atoms = Atoms(symbols, positions=coord[k].reshape(n, 3))
        except KeyError as error:
            raise StructureError(f"{part} frame {k}", f"type name {error} is not an element") from None
        if box is not None:
            atoms.set_cell(box[k].reshape(3, 3))
            atoms.pbc = True
        if fparam is not None:
            atoms.info["fparam"] = fparam[k]
        if aparam is not None:
            atoms.arrays["aparam"] = aparam[k].reshape(n, -1)
        results: dict[str, Any] = {}
        if given["energy"] is not None:
            results["energy"] = float(given["energy"][k].reshape(-1)[0])
        if given["force"] is not None:
            results["forces"] = given["force"][k].reshape(n, 3).astype(np.float64)
        if given["virial"] is not None:
            atoms.info["virial"] = given["virial"][k].reshape(3, 3).astype(np.float64)
        if results:
            atoms.calc = SinglePointCalculator(atoms, **results)
        yield atoms


def _load(part: Path, name: str, width: int | None, frames: int | None = None) -> Array | None:
    path = part / f"{name}.npy"
    if not path.exists():
        return None
    try:
        array: Array = np.load(path, allow_pickle=False)
        array = array.reshape(len(array), -1) if array.ndim else array.reshape(1, 1)
    except (OSError, ValueError, EOFError) as error:
        raise StructureError(str(path), f"cannot be read: {error}") from None
    if frames is not None and len(array) != frames:
        raise StructureError(str(path), f"has {len(array)} frames, coord.npy has {frames}")
    if width is not None and array.shape[1] != width:
        raise StructureError(str(path), f"has {array.shape[1]} numbers a frame, expected {width}")
    return array
