"""Checkpoints: written whole or not at all, the newest sound one is gone on from, and never run as code."""

from __future__ import annotations

import io
import pickle
import re
from pathlib import Path
from typing import Any

import torch

from ..checkpoint.writing import write_whole

NAME = "step-{step:09d}.pt"
PATTERN = re.compile(r"step-(\d{9})\.pt")


def checkpoints(folder: Path) -> list[Path]:
    """The checkpoints in a folder, oldest first."""
    return sorted(p for p in folder.glob("step-*.pt") if PATTERN.fullmatch(p.name)) if folder.is_dir() else []


def save(folder: Path, step: int, state: dict[str, Any], keep: int) -> None:
    """Writes a checkpoint, then deletes the oldest beyond ``keep``.

    Raises:
        ModelFileError: it cannot be written; the earlier ones are untouched.
    """
    folder.mkdir(parents=True, exist_ok=True)
    data = io.BytesIO()
    torch.save(state, data)
    write_whole(folder / NAME.format(step=step), data.getvalue())
    for old in checkpoints(folder)[:-keep]:
        old.unlink(missing_ok=True)


def newest(folder: Path) -> dict[str, Any] | None:
    """The state in the newest checkpoint that can be read, or None where there is none."""
    for path in reversed(checkpoints(folder)):
        try:
            state = torch.load(path, map_location="cpu", weights_only=True)
        except (OSError, RuntimeError, EOFError, ValueError, pickle.UnpicklingError):
            continue  # a disk's fault: the one before it serves
        if isinstance(state, dict):
            return state
    return None
