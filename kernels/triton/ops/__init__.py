"""The Triton kernels: formulas and hand-derived gradients stand at the top of each file."""

from ..interpreting import settle

INTERPRETED = settle()
"""Whether the kernels of this process run in Triton's interpreter; before they are decorated."""
