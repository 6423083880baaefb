"""What a job has in its folder, by name: it deletes these and nothing else, and begins only where none of them is.

An output that grows has its final name with ``.partial`` behind it, as a file or as a folder of numbered parts; one
that is being put together has ``.whole``. Nothing in such a folder but its parts is a job's, either.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

SUMMARY, FAILURES, REPORT = "summary.parquet", "failures.csv", "report.html"
RESULTS = {"extxyz": "results.extxyz", "hdf5": "results.h5", "db": "results.db"}
"""What each format of ``--write`` is written to."""
GROWING = (".partial", ".partial-journal", ".whole")
"""Behind an output's name while it is not finished; the second is SQLite's."""
PARTS = "part-*"


def outputs_of(formats: Iterable[str], report: bool) -> list[str]:
    """The names of a job's outputs, which its journal lists."""
    return [SUMMARY, *(RESULTS[name] for name in formats if name in RESULTS), FAILURES, *([REPORT] if report else [])]


def pieces(folder: Path, names: Iterable[str]) -> list[Path]:
    """Everything that stands under these outputs' names now; links count, wherever they lead."""
    paths = [folder / f"{name}{ending}" for name in names for ending in ("", *GROWING)]
    return [p for p in paths if p.is_symlink() or p.exists()]


def strange(paths: Iterable[Path]) -> list[Path]:
    """What lies inside of these and is no part of an output."""
    out = []
    for path in paths:
        if _is_folder(path):
            own = {p for p in path.glob(PARTS) if not _is_folder(p)}
            out += sorted(p for p in path.iterdir() if p not in own)
    return out


def remove(path: Path) -> None:
    """Deletes an output, or what there is of it. Of a link only the link; a folder with something strange stays."""
    if not _is_folder(path):
        path.unlink(missing_ok=True)
        return
    for part in path.glob(PARTS):
        if not _is_folder(part):
            part.unlink()
    if not strange([path]):
        path.rmdir()


def _is_folder(path: Path) -> bool:
    return path.is_dir() and not path.is_symlink()
