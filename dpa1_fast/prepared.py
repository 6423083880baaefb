"""``dpa1-fast compile``: a model as the stand-alone engine reads it (``dpa1_fast.h``, ``pair_style dpa1_fast``)."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from . import __version__
from .checkpoint.writing import write_whole
from .errors import BackendError, ConfigError
from .kernels.prepare import bases, prepared_file
from .model import DPA1

NATIVE = Path(__file__).resolve().parent / "kernels" / "cpu" / "native"
"""``dpa1_fast.h``, the sources of the engine and their CMake file."""

MOST_ELEMENTS = 8
"""Of a model with more, the ones that are wanted must be named: every pair of them takes room in the file."""


class Prepared(NamedTuple):
    """What was written: bytes, for which elements and precisions, and what to know of it, or ""."""

    size: int
    elements: tuple[str, ...]
    precisions: tuple[str, ...]
    note: str


def write_prepared(
    model: DPA1,
    path: str | Path,
    elements: Sequence[str] | None = None,
    precisions: Sequence[str] = tuple(prepared_file.PRECISIONS),
) -> Prepared:
    """Writes the prepared model file. It is there whole, or as it was before.

    Args:
        model: the model. path: any name.
        elements: names of the model's types that will be simulated, ("all",) for all; None: all of up to 8.
        precisions: of "float64", "float32" and "bfloat16", those that the file can be loaded with.

    Raises:
        ConfigError: an element or precision that there is not, or elements must be named.
        BackendError: the model has something that the compiled engine has not.
        ModelFileError: the place can't be written to.
    """
    types = _types(model.config.type_map, elements)
    unknown = [p for p in precisions if p not in prepared_file.PRECISIONS]
    if unknown or not precisions:
        told = ", ".join(prepared_file.PRECISIONS)
        raise ConfigError(f"there is no precision {', '.join(unknown)!r} to prepare for; available: {told}")
    chosen = tuple(p for p in prepared_file.PRECISIONS if p in precisions)
    try:
        data = prepared_file.encode(model.weights(), types, chosen, f"dpa1-fast {__version__}")
    except ValueError as error:  # the kernels know no errors of ours
        raise BackendError(str(error)) from None
    write_whole(Path(path), data)
    note = ""
    if model.config.attn_layer and len(types) > bases.MOST_TYPES_AROUND:
        note = (
            f"with at most {bases.MOST_TYPES_AROUND} elements the first attention layer is faster; if fewer than "
            f"{len(types)} will be simulated, name them: --elements"
        )
    return Prepared(len(data), tuple(model.config.type_map[t] for t in types), chosen, note)


def _types(type_map: Sequence[str], elements: Sequence[str] | None) -> list[int]:
    """The types that are meant, sorted."""
    if elements is None and len(type_map) > MOST_ELEMENTS:
        raise ConfigError(
            f"the model has {len(type_map)} elements; name those that will be simulated: --elements O,H (or all)"
        )
    if elements is None or list(elements) == ["all"]:
        return list(range(len(type_map)))
    strange = [e for e in elements if e not in type_map]
    if strange or not elements:
        told = " ".join(list(type_map)[:20]) + (" …" if len(type_map) > 20 else "")
        raise ConfigError(f"the model does not know the element {', '.join(strange)!r}; it knows {told}")
    return sorted({list(type_map).index(e) for e in elements})
