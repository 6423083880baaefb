"""What a file is, told from its first bytes and its table of contents; its name decides next to nothing."""

from __future__ import annotations

import os
import stat
from pathlib import Path

from ..errors import ModelFileError
from . import archive

HDF5_MAGIC = b"\x89HDF\r\n\x1a\n"
ZIP_MAGIC = b"PK\x03\x04"
LEGACY_TORCH_MAGIC = b"\x80\x02\x8a\nl\xfc\x9cF\xf9 j\xa8P\x19."
WANTED = "give a DPA-1 model: .pt, .pth, .dp, .yaml, .pt2 or .pte of DeePMD-kit, or .safetensors of dpa1-fast"
DAMAGED = "copy or download it again"
TENSORFLOW = "convert it with DeePMD-kit: dp convert-backend model.pb model.dp"

MAGIC = {
    b"\x89PNG": "is a picture (PNG)", b"\xff\xd8\xff": "is a picture (JPEG)", b"GIF8": "is a picture (GIF)",
    b"%PDF": "is a PDF document", b"SQLite format 3\x00": "is an SQLite database", b"PAR1": "is a Parquet table",
    b"\x93NUMPY": "is an array of numpy (.npy)",
    b"\x1f\x8b": "is compressed with gzip", b"BZh": "is compressed with bzip2",
    b"\xfd7zXZ\x00": "is compressed with xz", b"\x28\xb5\x2f\xfd": "is compressed with zstd",
    b"7z\xbc\xaf\x27\x1c": "is a 7z archive", b"Rar!": "is a RAR archive", b"\x7fELF": "is a program or library",
    b"CDF": "is a NetCDF file", b"- of Ulm": "is a trajectory of ASE", b"AFFormat": "is a trajectory of ASE",
    b"version https://git-lfs": "is a pointer of Git LFS, not the file itself (git lfs pull fetches it)",
    b"<!DOCTYPE": "is a web page", b"<!doctype": "is a web page", b"<html": "is a web page",
    b"PK\x05\x06": "is an empty zip archive",
}  # fmt: skip


def sniff(path: Path) -> str:
    """The format: "pt", "legacy" (.pt before torch 1.6), "pth", "dp", "yaml", "exported", or "safetensors".

    Raises:
        ModelFileError: for a file that is missing, empty, damaged, or something else.
    """
    size = _regular(path)
    try:
        with path.open("rb") as file:
            head = file.read(4096)
    except OSError as error:
        raise ModelFileError(path, f"cannot be read ({error.strerror})", "check its permissions") from None
    if not head:
        raise ModelFileError(path, "is an empty file", DAMAGED)
    if head.startswith(HDF5_MAGIC):
        return "dp"
    if head.startswith(ZIP_MAGIC):
        return _sniff_zip(path)
    if head.startswith(LEGACY_TORCH_MAGIC):
        return "legacy"
    if head[8:9] == b"{" and int.from_bytes(head[:8], "little") < size:
        return "safetensors"
    what = next((told for magic, told in MAGIC.items() if head.startswith(magic)), None)
    if what is None and head[257:262] == b"ustar":
        what = "is a tar archive"
    if what is not None:
        raise ModelFileError(path, what, WANTED)
    if path.suffix == ".pb" or b"\n\x05Const" in head or b"Placeholder" in head:
        raise ModelFileError(path, "is a frozen TensorFlow graph", TENSORFLOW)
    if head[:1] == b"\x80":
        raise ModelFileError(path, "is a bare Python pickle, which could run code when opened", WANTED)
    if path.suffix in (".yaml", ".yml") and b"\x00" not in head:
        return "yaml"
    what = "is a text file" if head.isascii() and b"\x00" not in head else "is not a model file"
    raise ModelFileError(path, what, WANTED)


def _regular(path: Path) -> int:
    """The size of a regular file. Pipes and devices, which may never end, are not opened."""
    try:
        status = os.stat(path)
    except (FileNotFoundError, NotADirectoryError, ValueError):  # ValueError: a null character in the name
        told = "no such file, and no bundled model of that name"
        raise ModelFileError(path, told, "see dpa1-fast info --list") from None
    except OSError as error:
        raise ModelFileError(path, f"cannot be read ({error.strerror})", "check its path and permissions") from None
    if stat.S_ISDIR(status.st_mode):
        if (path / "saved_model.pb").exists():
            raise ModelFileError(path, "is a folder with a TensorFlow model", TENSORFLOW)
        raise ModelFileError(path, "is a folder", WANTED)
    if not stat.S_ISREG(status.st_mode):
        raise ModelFileError(path, "is a pipe or a device, not a file", WANTED)
    return status.st_size


def _sniff_zip(path: Path) -> str:
    with archive.opened(path) as file:
        leaves = {name.rsplit("/", 1)[-1] for name in file.names}
    if "model.json" in leaves:
        return "exported"
    if "constants.pkl" in leaves:
        return "pth"
    if "data.pkl" in leaves:
        return "pt"
    if leaves and all(name.endswith(".npy") for name in leaves):
        raise ModelFileError(path, "holds arrays of numpy (.npz)", WANTED)
    raise ModelFileError(path, "is a zip archive, but not one that torch wrote", WANTED)
