"""DPA-1 on a CPU without an autograd tape: hand-derived gradients, tile by tile, in buffers that are used again.

The derivations are in ``kernels/README.md``; the judge is ``kernels/reference.py``.
"""
