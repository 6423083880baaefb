"""Model deviation: how far several models disagree, as ``dp model-devi`` and DP-GEN define it."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from ..engine import Result


def deviation(results: Sequence[Result]) -> dict[str, float]:
    """The columns of one structure, from the results of each model; eV, eV/Å, populations' standard deviations.

    Forces: the length of each atom's standard deviation, over atoms its largest, smallest and mean. Virials, by the
    number of atoms: over their nine components the largest, smallest and root mean square. Energy: by the number of
    atoms.
    """
    n = len(results[0].forces)
    forces = np.linalg.norm(np.std([r.forces for r in results], axis=0), axis=-1)
    virials = np.std([r.virial.reshape(9) / n for r in results], axis=0)
    return {
        "max_devi_f": float(forces.max()),
        "min_devi_f": float(forces.min()),
        "avg_devi_f": float(forces.mean()),
        "max_devi_v": float(virials.max()),
        "min_devi_v": float(virials.min()),
        "avg_devi_v": float(np.sqrt(np.mean(np.square(virials)))),
        "devi_e": float(np.std([r.energy / n for r in results])),
    }
