"""What every reader of a DeePMD-kit file hands over, whatever the format."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch


@dataclass(frozen=True)
class Stored:
    """A tensor that is still in its file: what the file says of it, and how to read it.

    Attributes:
        shape: as declared. dtype: its name, such as ``float64``. read: makes the tensor.
    """

    shape: tuple[int, ...]
    dtype: str
    read: Callable[[], torch.Tensor]

    @property
    def count(self) -> int:
        """How many numbers it holds."""
        return math.prod(self.shape)


@dataclass(frozen=True)
class RawModel:
    """A model as its file tells it. Valid while the file is open.

    Attributes:
        path: the file. kind: its format, in words.
        params: hyper-parameters in the shape of the ``model`` section of DeePMD-kit's ``input.json``.
        tensors: by DeePMD-kit's PyTorch names, below ``atomic_model.`` (``descriptor.se_atten.mean`` …).
        nbytes: of the file, unpacked; all its numbers together can't take more.
    """

    path: Path
    kind: str
    params: dict[str, Any]
    tensors: dict[str, Stored]
    nbytes: int
