"""Whether Triton compiles kernels or interprets them: settled for a whole process when triton is loaded.

Nothing here loads triton when it is imported.
"""

from __future__ import annotations

import os
import sys
from typing import Any

VARIABLE = "TRITON_INTERPRET"


def load_interpreted() -> None:
    """Loads triton with its interpreter, unless it is loaded already.

    The environment is what it was afterwards: programs that this one starts choose for themselves.
    """
    if "triton" in sys.modules:
        return
    before = os.environ.get(VARIABLE)
    os.environ[VARIABLE] = "1"
    try:
        import triton  # noqa: F401
    finally:
        if before is None:
            del os.environ[VARIABLE]
        else:
            os.environ[VARIABLE] = before


def settle() -> bool:
    """Whether kernels are interpreted: all are if Triton's own functions were when it was loaded, else none.

    From now on this is what ``triton.jit`` goes by, in this process alone, whatever the environment says by now: a
    compiled kernel can't call interpreted functions, nor the other way round.
    """
    from triton import knobs, language
    from triton.runtime.interpreter import InterpretedFunction

    interpreted = isinstance(language.sum, InterpretedFunction)
    propagated, knobs.propagate_env = knobs.propagate_env, False
    try:
        knobs.runtime.interpret = interpreted
    finally:
        knobs.propagate_env = propagated
    if interpreted:
        _convert_scalars_of_one_element_arrays()
    return interpreted


def _convert_scalars_of_one_element_arrays() -> None:
    """Lets the interpreter of Triton up to 3.6 use its numbers as bounds of loops with numpy 2.4 and later.

    Its numbers are arrays of one element, and it takes ``int()`` of them, which numpy has since refused. Triton 3.7
    takes it of the squeezed array. Only this process' interpreter is changed; the package on disk is not.
    """
    from triton import __version__
    from triton.runtime import interpreter

    if tuple(int(x) for x in __version__.split(".")[:2]) >= (3, 7) or hasattr(interpreter, "_dpa1_fast_scalars"):
        return
    patch = interpreter._patch_lang_tensor

    def patched(tensor: Any, *scope: Any) -> None:
        patch(tensor, *scope)
        if scope:  # Triton 3.5 and 3.6 undo what they patched, through this
            scope[0].set_attr(tensor, "__index__", _index)
        else:
            tensor.__index__ = _index

    interpreter._patch_lang_tensor = patched
    interpreter._dpa1_fast_scalars = True


def _index(number: Any) -> int:
    return int(number.handle.data.item())
