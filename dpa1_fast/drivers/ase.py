"""An ASE calculator, keyword for keyword ``deepmd.calculator.DP``."""

from __future__ import annotations

import copy
import threading
from collections.abc import Mapping
from types import MappingProxyType
from typing import Any, ClassVar

import numpy as np
from ase.calculators.calculator import (
    Calculator,
    CalculatorSetupError,
    PropertyNotImplementedError,
    all_changes,
    external_calculators,
)
from ase.outputs import Properties, all_outputs

from ..dynamics.stepper import Moving, stress
from ..engine import VOIGT, Engine
from ..loading import load
from ..structures.structure import SMALLEST_VOLUME, from_ase
from ..structures.verlet import SKIN

NOT_COPIED = ("_lock", "_moving", "_selected")
"""Neighbour lists and who uses them: a copy makes its own."""


class DPA1Calculator(Calculator):  # type: ignore[misc]
    """Energies, forces and stresses for ASE. Neighbour lists last from step to step (``verlet.py``).

    What differs from ``DP``: the three axes may differ in periodicity, atomic energies are there too, and what DP
    leaves silent (overlapping atoms, NaN) is an error.

    ``results`` are those of ``atoms``, the last atoms that were evaluated. What a call asks for is compared with them,
    bit for bit: positions, cell, pbc, numbers and, where the model has any, frame and atomic parameters in
    ``atoms.info`` and ``atoms.arrays``. A call that fails leaves ``results`` empty. One calculator may serve several
    ``Atoms`` and threads; those wait for each other. Copies share the engine, deep copies and pickles carry their own.

    Args:
        model: a file or the name of a bundled model, as for ``dpa1_fast.load``, or an ``Engine``.
        label: ASE's.
        type_dict: which of the model's types each chemical symbol is; by default as the model names them.
        neighbor_list, nlist_backend: taken for DP's sake; there is one way to find neighbours here.
        head: the branch of a multi-task checkpoint.
        device, backend, precision, threads: as for ``Engine``, where ``model`` is not one already.
        skin: Å, how much further neighbours are searched than the cut-off.
        uncertainty: also ``results["energy_std"]`` (eV), ``["force_std"]`` (n,) (eV/Å) and ``["flags"]`` (names), see
            ``uncertainty.py``; of a model that was calibrated.

    Raises:
        UncertaintyError: of one that was not.
        ModelFileError: the file cannot be served.
        BackendError: device, backend or precision not available.
    """

    name = "DPA1"
    implemented_properties: ClassVar[list[str]] = [  # type: ignore[misc]
        "energy", "free_energy", "forces", "virial", "stress", "energies"
    ]  # fmt: skip

    def __init__(
        self,
        model: Any,
        label: str = "DPA1",
        type_dict: Mapping[str, int] | None = None,
        neighbor_list: Any = None,
        head: str | None = None,
        nlist_backend: str = "auto",
        *,
        device: str = "auto",
        backend: str = "auto",
        precision: str = "float64",
        threads: int | None = None,
        skin: float = SKIN,
        uncertainty: bool = False,
        **kwargs: Any,
    ) -> None:
        self._engine = model if isinstance(model, Engine) else load(
            model, device=device, backend=backend, precision=precision, head=head, threads=threads
        )  # fmt: skip
        self._skin = skin
        self._trust = self._engine.uncertainty if uncertainty else None
        if uncertainty:
            more = ["energy_std", "force_std", "flags"]
            self.implemented_properties = [*type(self).implemented_properties, *more]  # type: ignore[misc]
        self._types = dict(type_dict) if type_dict else None
        self._prepare()
        self._evaluated: dict[str, Any] = {}
        Calculator.__init__(self, label=label, **kwargs)

    def _prepare(self) -> None:
        self._lock, self._moving = threading.RLock(), Moving(self._engine, self._skin)
        self._selected: tuple[Any, ...] = ()  # which atoms the neighbour lists are of

    @property
    def engine(self) -> Engine:
        """What evaluates."""
        return self._engine

    @property
    def type_dict(self) -> Mapping[str, int] | None:
        """Which of the model's types each chemical symbol is, to read; None: as the model names them."""
        return None if self._types is None else MappingProxyType(self._types)

    def get_spin_polarized(self) -> bool:
        """Some of ASE's programs ask."""
        return False

    # --- what is known of which atoms -------------------------------------------------------------------------------

    def reset(self) -> None:
        """Forgets atoms, results and neighbour lists."""
        with self._lock:
            super().reset()  # type: ignore[no-untyped-call]
            self._evaluated, self._selected = {}, ()
            self._moving.forget()

    def check_state(self, atoms: Any, tol: float = 0.0) -> list[str]:
        """Names what differs from the atoms that ``results`` are of; empty if nothing does.

        Args:
            tol: not used, any difference counts.
        """
        if not self._evaluated:
            return list(all_changes)
        return [name for name, value in self._everything(atoms).items() if value != self._evaluated[name]]

    def get_property(self, name: str, atoms: Any = None, allow_calculation: bool = True) -> Any:
        """A property of atoms, by default of those that were evaluated last.

        Args:
            allow_calculation: False gives None where the property is not known yet.

        Raises:
            StructureError: what is wrong with the atoms.
            PropertyNotImplementedError: no such property, or the stress of atoms without a volume.
            CalculatorSetupError: no atoms, and none were evaluated before.
        """
        if name not in self.implemented_properties:
            raise PropertyNotImplementedError(f"{name} property not implemented")
        with self._lock:
            atoms = self.atoms if atoms is None else atoms
            if atoms is None or self.check_state(atoms) or name not in self.results:
                if not allow_calculation:
                    return None
                self.calculate(atoms, [name])
            value = self.results[name]
        return value.copy() if isinstance(value, np.ndarray) else value

    def calculate_properties(self, atoms: Any, properties: Any) -> Properties:
        """ASE's object of properties, evaluated anew."""
        with self._lock:
            self.calculate(atoms, properties)
            return self.export_properties()

    def export_properties(self) -> Properties:
        """The results whose names ASE has."""
        return Properties({name: x for name, x in self.results.items() if name in all_outputs})

    def __getstate__(self) -> dict[str, Any]:
        """Everything but the neighbour lists, which a copy makes for itself."""
        with self._lock:
            state = {name: x for name, x in self.__dict__.items() if name not in NOT_COPIED}
            atoms = None if self.atoms is None else self.atoms.copy()
            own = {"atoms": atoms, "results": copy.deepcopy(self.results), "parameters": copy.copy(self.parameters)}
            return state | own

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self._prepare()

    # --- evaluating -------------------------------------------------------------------------------------------------

    def calculate(
        self, atoms: Any = None, properties: Any = ("energy",), system_changes: list[str] = all_changes
    ) -> None:
        """Computes all properties at once.

        ``results["virial"]`` is (3, 3) eV as DeePMD-kit defines it, ``results["stress"]`` (6,) eV/Å³ in ASE's order
        and sign.

        Args:
            atoms: by default those that were evaluated last.
            properties: "stress" among them is refused where there is no volume, before anything is done.
            system_changes: not looked at. What a caller believes to have changed since its last call need not be what
                changed since the last evaluation.

        Raises:
            StructureError: what is wrong with the atoms.
            PropertyNotImplementedError: the stress of atoms without a volume was asked for.
            CalculatorSetupError: no atoms, and none were evaluated before.
        """
        with self._lock:
            atoms = self.atoms if atoms is None else atoms
            if atoms is None:
                raise CalculatorSetupError("this calculator has no atoms: give it some")
            if "stress" in properties and not _has_volume(atoms):
                raise PropertyNotImplementedError("these atoms have no volume, so they have no stress")
            try:
                self._evaluate(atoms.copy())
            except BaseException:
                self.reset()
                raise

    def _evaluate(self, atoms: Any) -> None:
        everything = self._everything(atoms)
        # Not compared with the structure of the last evaluation: its parameters may be arrays that the caller changes.
        same = tuple(everything.get(name) for name in ("numbers", "pbc", "fparam", "aparam"))
        named = bool(self._selected) and self._selected[0] == same[0]
        name = self._moving.verlet.structures[0].name if named else atoms.get_chemical_formula()
        structure = from_ase(self._engine.config, atoms, name, types=self._types)
        if same != self._selected:
            self._moving.select([structure])
            self._selected = same
        cell = structure.cell[None]
        step = self._moving.step(structure.positions, cell, self._trust)
        if step.errors:
            raise step.errors[0]
        energy = float(step.energy[0])
        results = {
            "energy": energy,
            "free_energy": energy,
            "energies": step.energies,
            "forces": step.forces,
            "virial": step.virial[0],
        }
        if _has_volume(atoms):
            full = stress(step.virial, cell, structure.pbc[None])[0]
            results["stress"] = np.array([full[a, b] for a, b in VOIGT])
        for estimate in step.estimates or ():
            results |= {name: getattr(estimate, name) for name in ("energy_std", "force_std", "flags")}
        self.atoms, self.results, self._evaluated = atoms, results, everything

    def _everything(self, atoms: Any) -> dict[str, Any]:
        """All of the atoms that results depend on, as bytes: no later change of the atoms changes it."""
        fitting = self._engine.config.fitting
        arrays = {"positions": atoms.positions, "numbers": atoms.numbers, "cell": atoms.cell[:], "pbc": atoms.pbc}
        found: dict[str, Any] = {name: (x.dtype.str, x.tobytes()) for name, x in arrays.items()}
        if fitting.numb_fparam:
            found["fparam"] = _bytes(atoms.info.get("fparam"))
        if fitting.numb_aparam:
            found["aparam"] = _bytes(atoms.arrays.get("aparam")), _bytes(atoms.info.get("aparam"))
        return found


def _bytes(parameter: Any) -> Any:
    """A parameter as something that equals the same one only; what is no array of numbers equals nothing."""
    if parameter is None:
        return None
    try:
        array = np.asarray(parameter, dtype=np.float64)
    except (TypeError, ValueError):
        return object()
    return array.shape, array.tobytes()


def _has_volume(atoms: Any) -> bool:
    return bool(atoms.pbc.any()) and abs(float(np.linalg.det(atoms.cell[:]))) >= SMALLEST_VOLUME


# ASE's ``get_calculator_class("dpa1_fast")`` knows it from here on; tools of ASE's that run before look for a plugin.
external_calculators["dpa1_fast"] = DPA1Calculator
