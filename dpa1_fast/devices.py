"""Which device a request means: settled once, where an engine or a command begins, and with an index ever after."""

from __future__ import annotations

import torch

from .errors import BackendError


def resolve(name: str | torch.device) -> torch.device:
    """The device that a request means.

    A GPU always comes with its index: "cuda" is the one that is current now, not the one that may be current on another
    thread or later, and several functions of torch take no device without one.

    Args:
        name: "auto" (a GPU if torch sees one), or any torch device.

    Raises:
        BackendError: no device of that name, or a GPU that torch does not see.
    """
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    try:
        device = torch.device(name)
    except RuntimeError:
        raise BackendError(f"device {name!r} is not a torch device; use auto, cpu or cuda") from None
    if device.type != "cuda":
        return device
    if not torch.cuda.is_available():
        raise BackendError(f"device '{name}' was requested, but torch sees no GPU; use device='cpu' or 'auto'")
    index, count = torch.cuda.current_device() if device.index is None else device.index, torch.cuda.device_count()
    if index >= count:
        last = "" if count == 1 else f" to cuda:{count - 1}"
        raise BackendError(f"device '{name}' was requested, but this machine has cuda:0{last}")
    return torch.device("cuda", index)
