"""dpa1-fast: the fastest and most trustworthy way to run DPA-1 (arXiv 2208.08236)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"
__all__ = ["DPA1", "DPA1Config", "DeepPot", "Engine", "Relaxed", "Result", "__version__", "load", "relax", "screen"]

if TYPE_CHECKING:
    from .config import DPA1Config
    from .deep_pot import DeepPot
    from .dynamics.relax import Relaxed, relax
    from .engine import Engine, Result
    from .loading import load
    from .model import DPA1
    from .screening import screen

_HOMES = {
    "DPA1": "model",
    "DPA1Config": "config",
    "DeepPot": "deep_pot",
    "Engine": "engine",
    "Relaxed": "dynamics.relax",
    "Result": "engine",
    "load": "loading",
    "relax": "dynamics.relax",
    "screen": "screening",
}


def __getattr__(name: str) -> Any:
    # torch takes most of the import time; whoever only wants the version does not wait for it.
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from importlib import import_module

    value = getattr(import_module(f".{_HOMES[name]}", __name__), name)
    globals()[name] = value
    return value
