"""``MLPotential("dpa1_fast", model=…)`` of openmm-ml, found by the entry point ``openmmml.potentials``."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from openmmml.mlpotential import MLPotentialImpl, MLPotentialImplFactory


class DPA1PotentialFactory(MLPotentialImplFactory):  # type: ignore[misc]
    """What openmm-ml makes for the name "dpa1_fast"."""

    def createImpl(self, name: str, **args: Any) -> DPA1Potential:
        """A potential of a model, see ``DPA1Potential``."""
        return DPA1Potential(**args)


class DPA1Potential(MLPotentialImpl):  # type: ignore[misc]
    """DPA-1 on a topology, or on some of its atoms (mixed systems).

    Args:
        model: a file or a bundled model's name.
        options: precision, threads, device, backend, head of ``dpa1_fast.load``.
    """

    def __init__(self, model: str, **options: Any) -> None:
        self._model, self._options = model, options

    def addForces(self, topology: Any, system: Any, atoms: Iterable[int] | None, forceGroup: int, **args: Any) -> None:
        """Adds the force to a system; options given here go before those of the potential.

        Raises:
            ValueError: an atom of the topology has no element. And what ``python_force`` raises.
        """
        from .openmm import python_force

        every = list(topology.atoms())
        chosen = every if atoms is None else [every[i] for i in atoms]
        for atom in chosen:
            if atom.element is None:
                raise ValueError(f"atom {atom.index} ({atom.name}) of the topology has no element; give it one")
        own = {k: x for k, x in args.items() if k in ("precision", "threads", "device", "backend", "head", "skin")}
        periodic = topology.getPeriodicBoxVectors() is not None or system.usesPeriodicBoundaryConditions()
        symbols = [atom.element.symbol for atom in chosen]
        force = python_force(self._model, symbols, periodic, atoms, **{**self._options, **own})
        force.setForceGroup(forceGroup)
        system.addForce(force)
