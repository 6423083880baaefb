"""``deepmd.infer.DeepPot``'s interface over the engine: swap one import."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from .errors import StructureError
from .loading import load
from .structures.structure import Structure, make_structure

Array = NDArray[np.float64]


class DeepPot:
    """Drop-in for ``deepmd.infer.DeepPot``.

    Args:
        model_file: as for ``dpa1_fast.load``.
        **options: ``device``, ``backend``, ``precision``, ``head``, ``threads``, ``fixed_shape``, as for
            ``dpa1_fast.load``.
    """

    def __init__(self, model_file: Any, **options: Any) -> None:
        self.engine = load(model_file, **options)
        self.config = self.engine.config

    def get_type_map(self) -> list[str]:
        """Names of the types."""
        return list(self.config.type_map)

    def get_ntypes(self) -> int:
        """Number of types."""
        return self.config.ntypes

    def get_rcut(self) -> float:
        """Cut-off radius in Å."""
        return self.config.rcut

    def get_dim_fparam(self) -> int:
        """Number of frame parameters."""
        return self.config.fitting.numb_fparam

    def get_dim_aparam(self) -> int:
        """Number of atomic parameters."""
        return self.config.fitting.numb_aparam

    def has_default_fparam(self) -> bool:
        """Whether fparam may be left out."""
        return self.config.fitting.default_fparam is not None

    def get_sel_type(self) -> list[int]:
        """Types that have an energy of their own."""
        return [t for t in range(self.config.ntypes) if t not in self.config.atom_exclude_types]

    def eval(
        self,
        coords: ArrayLike,
        cells: ArrayLike | None,
        atom_types: ArrayLike,
        atomic: bool = False,
        fparam: ArrayLike | None = None,
        aparam: ArrayLike | None = None,
        mixed_type: bool = False,
    ) -> tuple[Array, ...]:
        """Energies, forces and virials of frames with the same number of atoms.

        Args:
            coords: (nf, n, 3) or anything of that size, Å.
            cells: (nf, 9) or (nf, 3, 3) Å, rows are vectors; None for open boundaries.
            atom_types: (n,), or (nf, n) with ``mixed_type``; −1 is a virtual atom.
            atomic: also return atomic energies and virials.
            fparam: (numb_fparam,) or (nf, numb_fparam).
            aparam: (numb_aparam,), (n, numb_aparam) or (nf, n, numb_aparam).

        Returns:
            energy (nf, 1) eV, force (nf, n, 3) eV/Å, virial (nf, 9) eV; with ``atomic`` also
            atom energy (nf, n, 1) eV and atom virial (nf, n, 9) eV.

        Raises:
            StructureError: naming the frame and the reason.
        """
        frames = self._frames(coords, cells, atom_types, fparam, aparam, mixed_type)
        results = self.engine.evaluate(frames, atomic_virials=atomic)
        n = len(frames[0])
        energy = np.array([[r.energy] for r in results])
        force = np.array([r.forces for r in results])
        virial = np.array([r.virial.reshape(9) for r in results])
        if not atomic:
            return energy, force, virial
        atom_energy = np.array([r.energies.reshape(n, 1) for r in results])
        atom_virial = np.array([r.atomic_virials for r in results]).reshape(-1, n, 9)
        return energy, force, virial, atom_energy, atom_virial

    def _frames(
        self,
        coords: ArrayLike,
        cells: ArrayLike | None,
        atom_types: ArrayLike,
        fparam: ArrayLike | None,
        aparam: ArrayLike | None,
        mixed_type: bool,
    ) -> list[Structure]:
        types = np.asarray(atom_types)
        n = types.shape[-1] if types.ndim else 0
        if n == 0:
            raise StructureError("frame 0", "the structure has no atoms")
        xyz = np.asarray(coords, dtype=np.float64)
        if xyz.size == 0 or xyz.size % (3 * n):
            raise StructureError("coords", f"{xyz.size} numbers are not frames of {n} atoms with 3 coordinates each")
        nf = xyz.size // (3 * n)
        xyz = xyz.reshape(nf, n, 3)
        if types.size != (nf * n if mixed_type else n):
            expected = f"({nf}, {n})" if mixed_type else f"({n},)"
            raise StructureError("atom_types", f"has shape {types.shape}, expected {expected}")
        types = np.broadcast_to(types.reshape(-1, n), (nf, n))
        box = None if cells is None else _rows("cells", cells, nf, 9, [9]).reshape(nf, 3, 3)
        f, a = self.config.fitting.numb_fparam, self.config.fitting.numb_aparam
        fp = None if fparam is None or not f else _rows("fparam", fparam, nf, f, [f])
        ap = None if aparam is None or not a else _rows("aparam", aparam, nf, n * a, [n * a, a])
        return [
            make_structure(
                self.config,
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


def _rows(what: str, value: ArrayLike, nf: int, width: int, alike: list[int]) -> Array:
    """Reshapes to (nf, width); fewer numbers (one of the sizes ``alike``) serve every frame, or every atom, alike."""
    array = np.asarray(value, dtype=np.float64).reshape(-1)
    if array.size == nf * width:
        return array.reshape(nf, width)
    for size in alike:
        if array.size == size and what != "cells":
            return np.broadcast_to(np.tile(array, width // size), (nf, width))
    raise StructureError(what, f"has {array.size} numbers, expected {nf} × {width}")
