"""The operations of DPA-1: the reference formulas and every fast path that must agree with them.

Imported as ``dpa1_fast.kernels`` and never as top-level ``kernels``: that name belongs to another package.
"""

if __name__ != "dpa1_fast.kernels":
    raise ImportError(f"import this package as dpa1_fast.kernels, not as {__name__!r}")
