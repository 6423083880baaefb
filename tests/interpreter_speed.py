"""Triton's interpreter without a third of its work: it patches the language once a launch and not at every function.

A launch replaces the functions of ``triton.language`` by interpreted ones and puts them back at its end. Each call of a
kernel's own helper function looks all of them up again, and finds nothing left to replace.
"""

from __future__ import annotations

from functools import cache
from importlib.util import find_spec
from typing import Any


class _Nothing:
    """Stands for what a helper's own patching would have to undo."""

    def restore(self) -> None:
        """Nothing was changed."""


def patch_once_a_launch() -> None:
    """Changes the interpreter of this process."""
    if find_spec("triton") is None:
        return
    from triton import language
    from triton.runtime import interpreter

    launch, patch = interpreter.GridExecutor.__call__, interpreter._patch_lang
    patched_in: list[set[int]] = []
    """Of each launch that is under way, the modules of the language that are patched already."""

    @cache
    def modules_of(fn: Any) -> frozenset[int]:
        """By identity, the modules of the language that a function sees, as the interpreter looks for them."""
        return frozenset(id(x) for x in fn.__globals__.values() if x is language or x is language.core)

    def counted(self: Any, *args: Any, **kwargs: Any) -> Any:
        patched_in.append(set())
        try:
            return launch(self, *args, **kwargs)
        finally:
            patched_in.pop()

    def patched(fn: Any) -> Any:
        modules = modules_of(fn)
        if not patched_in:
            return patch(fn)
        if modules <= patched_in[-1]:
            return _Nothing()
        patched_in[-1] |= modules
        return patch(fn)

    interpreter.GridExecutor.__call__ = counted
    interpreter._patch_lang = patched
