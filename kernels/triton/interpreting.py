"""Whether Triton compiles kernels or interprets them: settled for a whole process when triton is loaded.

Nothing here loads triton when it is imported.
"""

from __future__ import annotations

import os
import sys

from .older_triton import mend

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
    mend(interpreted)
    return interpreted
