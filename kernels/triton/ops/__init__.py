"""The Triton kernels: formulas and hand-derived gradients stand at the top of each file.

Constants that all share: M channels, MP of them when filled up to a power of two (N and NP where M stands for the first
layer's coordinates); AXIS axis neurons; PREC how products are done, see ``dot``. What a launch chooses: BLOCK_ROWS rows
of a program, or BLOCK_QUERIES and BLOCK_KEYS where all pairs of neighbours are looked at; BLOCK_INNER of the inner
dimension of a product at a time, BLOCK_COLUMNS of its columns.
"""

from ..interpreting import settle

INTERPRETED = settle()
"""Whether the kernels of this process run in Triton's interpreter; before they are decorated."""
