"""From a model file to an engine."""

from __future__ import annotations

from pathlib import Path

from .checkpoint import read_model
from .engine import Engine


def load(
    path: str | Path,
    *,
    device: str = "auto",
    backend: str = "auto",
    precision: str = "float64",
    head: str | None = None,
    threads: int | None = None,
    fixed_shape: bool = False,
    neighbors: str = "auto",
    dispersion: str | None = None,
) -> Engine:
    """An engine for a DPA-1 model file.

    Args:
        path: DeePMD-kit's .pt, .pth, .dp, .yaml, .pt2 or .pte, our .safetensors, or the name of a bundled model.
        device, backend, precision, threads, fixed_shape, neighbors, dispersion: see ``Engine``.
        head: the branch of a multi-task checkpoint.

    Raises:
        ModelFileError: the file cannot be served; one line says what it is and what to do.
        BackendError: device, backend, precision, fixed_shape, neighbors or dispersion not available.
    """
    model = read_model(path, head).model
    return Engine(
        model, device=device, backend=backend, precision=precision, threads=threads, fixed_shape=fixed_shape,
        neighbors=neighbors, dispersion=dispersion,
    )  # fmt: skip
