"""ASE's velocity Verlet with DeePMD-kit's calculator; run by ``against_deepmd.py`` in DeePMD-kit's environment.

    python bench/dynamics/deepmd_steps.py FOLDER STEPS TIMESTEP

FOLDER has model.dp and start.extxyz; model.pth and, as theirs.npy, the last positions (n, 3) in Å come into it.
"""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import torch
from ase import units
from ase.io import read
from ase.md.verlet import VelocityVerlet
from deepmd.calculator import DP
from deepmd.entrypoints.convert_backend import convert_backend


def main() -> None:
    """Converts the model, then makes the steps."""
    folder, steps, timestep = Path(sys.argv[1]), int(sys.argv[2]), float(sys.argv[3])
    torch.set_num_threads(1)
    convert_backend(INPUT=str(folder / "model.dp"), OUTPUT=str(folder / "model.pth"))
    atoms = read(folder / "start.extxyz")
    atoms.calc = DP(model=str(folder / "model.pth"))
    VelocityVerlet(atoms, timestep * units.fs).run(steps)
    np.save(folder / "theirs.npy", atoms.positions)


if __name__ == "__main__":
    main()
