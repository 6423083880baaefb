"""What ASE 3.29 and newer find by the entry point ``ase.plugins``: the calculator's name, without loading torch."""

from __future__ import annotations

from ase._4.plugins.plugin import CalculatorPlugin

__ase_plugins__ = {
    CalculatorPlugin(
        "dpa1_fast",
        citation="https://arxiv.org/abs/2208.08236",
        implementation="dpa1_fast.drivers.ase.DPA1Calculator",
    )
}
