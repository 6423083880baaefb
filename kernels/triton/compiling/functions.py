"""The kernels' functions by name, with keys of their sources that do not depend on what a process did before.

Triton's key of a kernel takes in the global constants of the functions that it calls only where these were hashed
before it was (seen in 3.6). So a process that launches kernels in another order looks for other files in the cache.
Hashing all of them in one order, before anything is launched, makes the keys of every process the same.
"""

from __future__ import annotations

import pkgutil
from functools import cache
from importlib import import_module
from typing import Any

from .. import ops


def name_of(function: Any) -> str:
    """A kernel's name, and the module's that it stands in."""
    return f"{function.fn.__module__.rpartition('.')[2]}.{function.fn.__name__}"


@cache
def settled() -> dict[str, Any]:
    """Every kernel and every function that one calls, by name; hashed once, in a fixed order."""
    found: dict[str, Any] = {}
    for module in sorted(x.name for x in pkgutil.iter_modules(ops.__path__, f"{ops.__name__}.")):
        for x in vars(import_module(module)).values():
            if hasattr(type(x), "cache_key"):
                found[name_of(x)] = x
    for name in sorted(found):
        found[name].cache_key  # noqa: B018 (computed once, and kept)
    return found
