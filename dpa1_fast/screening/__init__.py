"""The screening job: any number of structures in, energies, forces, stresses and a ranked table out."""

from __future__ import annotations

from collections.abc import Sequence
from os import PathLike
from pathlib import Path
from typing import Any

from .job import Outcome, run
from .options import Options

__all__ = ["Options", "Outcome", "screen"]


def screen(
    inputs: str | PathLike[str] | Sequence[str | PathLike[str]],
    model: str | PathLike[str] | Sequence[str | PathLike[str]],
    output: str | PathLike[str],
    **options: Any,
) -> Outcome:
    """Screens structures, as ``dpa1-fast screen`` does, and goes on where an interrupted call of the same job was.

    Args:
        inputs: files, folders or patterns. model: a file or a bundled model's name; several for model deviation.
        output: folder for ``summary.parquet`` and what else is asked for. options: see ``Options``.

    Returns:
        Statistics, the best and the failed rows; the table itself is in ``output``.

    Raises:
        DPA1Error: nothing could be done, or the job had to stop; what it had written is kept.
    """

    def texts(given: Any) -> tuple[str, ...]:
        return (str(given),) if isinstance(given, str | PathLike) else tuple(map(str, given))

    if options.get("references") is not None:
        options["references"] = Path(options["references"])
    return run(Options(texts(inputs), texts(model), Path(output), **options))
