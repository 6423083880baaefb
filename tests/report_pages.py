"""What tests of the report share: a summary with given rows, its page, and that page taken apart."""

from __future__ import annotations

from collections.abc import Sequence
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np

from dpa1_fast.screening import rows, summary_statistics
from dpa1_fast.screening.report import write_report
from dpa1_fast.screening.sinks import summary
from dpa1_fast.screening.sinks.base import Written

IDENTITY: dict[str, Any] = {
    "version": "0.1.0", "models": {"some/model.pt": "0123456789abcdef" * 4}, "head": None, "backend": "cpu",
    "device": "cpu", "precision": "float32", "fields": ["energy"], "write": ["extxyz"],
    "inputs": {"set/first.extxyz": "aa", "set/second.extxyz": "bb"},
}  # fmt: skip
VOID = {"meta", "br", "wbr", "hr", "img", "input", "link"}


class Page(HTMLParser):
    """A parsed page: tags with attributes, the text of each section, and whether tags are balanced."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.text: dict[str, str] = {"": ""}
        self.style, self._open, self._section = "", [], [""]
        self.source = path.read_text()
        self.feed(self.source)
        self.close()
        assert self._open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag not in VOID:
            self._open.append(tag)
        if tag == "section":
            self._section.append(dict(attrs)["id"] or "")
            self.text[self._section[-1]] = ""

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self._open.pop() == tag
        if tag == "section":
            self._section.pop()

    def handle_data(self, data: str) -> None:
        if self._open[-1:] == ["style"]:
            self.style += data
        else:
            self.text[self._section[-1]] += data

    @property
    def sections(self) -> list[str]:
        return [k for k in self.text if k]


def made(
    folder: Path, table: Sequence[dict[str, Any]], by: str = "energy_per_atom", told: Sequence[dict[str, Any]] = (),
    identity: dict[str, Any] = IDENTITY, **columns: Any,
) -> Page:  # fmt: skip
    """The page of a summary with these rows."""
    summary_of(folder, table, **columns)
    found = summary_statistics.summarize(folder / summary.NAME, by, 10)
    write_report(folder, identity, told, found, by)
    assert not list(folder.glob("*.partial"))
    return Page(folder / "report.html")


def summary_of(folder: Path, table: Sequence[dict[str, Any]], relaxed: bool = False, models: int = 1,
               hull: bool = False) -> None:  # fmt: skip
    folder.mkdir(exist_ok=True)
    sink = summary.SummarySink(folder, rows.schema(("energy",), relaxed, models, hull), {})
    sink.resume(None)
    for k, first in enumerate(range(0, len(table), 1024)):
        sink.append(Written(k, list(table[first : first + 1024])))
    sink.finish()


def structures(count: int, seed: int = 0, formulas: Sequence[str] = ("Al4", "Al2Cu2", "Mg4")) -> list[dict[str, Any]]:
    """Rows of structures that could be done."""
    rng = np.random.default_rng(seed)
    out = []
    for k in range(count):
        energy = -3.0 - k % len(formulas) + rng.normal(scale=0.1)
        out.append({
            "index": k, "source": "set/first.extxyz", "frame": k, "formula": formulas[k % len(formulas)], "natoms": 4,
            "energy": 4 * energy, "energy_per_atom": energy, "max_force": float(10 ** rng.normal(0, 0.5)),
            "volume": 60.0, "pressure": 0.0, "status": "ok",
        })  # fmt: skip
    return out


def broken(index: int, reason: str) -> dict[str, Any]:
    """A row of one that failed."""
    return {"index": index, "source": "set/second.extxyz", "frame": index, "status": "failed", "error": reason}
