"""Elastic constants of aluminium by matcalc with dpa1-fast's ASE calculator.

    pip install matcalc && python examples/drivers/matcalc_elasticity.py

``dpa1-fast elastic`` does the same for any number of crystals at once.
"""

from __future__ import annotations

from ase.build import bulk
from matcalc import ElasticityCalc

from dpa1_fast.drivers.ase import DPA1Calculator


def main() -> None:
    calculation = ElasticityCalc(
        DPA1Calculator("almgcu-demo"), fmax=0.001, norm_strains=(-0.005, 0.005), shear_strains=(-0.005, 0.005),
        units_GPa=True,
    )  # fmt: skip
    found = calculation.calc(bulk("Al", "fcc", a=4.05, cubic=True))
    print(f"bulk modulus {found['bulk_modulus_vrh']:.2f} GPa, shear modulus {found['shear_modulus_vrh']:.2f} GPa")


if __name__ == "__main__":
    main()
