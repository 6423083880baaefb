"""What a file is, told from its first bytes and its table of contents; its name decides nothing."""

from __future__ import annotations

import zipfile
from pathlib import Path

from ..errors import ModelFileError

HDF5_MAGIC = b"\x89HDF\r\n\x1a\n"
ZIP_MAGIC = b"PK\x03\x04"
LEGACY_TORCH_MAGIC = b"\x80\x02\x8a\nl\xfc\x9cF\xf9 j\xa8P\x19."
WANTED = "give a DPA-1 model: .pt, .pth, .dp, .yaml, .pt2 or .pte of DeePMD-kit, or .safetensors of dpa1-fast"
DAMAGED = "copy or download it again"


def sniff(path: Path) -> str:
    """The format: "pt", "pth", "dp", "yaml", "exported" (.pt2, .pte), or "safetensors".

    Raises:
        ModelFileError: for a file that is missing, empty, damaged, or something else.
    """
    if path.is_dir():
        raise ModelFileError(path, "is a folder", WANTED)
    if not path.exists():
        raise ModelFileError(path, "no such file, and no bundled model of that name", "see dpa1-fast info --list")
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
        return "pt"
    if head[8:9] == b"{" and int.from_bytes(head[:8], "little") < path.stat().st_size:
        return "safetensors"
    if path.suffix == ".pb" or b"\n\x05Const" in head or b"Placeholder" in head:
        raise ModelFileError(
            path, "is a frozen TensorFlow graph", "convert it with DeePMD-kit: dp convert-backend model.pb model.dp"
        )
    if head[:1] == b"\x80":
        raise ModelFileError(path, "is a bare Python pickle, which could run code when opened", WANTED)
    if path.suffix in (".yaml", ".yml") and b"\x00" not in head:
        return "yaml"
    what = "is a text file" if head.isascii() and b"\x00" not in head else "is not a model file"
    raise ModelFileError(path, what, WANTED)


def _sniff_zip(path: Path) -> str:
    try:
        names = zipfile.ZipFile(path).namelist()
    except (zipfile.BadZipFile, OSError):
        raise ModelFileError(path, "is damaged or cut short (a zip archive without its end)", DAMAGED) from None
    leaves = {name.rsplit("/", 1)[-1] for name in names}
    if "model.json" in leaves:
        return "exported"
    if "constants.pkl" in leaves:
        return "pth"
    if "data.pkl" in leaves:
        return "pt"
    raise ModelFileError(path, "is a zip archive, but not one that torch wrote", WANTED)
