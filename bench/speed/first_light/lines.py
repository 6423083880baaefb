"""Facts as lines of JSON, each on the disk before the next is looked for."""

from __future__ import annotations

import json
import os
import time
from pathlib import Path
from typing import Any

NAME = "first_light.jsonl"


class Log:
    """Appends lines to a folder's file; several processes may, one line at a time.

    Args:
        folder: made where it is missing. kit: the digest of what is run, which every line carries.
    """

    def __init__(self, folder: Path, kit: str = "") -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.path, self.kit = folder / NAME, kit
        before = self.path.read_bytes() if self.path.exists() else b""
        if before and not before.endswith(b"\n"):
            _append(self.path, b"\n")  # a line that was cut off must not swallow the next

    def say(self, step: str, **facts: Any) -> None:
        """A line in the file and on the screen.

        Args:
            step: whose fact it is. facts: whatever JSON takes; numpy's and torch's scalars go by their value.
        """
        row = {"at": round(time.time(), 2), "kit": self.kit, "step": step, **facts}
        _append(self.path, (json.dumps(row, default=_plain) + "\n").encode())
        print(json.dumps({"step": step, **facts}, default=_plain)[:400], flush=True)


def _append(path: Path, data: bytes) -> None:
    file = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644)
    try:
        os.write(file, data)
        os.fsync(file)
    finally:
        os.close(file)


def _plain(x: Any) -> Any:
    return x.item() if hasattr(x, "item") else str(x)


def read(folder: Path) -> list[dict[str, Any]]:
    """All whole lines of a folder's file, in order; what was cut off is left out."""
    path = folder / NAME
    out = []
    for line in path.read_text(errors="replace", encoding="utf-8").splitlines() if path.exists() else ():
        try:
            row = json.loads(line)
        except json.JSONDecodeError:
            continue
        if isinstance(row, dict) and "step" in row:
            out.append(row)
    return out
