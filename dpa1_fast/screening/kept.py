"""What the summary keeps of what structures brought along: ids by themselves, other keys where they are asked for.

A column has its key's name, or ``given_`` before it where that is a column of ours. While the job runs values stand as
JSON, which loses nothing; the finished summary has numbers where all of a column are numbers, and texts else.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import pyarrow as pa

from .own_keys import as_text, jsonable

IDS = (
    "id", "material_id", "mp_id", "mpid", "identifier", "uid", "unique_id", "structure_id", "task_id", "entry_id",
    "database_id", "oqmd_id", "icsd_id", "cod_id", "jid", "auid", "sid", "key",
)  # fmt: skip
"""Keys under which data sets name their structures."""
WHOLE = 2**63


def column_of(key: str, ours: Iterable[str]) -> str:
    """The column of a key."""
    return f"given_{key}" if key in ours else key


def kept_of(info: Mapping[str, Any], keys: Sequence[str]) -> dict[str, Any]:
    """What is kept of ``atoms.info``, as JSON has it."""
    return {key: jsonable(info[key]) for key in keys if info.get(key) is not None}


def kind_of(value: Any) -> str:
    """What a value is: bool, int, float or text."""
    if isinstance(value, bool):
        return "bool"
    if isinstance(value, int) and abs(value) < WHOLE:
        return "int"
    return "float" if isinstance(value, float) else "text"


def type_of(kinds: Sequence[str]) -> pa.DataType:
    """The type of a column that holds such values."""
    found = set(kinds)
    if found == {"bool"}:
        return pa.bool_()
    if found == {"int"}:
        return pa.int64()
    return pa.float64() if found and found <= {"int", "float"} else pa.string()


def typed(column: Sequence[str | None], kind: pa.DataType) -> pa.Array:
    """A column of JSON as values of that type."""
    values = [None if text is None else json.loads(text) for text in column]
    if kind == pa.string():
        return pa.array([None if v is None else as_text(v) for v in values], kind)
    return pa.array([None if v is None else float(v) if kind == pa.float64() else v for v in values], kind)
