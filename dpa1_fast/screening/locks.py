"""Keeps a second process away from a folder that one writes its job to."""

from __future__ import annotations

import errno
import fcntl
import os
import warnings
from pathlib import Path
from types import TracebackType
from typing import IO

from ..errors import DPA1Error, DPA1Warning

NO_LOCKS = (errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP, errno.EINVAL)
"""What file systems say that do not lock files at all."""


class JobError(DPA1Error, RuntimeError):
    """A job that can't begin or go on under this output."""


def lock(file: IO[bytes], folder: Path) -> None:
    """Keeps other processes away for as long as a file of a folder is open.

    Raises:
        JobError: another process has the lock, or the attempt failed in a way that says nothing good of the disk.
    """
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        why = error.strerror or str(error)
        if error.errno in (errno.EWOULDBLOCK, errno.EAGAIN, errno.EACCES):
            raise JobError(f"{folder}: another process is writing this job; wait for it, or choose another") from None
        if error.errno not in NO_LOCKS:
            raise JobError(
                f"{folder}: {os.path.basename(file.name)} could not be locked ({why}); the file system that holds it "
                "may be in trouble: try again, or choose an --output on another disk"
            ) from None
        warnings.warn(
            f"{folder} lies on a file system without locks ({why}), so nothing keeps you from starting this job twice "
            "at a time; do not",
            DPA1Warning,
            stacklevel=4,
        )


class FolderLock:
    """The lock of a folder whose job has no journal: a file ``.lock`` in it, which stays there, empty.

    Args:
        folder: of the job; made if it is not there.

    Raises:
        JobError: see ``lock``.
    """

    def __init__(self, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self._file = (folder / ".lock").open("ab")
        try:
            lock(self._file, folder)
        except JobError:
            self._file.close()
            raise

    def close(self) -> None:
        """Lets others in."""
        self._file.close()

    def __enter__(self) -> FolderLock:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()
