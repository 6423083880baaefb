"""Energy above the convex hull of reference entries, by pymatgen."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from .options import OptionError

SHAPE = 'a JSON list of {"formula": "Al2Cu", "energy": eV of that formula}, or of pymatgen\'s ComputedEntry dicts'


class Hull:
    """The hull of a file's entries.

    Args:
        path: JSON. A list of ``{"formula", "energy"}`` (eV for all atoms of the formula), of dicts of pymatgen's
            ``ComputedEntry`` (``{"composition", "energy", …}``), or ``{"entries": […]}``.

    Raises:
        OptionError: the file, or pymatgen, is not there, or the file does not hold such entries.
    """

    def __init__(self, path: Path) -> None:
        try:
            from pymatgen.analysis.phase_diagram import PDEntry, PhaseDiagram
            from pymatgen.core.composition import Composition
        except ImportError:
            raise OptionError("the energy above hull needs pymatgen: pip install 'dpa1-fast[hull]'") from None
        self._composition: Any = Composition
        try:
            entries = json.loads(path.read_text(encoding="utf-8"))
            entries = entries["entries"] if isinstance(entries, Mapping) else entries
            found = [PDEntry(Composition(e.get("composition") or e["formula"]), float(e["energy"])) for e in entries]
            self._diagram: Any = PhaseDiagram(found)
        except OSError as error:
            raise OptionError(f"{path}: cannot be read ({error.strerror})") from None
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise OptionError(f"{path}: does not hold reference entries ({error}); expected {SHAPE}") from None
        self._elements = {str(e) for e in self._diagram.elements}
        self._known: dict[str, float | None] = {}

    def above(self, formula: str, energy_per_atom: float) -> float | None:
        """Energy above the hull, eV per atom: negative where a structure lies below the references' hull. None where
        an element has no reference."""
        if formula not in self._known:
            composition = self._composition(formula)
            known = {str(e) for e in composition.elements} <= self._elements
            self._known[formula] = float(self._diagram.get_hull_energy_per_atom(composition)) if known else None
        hull = self._known[formula]
        return None if hull is None else energy_per_atom - hull
