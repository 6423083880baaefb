"""The Triton kernels: formulas and hand-derived gradients stand at the top of each file."""
