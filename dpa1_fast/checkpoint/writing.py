"""A file that is there whole, or not at all."""

from __future__ import annotations

import contextlib
import os
import secrets
import stat
from pathlib import Path

from ..errors import ModelFileError


def write_whole(path: Path, data: bytes) -> None:
    """Writes beside the target under another name, and renames when all of it is on the disk.

    Raises:
        ModelFileError: the place can't be written to; nothing is left behind, and what was there is untouched.
    """
    target = Path(os.path.realpath(path))  # a symbolic link stays, what it leads to is replaced
    partial = target.with_name(f".{secrets.token_hex(6)}.partial")
    made = False
    try:
        mode = stat.S_IMODE(os.stat(target).st_mode) if target.exists() else None
        if target.is_dir():
            raise ModelFileError(path, "cannot be written: it is a folder", "name a file in it")
        if mode is not None and not target.is_file():
            raise ModelFileError(path, "cannot be written: it is a device, not a file", "name a file")
        if not target.parent.is_dir():
            told = f"cannot be written: there is no folder {target.parent}"
            raise ModelFileError(path, told, "make the folder first")
        with partial.open("xb") as file:
            made = True
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        if mode is not None:
            partial.chmod(mode)
        os.replace(partial, target)
        made = False
    except OSError as error:
        told = f"cannot be written ({error.strerror or error})"
        raise ModelFileError(path, told, "choose another place, or make room there") from error
    finally:
        if made:
            with contextlib.suppress(OSError):
                partial.unlink()
