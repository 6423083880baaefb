"""The results file: one line of JSON a finished run, which a later start finds and does not do again."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from dpa1_fast.config import DPA1Config

FILE = Path(__file__).with_name("results.jsonl")
Run = dict[str, Any]


def read(path: Path = FILE) -> list[Run]:
    """All lines; the last one is left out where it was cut off."""
    if not path.exists():
        return []
    text = path.read_text(encoding="utf-8")
    return [json.loads(line) for line in text.splitlines(keepends=True) if line.endswith("\n")]


def append(run: Run, path: Path = FILE) -> None:
    """Adds a line, durably, in the place of one that was cut off."""
    with path.open("ab+") as file:
        file.seek(0)
        file.truncate(file.read().rfind(b"\n") + 1)
        file.write((json.dumps(run, ensure_ascii=False) + "\n").encode())
        file.flush()
        os.fsync(file.fileno())


def missing(planned: Iterable[Run], path: Path = FILE) -> list[Run]:
    """Those of the planned runs that no line has; a line has what a run says, and what came of it besides."""
    done = read(path)
    return [run for run in planned if not any(matches(line, run) for line in done)]


def matches(line: Mapping[str, Any], run: Mapping[str, Any]) -> bool:
    """Whether a line is that run's."""
    return all(line.get(key) == value for key, value in run.items())


def do(planned: Iterable[Run], work: Callable[[Run], Run], path: Path = FILE) -> None:
    """Does what is missing, one run after another; each is in the file as soon as it is done."""
    left = missing(planned, path)
    for k, run in enumerate(left, 1):
        print(f"{k} of {len(left)}: {' '.join(f'{a}={b}' for a, b in run.items())}", flush=True)
        found = work(run)
        append(run | found, path)
        print("   " + " ".join(f"{a}={b}" for a, b in found.items()), flush=True)


def digest(path: Path) -> str:
    """What a line calls a pretrained model's file by."""
    return hashlib.sha256(path.read_bytes()).hexdigest()[:12]


def shape(config: DPA1Config) -> str:
    """What a line from scratch calls a model by: its hyper-parameters, whatever its types are."""
    said = {k: x for k, x in asdict(config).items() if k != "type_map"}
    return hashlib.sha256(json.dumps(said, sort_keys=True).encode()).hexdigest()[:12]
