"""Whether pictures can be drawn."""

from __future__ import annotations

import os
from importlib import import_module


def can_draw() -> bool:
    """Whether matplotlib is there; importing it is then safe.

    ``MPLBACKEND`` may name a backend that this environment lacks (Jupyter sets its own for what a notebook starts), and
    matplotlib then refuses to be imported. Our pictures go into files and need none.
    """
    try:
        import_module("matplotlib")
    except ImportError:
        return False
    except ValueError:
        told = os.environ.pop("MPLBACKEND", None)
        try:
            import_module("matplotlib")
        finally:
            if told is not None:
                os.environ["MPLBACKEND"] = told
    return True
