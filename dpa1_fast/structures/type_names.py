"""How structures say which of a model's types an atom is. Apart, so that readers need not load torch."""

TYPE_NAMES = "dpa1_type"
"""The array of ``ase.Atoms`` that names the model's type of each atom where symbols do not say it (OW, HW)."""

VIRTUAL = "-1"
"""Stands in that array for a virtual atom."""
