"""What a structure brings along, in a form that every reader of extended XYZ gets back.

The format is one line of ``key=value`` and columns of words. Texts with line ends or quotes, values that would be read
as others (the id "007" as the number 7), nested and empty ones are written as ASE writes what it cannot write
otherwise: ``_JSON`` and the value in ASCII, which its reader decodes. What even that does not carry is kept as text. A
key with a meaning of its own (``Lattice``, ``forces``) becomes ``given_Lattice``.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
from ase.calculators.calculator import all_properties

KEY = re.compile(r"[A-Za-z_][A-Za-z0-9_.-]*", re.ASCII)
WORDS = re.compile(r"[A-Za-z_][A-Za-z0-9_.:/+-]*(?: [A-Za-z_][A-Za-z0-9_.:/+-]*)*", re.ASCII)
"""Text that stays text when it is read: nothing in it is taken for a number or a flag, as far as ``NOT_WORDS`` goes."""
NOT_WORDS = re.compile(r"\b(t|f|true|false|nan|inf|infinity|_json)\b", re.IGNORECASE)
MEANT = {*all_properties, "Lattice", "Properties", "pbc"}
COLUMNS_MEANT = {*all_properties, "species", "pos", "Z", "symbols", "numbers", "positions", "move_mask", "charge"}


def clean_info(info: Mapping[Any, Any]) -> dict[str, Any]:
    """``atoms.info`` with keys and values that are read back."""
    out: dict[str, Any] = {}
    for key, value in info.items():
        plain = _value(value)
        name = _key(str(key))
        matrix = isinstance(plain, np.ndarray) and plain.shape == (3, 3) and plain.dtype.kind in "if"
        verbatim = isinstance(plain, str) and not plain.startswith("_JSON ")
        if name in MEANT or (name == "virial" and not matrix) or (name.lower() == "uid" and not verbatim):
            name = f"given_{name}"
        out[free(name, out)] = plain
    return out


def clean_arrays(arrays: Mapping[str, Any], length: int) -> dict[str, Any]:
    """``atoms.arrays`` without numbers and positions, as columns that are read back: one or two axes, no blanks."""
    out: dict[str, Any] = {}
    for key, value in arrays.items():
        if key in ("numbers", "positions"):
            continue
        name = _key(str(key))
        column = _column(np.asarray(value), length)
        if column is not None:
            out[free(f"given_{name}" if name in COLUMNS_MEANT else name, out)] = column
    return out


def free(name: str, taken: Iterable[str]) -> str:
    """A name that is not taken."""
    while name in taken:
        name += "_"
    return name


def jsonable(value: Any) -> Any:
    """A value as JSON has it; what it does not have becomes text."""
    if isinstance(value, np.ndarray | np.generic):
        value = value.tolist()
    if value is None or isinstance(value, bool | int | float | str):
        return value
    if isinstance(value, Mapping):
        return {str(k): jsonable(v) for k, v in value.items()}
    if isinstance(value, list | tuple | set | frozenset):
        return [jsonable(v) for v in value]
    return value.decode("utf-8", "backslashreplace") if isinstance(value, bytes) else str(value)


def as_text(value: Any) -> str:
    """A value as one text: a text as it is, all else as JSON."""
    return value if isinstance(value, str) else json.dumps(jsonable(value), ensure_ascii=False)


def _key(key: str) -> str:
    if KEY.fullmatch(key):
        return key
    key = re.sub(r"[^A-Za-z0-9_.-]", "_", key)
    return key if KEY.fullmatch(key) else f"_{key}"


def _value(value: Any) -> Any:
    """A value that ASE writes so that it reads the same."""
    if isinstance(value, np.ndarray | np.generic) and value.ndim == 0:
        value = value.item()
    if isinstance(value, bool | float) or (isinstance(value, int) and abs(value) < 2**63):
        return value
    if isinstance(value, str) and WORDS.fullmatch(value) and not NOT_WORDS.search(value):
        return value
    vector = isinstance(value, np.ndarray) and value.size > 1 and value.ndim == 1 and value.dtype.kind in "ifb"
    if vector or (isinstance(value, np.ndarray) and value.shape == (3, 3) and value.dtype.kind in "if"):
        return value
    try:
        text = json.dumps(jsonable(value))
        np.array(json.loads(text))  # which is what ASE's reader does with it
    except (ValueError, TypeError, OverflowError, RecursionError):
        text = json.dumps(_safe(value))
    return "_JSON " + text.replace("\\", "\\\\")  # ASE's reader undoes one level, its writer adds none


def _safe(value: Any) -> str:
    try:
        return as_text(value)
    except (ValueError, TypeError, RecursionError):
        return f"a {type(value).__name__} that can't be written"


def _column(values: np.ndarray, length: int) -> np.ndarray | None:
    """Columns of a file; None where there are none."""
    if values.ndim == 0 or len(values) != length or values.size == 0:
        return None
    if values.ndim > 2:
        values = values.reshape(length, -1)
    kind = values.dtype.kind
    if kind in "biu" or (kind == "f" and values.dtype.itemsize <= 8):
        return values.astype({"b": bool, "f": np.float64}.get(kind, np.int64)) if kind != "b" else values
    words = [_word(as_text(x.item() if isinstance(x, np.generic) else x)) for x in values.ravel()]
    return np.array(words).reshape(values.shape)


def _word(text: str) -> str:
    """Text without blanks."""
    text = re.sub(r"[^!-~]", lambda m: m[0].encode("unicode_escape").decode().replace(" ", "\\x20"), text)
    return text or '""'
