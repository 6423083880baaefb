"""What a job is, and how far it is: an append-only file, one line an entry, each with a checksum.

The first line says what the job is; every other one that a block was written, where the input goes on, and how long
each output is by then. A line counts when it is whole. Outputs are made durable before their line, so whatever moment a
job dies at, what lies behind the last whole line is thrown away and done again, and nothing else.
"""

from __future__ import annotations

import errno
import json
import os
import re
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import IO, Any

from .blocks import Position
from .folder import outputs_of, pieces, remove, strange
from .locks import JobError as JobError
from .locks import lock

NAME = "journal.jsonl"


def line_of(entry: Mapping[str, Any]) -> bytes:
    """An entry as it stands in the file."""
    text = json.dumps(entry, separators=(",", ":")).encode("ascii")  # names that are no text are kept as they are
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


def _check_header(path: Path, data: bytes, entries: Sequence[Mapping[str, Any]]) -> None:
    """Refuses a file that is somebody else's, or a journal that no longer says what its job was.

    Raises:
        JobError: so.
    """
    if entries and "job" in entries[0]:
        return
    torn = b"\n" not in data and re.fullmatch(rb"[0-9a-f]{0,8}|[0-9a-f]{8} |[0-9a-f]{8} \{.*", data) is not None
    if entries or not torn:
        raise JobError(
            f"{path} does not begin as the journal of a job does, so it is not touched; move it, or choose another "
            "--output"
        )


def _files_of(entries: Sequence[Mapping[str, Any]]) -> list[str]:
    """The outputs that a journal lists. In one from before they were listed: those that such a job had."""
    listed = [name for entry in entries for name in entry.get("files", ())]
    return listed or (outputs_of(entries[0]["job"].get("write", ()), report=True) if entries else [])


class Journal:
    """Opens or begins the journal in a folder, and locks it; use as a context manager.

    Args:
        folder: of the job's outputs; made if it is not there. job: what the job is, see ``options.identity``.
        files: names of the outputs. The journal lists them before they are made, so that it is known whose they are.
        overwrite: delete what an earlier journal lists, and begin anew.

    Raises:
        JobError: another job under this folder, or one that is running now; files in it that are not this job's.
        OSError: the journal cannot be read or written.
    """

    def __init__(
        self, folder: Path, job: Mapping[str, Any], files: Sequence[str] = (), overwrite: bool = False
    ) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.path = folder / NAME
        self._file: IO[bytes] = self.path.open("a+b")
        try:
            lock(self._file, folder)
            self._file.seek(0)
            data = self._file.read()
            entries, self._length = entries_of(data)
            _check_header(self.path, data, entries)
            if overwrite and entries:
                self._clear(folder, entries)
                entries = []
            self._truncate(self._length)
            self._begin(folder, job, files, entries)
        except BaseException:
            if not os.fstat(self._file.fileno()).st_size and self.there:
                self.path.unlink()
            self._file.close()
            raise
        done = [e for e in entries if "block" in e]
        self.resumed = bool(entries)
        self.blocks: list[dict[str, Any]] = done
        self.position = Position(**done[-1]["end"]) if done else Position()
        self.states: dict[str, Any] = done[-1]["states"] if done else {}
        self.ended = any("ended" in e for e in entries)

    def _begin(
        self, folder: Path, job: Mapping[str, Any], files: Sequence[str], entries: Sequence[Mapping[str, Any]]
    ) -> None:
        """Makes sure that the job is the one that was begun here, and its files its own."""
        if entries:
            # As JSON keeps it: tuples become lists there.
            apart = differences(entries[0]["job"], json.loads(json.dumps(job)))
            if apart:
                said = "; ".join(apart[:5]) + (f"; and {len(apart) - 5} more" if len(apart) > 5 else "")
                raise JobError(
                    f"{folder} holds another job ({said}); choose another --output, or --overwrite to begin anew there"
                )
        listed = _files_of(entries)
        new = [name for name in files if name not in listed]
        for path in pieces(folder, new):
            raise JobError(
                f"{path} is there already, and no job of this folder wrote it; move it, or choose another --output"
            )
        if not entries:
            self._append({"job": job, "files": list(files)})
        elif new:
            self._append({"files": new})

    def _clear(self, folder: Path, entries: Sequence[Mapping[str, Any]]) -> None:
        """Deletes what the journal lists. Whenever this is interrupted, what is left is a job that has done nothing."""
        own = pieces(folder, _files_of(entries))
        for path in strange(own):
            raise JobError(f"{path} is none of this job's files, and --overwrite would delete it; move it")
        self._truncate(0)
        self._append({"job": entries[0]["job"], "files": _files_of(entries)})
        for path in own:
            remove(path)
        self._truncate(0)

    def _truncate(self, length: int) -> None:
        self._file.truncate(length)
        self._length = length

    def __enter__(self) -> Journal:
        return self

    def __exit__(self, *_: object) -> None:
        self._file.close()

    def commit(self, end: Position, states: Mapping[str, Any], **told: Any) -> None:
        """Notes that everything before ``end`` was written.

        Args:
            states: what each output needs to know to go on from here. told: figures, for the report.

        Raises:
            FileNotFoundError, JobError: see ``check``.
        """
        self.check()
        entry = {"block": end.block - 1, "end": asdict(end), "states": dict(states), **told}
        self._append(entry)
        self.blocks.append(entry)

    def end(self) -> None:
        """Notes that the job is complete."""
        self._append({"ended": True})
        self.ended = True

    def check(self) -> None:
        """Makes sure that no other process goes on with this job, where the file system has no locks.

        Raises:
            FileNotFoundError: the folder is not there any more. JobError: the journal has grown.
        """
        if not self.there:
            raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), str(self.path))
        if os.fstat(self._file.fileno()).st_size != self._length:
            raise JobError(
                f"{self.path} has been written by somebody else since this job began; start it once only, and again "
                "when no other is running: it goes on from what is there"
            )

    def _append(self, entry: Mapping[str, Any]) -> None:
        line = line_of(entry)
        self._file.write(line)
        self._file.flush()
        os.fsync(self._file.fileno())
        self._length += len(line)

    @property
    def there(self) -> bool:
        """Whether the file that is being written is still the one under its name."""
        try:
            return os.stat(self.path).st_ino == os.fstat(self._file.fileno()).st_ino
        except FileNotFoundError:
            return False
