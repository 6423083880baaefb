"""More than one process, as torchrun starts them: gradients by DistributedDataParallel, counts by one sum."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch
import torch.distributed as dist
from torch import Tensor, nn

from ..model import DPA1, Prediction
from ..structures.batch import Batch
from .predict import predict


@dataclass(frozen=True)
class World:
    """The processes of a training.

    Attributes:
        rank, size: which process this is, of how many. device: where its model is.
    """

    rank: int
    size: int
    device: torch.device

    @property
    def first(self) -> bool:
        """Whether this process writes files and talks."""
        return self.rank == 0

    def sum(self, value: Tensor) -> Tensor:
        """The sum over all processes."""
        if self.size > 1:
            value = value.clone()
            dist.all_reduce(value)
        return value

    def wait(self) -> None:
        """Until all processes are here."""
        if self.size > 1:
            dist.barrier()


@contextmanager
def world(device: torch.device) -> Iterator[World]:
    """The processes that torchrun started, or this one alone. On GPUs each takes that of its local rank."""
    size = int(os.environ.get("WORLD_SIZE", "1"))
    if size == 1:
        yield World(0, 1, device)
        return
    if device.type == "cuda":
        device = torch.device("cuda", int(os.environ.get("LOCAL_RANK", "0")))
        torch.cuda.set_device(device)
    dist.init_process_group("nccl" if device.type == "cuda" else "gloo")
    try:
        yield World(dist.get_rank(), size, device)
    finally:
        dist.destroy_process_group()


class Trainable(nn.Module):
    """What DistributedDataParallel wraps: the model, evaluated by a backend."""

    def __init__(self, model: DPA1, backend: str) -> None:
        super().__init__()
        self.model, self.backend = model, backend

    def forward(self, batch: Batch) -> Prediction:
        """See ``predict``."""
        return predict(self.model, batch, self.backend)


def trainable(model: DPA1, backend: str, world: World) -> nn.Module:
    """The model as a module that averages gradients over all processes."""
    module = Trainable(model, backend)
    if world.size == 1:
        return module
    return nn.parallel.DistributedDataParallel(module, broadcast_buffers=False)
