"""``deepmd.infer.DeepPot``'s interface over the engine: swap one import."""

from __future__ import annotations

import copy
from typing import Any

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray

from .checkpoint.input_script import input_script
from .checkpoint.write_dp import model_tree
from .errors import StructureError
from .frames import frames
from .loading import load
from .model import DPA1

Array = NDArray[np.float64]

NLIST_BACKENDS = ("auto", "native", "vesin", "nv")
"""DeePMD-kit's ways to find neighbours; they find the same ones."""

DTYPES = {"fp32": "float32", "fp64": "float64"}
OBSERVED = 1e-6
"""eV. A type with a smaller bias was not in the training data, DeePMD-kit takes it."""


class DeepPot:
    """Drop-in for ``deepmd.infer.DeepPot``: every method and keyword of 3.2.0, taken or refused by name.

    Args:
        model_file: as for ``dpa1_fast.load``.
        auto_batch_size: a bool, a number of atoms, or DeePMD-kit's object. Batches are always chosen here, and results
            do not depend on them.
        neighbor_list, no_jit, nlist_backend: taken; no result depends on them.
        head: the branch of a multi-task checkpoint, by name.
        device, backend, precision, threads, fixed_shape: as for ``dpa1_fast.load``.

    Raises:
        ModelFileError, BackendError: as ``dpa1_fast.load``.
        TypeError, ValueError: an option that has no meaning.
    """

    def __init__(
        self,
        model_file: Any,
        *,
        auto_batch_size: Any = True,
        neighbor_list: Any = None,
        head: str | None = None,
        no_jit: bool = False,
        nlist_backend: str = "auto",
        device: str = "auto",
        backend: str = "auto",
        precision: str = "float64",
        threads: int | None = None,
        fixed_shape: bool = False,
    ) -> None:
        if not isinstance(auto_batch_size, (bool, int)) and not hasattr(auto_batch_size, "execute_all"):
            raise TypeError(f"auto_batch_size is {auto_batch_size!r}; give a bool, a number of atoms or AutoBatchSize")
        if nlist_backend not in NLIST_BACKENDS:
            raise ValueError(f"nlist_backend {nlist_backend!r} is not known; give one of {', '.join(NLIST_BACKENDS)}")
        if head is not None and not isinstance(head, str):
            raise TypeError(f"head is {head!r}; give the name of a branch")
        self.model_file = model_file
        self.engine = load(
            model_file, device=device, backend=backend, precision=precision, head=head, threads=threads,
            fixed_shape=fixed_shape,
        )  # fmt: skip
        self.config = self.engine.config

    def close(self) -> None:
        """Nothing has to be closed."""

    def __enter__(self) -> DeepPot:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    # --- what the model is ------------------------------------------------------------------------------------------

    def get_type_map(self) -> list[str]:
        """Names of the types."""
        return list(self.config.type_map)

    def get_ntypes(self) -> int:
        """Number of types."""
        return self.config.ntypes

    def get_ntypes_spin(self) -> int:
        """Number of types with a spin: none."""
        return 0

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

    def has_chg_spin_ebd(self) -> bool:
        """Whether charge and spin are embedded: not in DPA-1."""
        return False

    def has_default_chg_spin(self) -> bool:
        """Whether charge and spin may be left out of those who need them: there are none here."""
        return False

    @property
    def has_efield(self) -> bool:
        """Whether the model takes an electric field: no."""
        return False

    @property
    def has_spin(self) -> bool:
        """Whether the model takes spins: no."""
        return False

    @property
    def use_spin(self) -> list[bool]:
        """Which types have a spin: an empty list."""
        return []

    @property
    def has_hessian(self) -> bool:
        """Whether ``eval`` gives a Hessian: no."""
        return False

    def get_sel_type(self) -> list[int]:
        """Types that have an energy of their own."""
        return [t for t in range(self.config.ntypes) if t not in self.config.atom_exclude_types]

    def get_observed_types(self) -> dict[str, Any]:
        """``type_num`` and, by atomic number, ``observed_type``: types whose energy bias is not 0."""
        from ase.data import atomic_numbers

        bias = self._model.out_bias.tolist()
        seen = [name for name, b in zip(self.config.type_map, bias, strict=True) if abs(b) > OBSERVED]
        seen.sort(key=lambda name: atomic_numbers.get(name, np.inf))
        return {"type_num": len(seen), "observed_type": seen}

    def get_model_size(self) -> dict[str, int]:
        """Number of parameters: ``descriptor``, ``fitting-net``, ``total``."""
        sizes = {name: p.numel() for name, p in self._model.named_parameters()}
        fitting = sum(size for name, size in sizes.items() if name.startswith("fitting."))
        total = sum(sizes.values())
        return {"descriptor": total - fitting, "fitting-net": fitting, "total": total}

    def get_model_def_script(self) -> dict[str, Any]:
        """The model's options under the names of DeePMD-kit's input file, defaults included; of one branch alone."""
        return input_script(self.config)

    def get_model(self) -> DPA1:
        """A copy of the torch module."""
        return copy.deepcopy(self._model)

    def serialize(self) -> dict[str, Any]:
        """The model as DeePMD-kit's tree of options and arrays, for ``deepmd``'s ``deserialize``."""
        return model_tree(self._model)

    # --- evaluating -------------------------------------------------------------------------------------------------

    def eval(
        self,
        coords: ArrayLike,
        cells: ArrayLike | None,
        atom_types: ArrayLike,
        atomic: bool = False,
        fparam: ArrayLike | None = None,
        aparam: ArrayLike | None = None,
        mixed_type: bool = False,
        *,
        charge_spin: None = None,
        spin: None = None,
        efield: None = None,
    ) -> tuple[Array, ...]:
        """Energies, forces and virials of frames with the same number of atoms.

        Args:
            coords: (nf, n, 3) or anything of that size, Å.
            cells: (nf, 9) or (nf, 3, 3) Å, rows are vectors; None for open boundaries.
            atom_types: (n,), or (nf, n) with ``mixed_type``; −1 is a virtual atom.
            atomic: also return atomic energies and virials.
            fparam: (numb_fparam,) or (nf, numb_fparam).
            aparam: (numb_aparam,), (n, numb_aparam) or (nf, n, numb_aparam).
            charge_spin, spin, efield: no DPA-1 model has them, so they are refused.

        Returns:
            energy (nf, 1) eV, force (nf, n, 3) eV/Å, virial (nf, 9) eV; with ``atomic`` also
            atom energy (nf, n, 1) eV and atom virial (nf, n, 9) eV.

        Raises:
            StructureError: naming the frame or the argument, and the reason.
        """
        _refuse(charge_spin=charge_spin, spin=spin, efield=efield)
        structures = frames(self.config, coords, cells, atom_types, fparam, aparam, mixed_type)
        results = self.engine.evaluate(structures, atomic_virials=atomic)
        n = len(structures[0])
        energy = np.array([[r.energy] for r in results])
        force = np.array([r.forces for r in results])
        virial = np.array([r.virial.reshape(9) for r in results])
        if not atomic:
            return energy, force, virial
        atom_energy = np.array([r.energies.reshape(n, 1) for r in results])
        atom_virial = np.array([r.atomic_virials for r in results]).reshape(-1, n, 9)
        return energy, force, virial, atom_energy, atom_virial

    def eval_descriptor(
        self,
        coords: ArrayLike,
        cells: ArrayLike | None,
        atom_types: ArrayLike,
        fparam: ArrayLike | None = None,
        aparam: ArrayLike | None = None,
        mixed_type: bool = False,
        dtype: str = "native",
        *,
        charge_spin: None = None,
    ) -> NDArray[Any]:
        """Descriptors (nf, n, D), 0 for virtual atoms, by the reference formulas in float64.

        Args:
            coords, cells, atom_types, fparam, aparam, mixed_type, charge_spin: as for ``eval``.
            dtype: of the result, "fp32", "fp64" or "native": float64.
        """
        kind = _dtype(dtype, "float64")
        _refuse(charge_spin=charge_spin)
        return self._features(coords, cells, atom_types, fparam, aparam, mixed_type)[0].astype(kind)

    def eval_fitting_last_layer(
        self,
        coords: ArrayLike,
        cells: ArrayLike | None,
        atom_types: ArrayLike,
        fparam: ArrayLike | None = None,
        aparam: ArrayLike | None = None,
        mixed_type: bool = False,
        dtype: str = "native",
        *,
        charge_spin: None = None,
    ) -> NDArray[Any]:
        """The energy net's last hidden layer (nf, n, H), 0 for virtual atoms.

        Args:
            coords, cells, atom_types, fparam, aparam, mixed_type, charge_spin: as for ``eval``.
            dtype: of the result, "fp32", "fp64" or "native": that of the energy net.
        """
        kind = _dtype(dtype, self.config.fitting.precision)
        _refuse(charge_spin=charge_spin)
        return self._features(coords, cells, atom_types, fparam, aparam, mixed_type)[1].astype(kind)

    def eval_embedding(
        self,
        coords: ArrayLike,
        cells: ArrayLike | None,
        atom_types: ArrayLike,
        fparam: ArrayLike | None = None,
        aparam: ArrayLike | None = None,
        mixed_type: bool = False,
        dtype: str = "fp32",
        *,
        charge_spin: None = None,
    ) -> tuple[NDArray[Any], NDArray[Any], NDArray[Any]]:
        """Descriptors (nf, n, D), last hidden layers (nf, n, H), and sums (nf, H) of those over atoms with an energy.

        Args:
            coords, cells, atom_types, fparam, aparam, mixed_type, charge_spin: as for ``eval``.
            dtype: of the results, "fp32", "fp64" or "native".
        """
        kinds = _dtype(dtype, "float64"), _dtype(dtype, self.config.fitting.precision)
        _refuse(charge_spin=charge_spin)
        descriptor, hidden = self._features(coords, cells, atom_types, fparam, aparam, mixed_type)
        counted = np.isin(np.reshape(atom_types, (-1, hidden.shape[1], 1)), self.get_sel_type())
        total = (hidden * counted).sum(axis=1)
        return descriptor.astype(kinds[0]), hidden.astype(kinds[1]), total.astype(kinds[1])

    def eval_typeebd(self) -> NDArray[Any]:
        """The embedding of each type, and of an empty slot: (ntypes + 1, tebd_dim), in the model's precision."""
        with torch.no_grad():
            table = self._model.set_dtype(torch.float64).type_table().cpu().numpy()
        return np.concatenate([table, np.zeros_like(table[:1])]).astype(_dtype("native", self.config.precision))

    @property
    def _model(self) -> DPA1:
        return self.engine._model

    def _features(self, *given: Any) -> tuple[Array, Array]:
        found = self.engine.features(frames(self.config, *given))
        return np.array([x.descriptor for x in found]), np.array([x.hidden for x in found])


def _refuse(**given: Any) -> None:
    for name, value in given.items():
        if value is not None:
            raise StructureError(name, "was given, but no DPA-1 model has one: leave it out")


def _dtype(name: str, native: str) -> np.dtype[Any]:
    if name == "native":
        return np.dtype(native if native in ("float16", "float32") else "float64")
    if name not in DTYPES:
        raise ValueError(f"dtype {name!r} is not known; give fp32, fp64 or native")
    return np.dtype(DTYPES[name])
