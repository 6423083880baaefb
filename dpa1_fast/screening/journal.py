"""What a job is, and how far it is: an append-only file, one line an entry, each with a checksum.

The first line says what the job is; every other one that a block was written, where the input goes on, and how long
each output is by then. A line counts when it is whole. Outputs are made durable before their line, so whatever moment a
job dies at, what lies behind the last whole line is thrown away and done again, and nothing else.
"""

from __future__ import annotations

import errno
import fcntl
import json
import os
import zlib
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import IO, Any

from ..errors import DPA1Error
from .blocks import Position

NAME = "journal.jsonl"


class JobError(DPA1Error, RuntimeError):
    """A job that can't begin or go on under this output."""


def line_of(entry: Mapping[str, Any]) -> bytes:
    """An entry as it stands in the file."""
    text = json.dumps(entry, ensure_ascii=False, separators=(",", ":")).encode()
    return b"%08x %b\n" % (zlib.crc32(text), text)


def entries_of(data: bytes) -> tuple[list[dict[str, Any]], int]:
    """The whole entries at the beginning of a file, and how many bytes they take."""
    entries, length = [], 0
    for line in data.splitlines(keepends=True):
        checksum, _, text = line.rstrip(b"\n").partition(b" ")
        if not line.endswith(b"\n") or checksum != b"%08x" % zlib.crc32(text):
            break
        entries.append(json.loads(text))
        length += len(line)
    return entries, length


def differences(before: Mapping[str, Any], now: Mapping[str, Any]) -> list[str]:
    """What two descriptions of a job do not share, in words."""
    out = []
    for key in dict.fromkeys([*before, *now]):
        a, b = before.get(key), now.get(key)
        if a == b:
            continue
        if isinstance(a, Mapping) and isinstance(b, Mapping):
            gone, new = [k for k in a if k not in b], [k for k in b if k not in a]
            out += [f"{key}: {k} is gone" for k in gone] + [f"{key}: {k} is new" for k in new]
            out += [f"{key}: the content of {k} has changed" for k in a if k in b and a[k] != b[k]]
            out += [f"{key}: their order has changed"] if not out and list(a) != list(b) else []
        else:
            out.append(f"{key}: {_short(a)} then, {_short(b)} now")
    return out


def _short(value: Any) -> str:
    text = "nothing" if value is None else value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
    return text if len(text) <= 60 else f"{text[:57]}…"


class Journal:
    """Opens or begins the journal in a folder, and locks it; use as a context manager.

    Args:
        folder: of the job's outputs; made if it is not there. job: what the job is, see ``options.identity``.

    Raises:
        JobError: another job under this folder, or one that is running now.
    """

    def __init__(self, folder: Path, job: Mapping[str, Any]) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.path = folder / NAME
        self._file: IO[bytes] = self.path.open("a+b")
        try:
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            self._file.close()
            raise JobError(f"{folder}: another process is writing this job; wait for it, or choose another") from None
        self._file.seek(0)
        entries, length = entries_of(self._file.read())
        self._file.truncate(length)
        self.resumed = bool(entries)
        if entries:
            # As JSON keeps it: tuples become lists there.
            apart = differences(entries[0]["job"], json.loads(json.dumps(job)))
            if apart:
                self._file.close()
                said = "; ".join(apart[:5]) + (f"; and {len(apart) - 5} more" if len(apart) > 5 else "")
                raise JobError(
                    f"{folder} holds another job ({said}); choose another --output, or --overwrite to begin anew there"
                )
        else:
            self._append({"job": job})
        done = [e for e in entries if "block" in e]
        self.blocks: list[dict[str, Any]] = done
        self.position = Position(**done[-1]["end"]) if done else Position()
        self.states: dict[str, Any] = done[-1]["states"] if done else {}
        self.ended = any("ended" in e for e in entries)

    def __enter__(self) -> Journal:
        return self

    def __exit__(self, *_: object) -> None:
        self._file.close()

    def commit(self, end: Position, states: Mapping[str, Any], **told: Any) -> None:
        """Notes that everything before ``end`` was written.

        Args:
            states: what each output needs to know to go on from here. told: figures, for the report.

        Raises:
            FileNotFoundError: the folder is not there any more.
        """
        if not self.there:
            raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), str(self.path))
        entry = {"block": end.block - 1, "end": asdict(end), "states": dict(states), **told}
        self._append(entry)
        self.blocks.append(entry)

    def end(self) -> None:
        """Notes that the job is complete."""
        self._append({"ended": True})
        self.ended = True

    def _append(self, entry: Mapping[str, Any]) -> None:
        self._file.write(line_of(entry))
        self._file.flush()
        os.fsync(self._file.fileno())

    @property
    def there(self) -> bool:
        """Whether the file that is being written is still the one under its name."""
        try:
            return os.stat(self.path).st_ino == os.fstat(self._file.fileno()).st_ino
        except FileNotFoundError:
            return False
