"""What ``dpa1-fast embed`` does and prints."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path

from ..engine import Engine
from ..sources import find_sources
from .embed import DTYPES, OutputError, embed, write_types


def embed_command(
    engine: Engine,
    data: Sequence[str],
    output: Path,
    type_map: Sequence[str] = (),
    format: str | None = None,
    dtype: str = "float64",
    mean: bool = False,
    types: bool = False,
) -> int:
    """Writes descriptors. Returns the exit code: 0 all done, 1 some structures failed, 2 none could be done."""
    if dtype not in DTYPES:
        raise OutputError(f"--dtype {dtype} is not known; known are {', '.join(DTYPES)}")
    sources = find_sources(data, engine.config.type_map, type_map, format)
    counted, failures = embed(engine, sources, output, dtype, mean)
    for line in failures.told():
        print(f"failed: {line}", file=sys.stderr)
    where = [f"{counted.files} file{'s' if counted.files != 1 else ''} in {output}" if counted.files != 1 else output]
    if types:
        where.append(write_types(engine, output, dtype))
    what = f"{engine.config.dim_descrpt} numbers {'a structure' if mean else 'an atom'}"
    print(
        f"descriptors of {counted.structures:,} structures, {counted.atoms:,} atoms, {what}; "
        f"{counted.failed:,} failed; wrote {', '.join(map(str, where))}"
    )
    return 0 if not counted.failed else 1 if counted.structures else 2
