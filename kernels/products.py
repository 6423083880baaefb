"""The former name of ``triton/ops/products.py``, kept for programs that were written before it moved."""

from .triton.ops.products import activate

__all__ = ["activate"]
