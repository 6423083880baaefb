"""Arrays of frames, as ``DeepPot.eval`` takes them, as structures."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray

from .config import DPA1Config
from .errors import StructureError
from .structures.structure import Structure, make_structure

Array = NDArray[np.float64]


def frames(
    config: DPA1Config,
    coords: ArrayLike,
    cells: ArrayLike | None,
    atom_types: ArrayLike,
    fparam: ArrayLike | None,
    aparam: ArrayLike | None,
    mixed_type: bool,
) -> list[Structure]:
    """The structures, checked; arguments as for ``DeepPot.eval``.

    Raises:
        StructureError: naming the frame or the argument, and the reason.
    """
    types = _numbers("atom_types", atom_types)
    n = types.shape[-1] if types.ndim else 0
    if n == 0:
        raise StructureError("frame 0", "the structure has no atoms")
    xyz = _numbers("coords", coords)
    if xyz.size == 0 or xyz.size % (3 * n):
        raise StructureError("coords", f"{xyz.size} numbers are not frames of {n} atoms with 3 coordinates each")
    nf = xyz.size // (3 * n)
    xyz = xyz.reshape(nf, n, 3)
    if types.size != (nf * n if mixed_type else n):
        expected = f"({nf}, {n})" if mixed_type else f"({n},)"
        raise StructureError("atom_types", f"has shape {types.shape}, expected {expected}")
    types = np.broadcast_to(types.reshape(-1, n), (nf, n))
    box = None if cells is None else _rows("cells", cells, nf, 9, []).reshape(nf, 3, 3)
    fp = _parameters("fparam", "frame", fparam, nf, config.fitting.numb_fparam, [config.fitting.numb_fparam])
    a = config.fitting.numb_aparam
    ap = _parameters("aparam", "atomic", aparam, nf, n * a, [n * a, a])
    return [
        make_structure(
            config,
            f"frame {k}",
            xyz[k],
            types[k],
            None if box is None else box[k],
            box is not None,
            None if fp is None else fp[k],
            None if ap is None else ap[k].reshape(n, a),
        )
        for k in range(nf)
    ]


def _numbers(what: str, value: ArrayLike) -> Array:
    try:
        return np.asarray(value, dtype=np.float64)
    except (TypeError, ValueError):
        raise StructureError(what, "is not an array of numbers") from None


def _parameters(what: str, kind: str, value: ArrayLike | None, nf: int, width: int, alike: list[int]) -> Array | None:
    if value is None or (not width and _numbers(what, value).size == 0):
        return None
    if not width:
        raise StructureError(what, f"was given, but the model has no {kind} parameters")
    return _rows(what, value, nf, width, alike)


def _rows(what: str, value: ArrayLike, nf: int, width: int, alike: list[int]) -> Array:
    """Reshapes to (nf, width); fewer numbers (one of the sizes ``alike``) serve every frame, or every atom, alike."""
    array = _numbers(what, value).reshape(-1)
    if array.size == nf * width:
        return array.reshape(nf, width)
    for size in alike:
        if array.size == size:
            return np.broadcast_to(np.tile(array, width // size), (nf, width))
    raise StructureError(what, f"has {array.size} numbers, expected {nf} × {width}")
