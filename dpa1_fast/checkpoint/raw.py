"""What every reader of a DeePMD-kit file hands over, whatever the format."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch


@dataclass(frozen=True)
class RawModel:
    """A model as its file tells it.

    Attributes:
        path: the file. kind: its format, in words.
        params: hyper-parameters in the shape of the ``model`` section of DeePMD-kit's ``input.json``.
        tensors: by DeePMD-kit's PyTorch names, below ``atomic_model.`` (``descriptor.se_atten.mean`` …).
    """

    path: Path
    kind: str
    params: dict[str, Any]
    tensors: dict[str, torch.Tensor]
