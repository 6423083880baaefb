"""What a data set itself calls a structure."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

FIRST = (
    *("material_id", "mp_id", "mpid", "mp-id", "identifier", "id", "uid", "unique_id", "entry_id", "structure_id"),
    *("jid", "auid", "refcode", "cod_id", "sample_id", "config_id"),
)
"""Keys of ids, the best first. After them comes any other that ends in ``_id``."""


def identity(info: Mapping[Any, Any]) -> str | int | None:
    """The id among a structure's own keys, or None."""
    lower = {str(key).lower(): key for key in reversed(list(info))}
    others = sorted(key for key in lower if key.endswith("_id") and key not in FIRST)
    for key in (*FIRST, *others):
        value = info[lower[key]] if key in lower else None
        if isinstance(value, np.generic):
            value = value.item()
        if isinstance(value, str | int) and not isinstance(value, bool) and value != "":
            return value
    return None


def keep_scalars(info: dict[str, Any], entry: Any) -> None:
    """Adds an object's own words, numbers and flags, and parameters of the model; what is there already stays."""
    if not isinstance(entry, Mapping):
        return
    for key, value in entry.items():
        plain = isinstance(value, str | int | float) and not str(key).startswith("@")
        if plain or key in ("fparam", "aparam"):
            info.setdefault(str(key), value)
