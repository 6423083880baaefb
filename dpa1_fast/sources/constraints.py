"""Constraints out of what files say of them: ASE's dictionaries, and flags of selective dynamics."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from ase.constraints import FixAtoms, FixConstraint, FixScaled, dict2constraint
from numpy.typing import ArrayLike

from .reading import Damaged, reason

REBUILT = {
    *("FixAtoms", "FixCartesian", "FixScaled", "FixedLine", "FixedPlane", "FixedMode", "FixBondLength"),
    *("FixBondLengths", "FixCom", "FixSubsetCom", "FixLinearTriatomic", "FixInternals", "Hookean"),
    *("ExternalForce", "MirrorForce", "MirrorTorque"),
}
"""What is made of numbers alone. Others, such as those of formulas, are kept by name."""


class UnknownConstraint(FixConstraint):  # type: ignore[misc]
    """A constraint of a file that cannot be rebuilt. It is kept, so that nobody relaxes as if it weren't there.

    Attributes:
        kind: its name in the file. why: what is wrong with it. entry: what the file says.
    """

    def __init__(self, kind: str, why: str, entry: Any = None) -> None:
        self.kind, self.why, self.entry = kind, why, entry

    def todict(self) -> dict[str, Any]:
        """As it was in the file, so that it is written as it was read."""
        return {"name": self.kind, "kwargs": self.entry if isinstance(self.entry, dict) else {}}

    def adjust_positions(self, atoms: Any, new: Any) -> None:
        """Nothing is known of it, so nothing is done."""

    def adjust_forces(self, atoms: Any, forces: Any) -> None:
        """Nothing is known of it, so nothing is done."""

    def get_removed_dof(self, atoms: Any) -> int:
        """Nothing is known of it."""
        return 0

    def __repr__(self) -> str:
        return f"UnknownConstraint({self.kind}: {self.why})"


def from_dicts(entries: Any) -> list[FixConstraint]:
    """The constraints in ASE's dictionaries: ``name`` with ``kwargs``, or ``__name__`` among the arguments.

    One that cannot be rebuilt is an ``UnknownConstraint``.

    Raises:
        Damaged: this is no list of such dictionaries.
    """
    if isinstance(entries, dict):
        entries = [entries]
    if not isinstance(entries, list) or not all(isinstance(e, dict) for e in entries):
        raise Damaged("its constraints are no list of objects with a name")
    return [_rebuilt(entry) for entry in entries]


def _rebuilt(entry: dict[str, Any]) -> FixConstraint:
    if "__name__" in entry:  # how ASE wrote them long ago
        entry = {"name": entry["__name__"], "kwargs": {k: v for k, v in entry.items() if k != "__name__"}}
    kind, arguments = str(entry.get("name", "without a name")).rsplit(".", 1)[-1], entry.get("kwargs", {})
    if kind not in REBUILT:
        return UnknownConstraint(kind, "it is not known", arguments)
    try:
        arguments = {k: _plain(v) for k, v in arguments.items()}
        if kind == "FixScaled":
            arguments.pop("cell", None)  # which older versions of ASE kept there too
        return dict2constraint({"name": kind, "kwargs": arguments})
    except (TypeError, ValueError, LookupError, AttributeError, AssertionError, RuntimeError) as error:
        return UnknownConstraint(kind, reason(error), entry.get("kwargs"))


def _plain(value: Any) -> Any:
    """A value without ASE's wrapping of arrays."""
    if isinstance(value, dict) and "__ndarray__" in value:
        shape, dtype, flat = value["__ndarray__"]
        return np.array(flat, {"bool": bool, "int64": int, "int32": int}.get(str(dtype), float)).reshape(shape)
    return value


def from_flags(free: ArrayLike) -> list[FixConstraint]:
    """The constraints that selective dynamics means.

    Args:
        free: (n, 3) whether an atom may move along each lattice vector.
    """
    fixed = ~np.asarray(free, bool)
    whole = np.flatnonzero(fixed.all(axis=1))
    partly = np.flatnonzero(fixed.any(axis=1) & ~fixed.all(axis=1))
    masks = {tuple(fixed[k].tolist()) for k in partly}
    out: list[FixConstraint] = [FixAtoms(whole)] if len(whole) else []
    held = {mask: [int(k) for k in partly if tuple(fixed[k].tolist()) == mask] for mask in sorted(masks)}
    return out + [FixScaled(indices, mask) for mask, indices in held.items()]


def sound(constraints: Sequence[Any], natoms: int) -> list[Any]:
    """The same constraints; one that speaks of atoms that are not there is an ``UnknownConstraint``."""
    out = []
    for constraint in constraints:
        try:
            indices = np.asarray(constraint.get_indices(), dtype=np.int64).reshape(-1)
        except (AttributeError, NotImplementedError, TypeError, ValueError):
            indices = np.zeros(0, np.int64)
        if len(indices) and (indices.max() >= natoms or indices.min() < -natoms):
            kind = type(constraint).__name__
            arguments = constraint.todict().get("kwargs")
            constraint = UnknownConstraint(kind, f"it holds atom {indices.max()} of {natoms}", arguments)
        out.append(constraint)
    return out
