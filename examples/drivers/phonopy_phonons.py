"""Phonons of aluminium by phonopy, forces by dpa1-fast's ASE calculator.

    pip install 'dpa1-fast[phonons]' && python examples/drivers/phonopy_phonons.py

``dpa1-fast phonons`` does the same for any number of crystals at once.
"""

from __future__ import annotations

import numpy as np
from ase import Atoms
from ase.build import bulk
from phonopy import Phonopy
from phonopy.structure.atoms import PhonopyAtoms

from dpa1_fast.drivers.ase import DPA1Calculator


def main() -> None:
    metal, calculator = bulk("Al", "fcc", a=4.05), DPA1Calculator("almgcu-demo")
    cell = PhonopyAtoms(symbols=list(metal.symbols), cell=metal.cell[:], scaled_positions=metal.get_scaled_positions())
    phonopy = Phonopy(cell, supercell_matrix=np.diag([4, 4, 4]))
    phonopy.generate_displacements(distance=0.01)
    forces = []
    for displaced in phonopy.supercells_with_displacements:
        atoms = Atoms(displaced.symbols, cell=displaced.cell, scaled_positions=displaced.scaled_positions, pbc=True)
        atoms.calc = calculator
        forces.append(atoms.get_forces())
    phonopy.forces = forces
    phonopy.produce_force_constants()
    phonopy.run_mesh([12, 12, 12])
    print(f"frequencies from {phonopy.mesh.frequencies.min():.3f} to {phonopy.mesh.frequencies.max():.3f} THz")


if __name__ == "__main__":
    main()
