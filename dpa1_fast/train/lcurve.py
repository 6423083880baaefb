"""``lcurve.out`` in DeePMD-kit's columns, and the lines of full validations; both go on where a checkpoint stands."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path

from .options import TrainingError


def kept_lines(path: Path, step: int) -> str:
    """The text of a log up to a step: comments, and whole lines whose first number is not past it. Nothing at step 0:
    what is there is another training's, whose columns may be others."""
    if not step or not path.exists():
        return ""
    lines = path.read_text(encoding="utf-8").splitlines(keepends=True)
    whole = [line for line in lines if line.endswith("\n")]
    return "".join(line for line in whole if line.startswith("#") or int(line.split()[0]) <= step)


class Curve:
    """A log with one line a step that is shown, columns by name.

    Args:
        path: the file. step: lines past this one are of a run that was killed before it could keep them.
    """

    def __init__(self, path: Path, step: int) -> None:
        text = kept_lines(path, step)
        self._file = path.open("w", encoding="utf-8")
        self._file.write(text)
        self._file.flush()
        self._header = bool(text)

    def write(self, step: int, columns: Mapping[str, float], rate: float) -> None:
        """A line.

        Args:
            columns: names and values in order; NaN is written as nan. rate: the learning rate.
        """
        if not self._header:
            names = "".join(f"   {name:>11}" for name in columns)
            note = "# If there is no available reference data, rmse_*_{val,trn} will print nan\n"
            self._file.write(f"# {'step':5}{names}   {'lr':8}\n{note}")
            self._header = True
        values = "".join(f"   {value:11.2e}" for value in columns.values())
        self._file.write(f"{step:7d}{values}   {rate:8.1e}\n")
        self._file.flush()

    def close(self) -> None:
        """Closes the file."""
        self._file.close()


def read_curve(path: Path) -> dict[str, list[float]]:
    """The columns of an ``lcurve.out``, ours or DeePMD-kit's.

    Raises:
        TrainingError: it cannot be read.
    """
    try:
        lines = [line.split() for line in path.read_text(encoding="utf-8").splitlines()]
        names = next(words[1:] for words in lines if words[:1] == ["#"] and "step" in words)
        rows = [[float(x) for x in words] for words in lines if words and not words[0].startswith("#")]
        return {name: [row[k] for row in rows] for k, name in enumerate(names)}
    except (OSError, ValueError, StopIteration, IndexError) as error:
        raise TrainingError(f"{path}: is no lcurve.out that can be read ({error})") from None


def present(values: list[float]) -> bool:
    """Whether a column has anything to show."""
    return any(math.isfinite(v) and v > 0 for v in values)
