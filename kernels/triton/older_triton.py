"""What kernels need and older versions of Triton lack, put in its place in this process alone.

The package on disk stays as it is. Nothing here loads triton when it is imported.
"""

from __future__ import annotations

from typing import Any


def mend(interpreted: bool) -> None:
    """Before the first kernel is compiled or interpreted; once a process."""
    from triton import __version__
    from triton.language import semantic

    version = tuple(int(x) for x in __version__.split(".")[:2])
    if hasattr(semantic, "_dpa1_fast_mended"):
        return
    semantic._dpa1_fast_mended = True
    if version < (3, 5):
        _multiply_float64()
    if interpreted and version < (3, 7):
        _convert_scalars_of_one_element_arrays()


def _multiply_float64() -> None:
    """Lets ``tl.dot`` multiply float64, which Triton 3.4 can do and refuses.

    Its language takes no such operands. What comes after it takes them, and multiplies without tensor cores.
    """
    from triton.language import core, semantic

    dot = semantic.TritonSemantic.dot

    def wider(self: Any, lhs: Any, rhs: Any, acc: Any, *rest: Any) -> Any:
        if not (lhs.dtype == core.float64 and rhs.dtype == core.float64 and acc is not None):
            return dot(self, lhs, rhs, acc, *rest)
        if lhs.shape[-1].value != rhs.shape[-2].value or acc.type.scalar != core.float64:
            raise ValueError(f"no product of {lhs.type} and {rhs.type}, added to {acc.type}")
        precision = self._str_to_dot_input_precision("ieee")
        return self.tensor(self.builder.create_dot(lhs.handle, rhs.handle, acc.handle, precision, 0), acc.type)

    semantic.TritonSemantic.dot = wider


def _convert_scalars_of_one_element_arrays() -> None:
    """Lets the interpreter of Triton up to 3.6 use its numbers as bounds of loops with numpy 2.4 and later.

    Its numbers are arrays of one element, and it takes ``int()`` of them, which numpy has since refused. Triton 3.7
    takes it of the squeezed array.
    """
    from triton.runtime import interpreter

    patch = interpreter._patch_lang_tensor

    def patched(tensor: Any, *scope: Any) -> None:
        patch(tensor, *scope)
        if scope:  # Triton 3.5 and 3.6 undo what they patched, through this
            scope[0].set_attr(tensor, "__index__", _index)
        else:
            tensor.__index__ = _index

    interpreter._patch_lang_tensor = patched


def _index(number: Any) -> int:
    return int(number.handle.data.item())
