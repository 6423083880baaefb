"""Model files in and out: DeePMD-kit's four formats and our own. Files from strangers never execute code."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

from ..errors import ModelFileError
from ..model import DPA1
from . import own, pt, pth, tree, write_dp
from .deepmd import assemble
from .sniff import sniff
from .writing import write_whole

MODELS = Path(__file__).parent.parent / "models"
WRITABLE = (".dp", ".yaml", ".yml", ".safetensors")


class Loaded(NamedTuple):
    """A model, the file that it came from, and what kind of file that is."""

    model: DPA1
    path: Path
    kind: str


def bundled() -> list[str]:
    """Names of the models that come with the package."""
    return sorted(p.stem for p in MODELS.glob("*.safetensors"))


def find(name: str | Path) -> Path:
    """The file that ``name`` means: a path, or the name of a bundled model where no such path exists."""
    path = Path(name)
    return MODELS / f"{name}.safetensors" if not path.exists() and str(name) in bundled() else path


def read_model(name: str | Path, head: str | None = None) -> Loaded:
    """Reads a model file of any kind that is served.

    Args:
        name: a path, or the name of a bundled model.
        head: the branch of a multi-task checkpoint.

    Raises:
        ModelFileError: one line that names the file, what it is, and what to do.
    """
    path = find(name)
    kind = sniff(path)
    if kind == "safetensors":
        if head not in (None, "Default"):
            raise ModelFileError(path, f"has one head only, no head {head!r}", "leave out head=")
        return Loaded(own.read(path), path, own.KIND)
    if kind in ("pt", "legacy"):
        opened = pt.opened(path, kind, head)
    elif kind == "pth":
        opened = pth.opened(path, head)
    else:
        opened = tree.opened(path, kind, head)
    with opened as raw:
        return Loaded(assemble(raw), path, raw.kind)


def write_model(model: DPA1, path: str | Path, description: str = "") -> None:
    """Writes a model; the suffix chooses the format. The file is there whole, or as it was before.

    Raises:
        ModelFileError: for a suffix that is not one of ``WRITABLE``, or a place that can't be written to.
    """
    path = Path(path)
    if path.suffix not in WRITABLE:
        remedy = f"use one of {', '.join(WRITABLE)} (DeePMD-kit's `dp convert-backend` makes .pth from .dp)"
        raise ModelFileError(path, f"cannot be written: no writer for {path.suffix or 'no suffix'!r}", remedy)
    own_format = path.suffix == ".safetensors"
    write_whole(path, own.encode(model, description) if own_format else write_dp.encode(model, path.suffix))
