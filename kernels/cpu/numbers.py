"""The former name of ``prepare/merging.py``, kept for programs that were written before it moved."""

from ..prepare.merging import activation_code

__all__ = ["activation_code"]
