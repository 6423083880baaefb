"""What a GPU's streams must be told, on a CPU whose streams are made up."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from conftest import make_model, molecule
from torch import Tensor

from dpa1_fast import Engine
from dpa1_fast.scheduler import Pack
from dpa1_fast.structures.batch import collate, neighborhood
from dpa1_fast.structures.structure import from_ase


def test_memory_of_a_batch_that_was_copied_beside_waits_for_who_reads_it(monkeypatch: pytest.MonkeyPatch) -> None:
    """An evaluation that fails lets go of its batch while kernels still run; the next copy would get that memory."""
    model = make_model(neuron=(2, 4, 8))
    batch = collate(model.config, [neighborhood(model.config, from_ase(model.config, molecule(2), "x"))])
    tensors = [x for x in vars(batch).values() if isinstance(x, Tensor)]
    scheduler = Engine(model, device="cpu", backend="reference").scheduler
    did: list[Any] = []
    copies, current = object(), SimpleNamespace(wait_stream=did.append)
    monkeypatch.setattr(scheduler, "_copies", copies)
    monkeypatch.setattr(scheduler, "run", lambda given: SimpleNamespace(cpu=lambda gradient: did.append(given)))
    monkeypatch.setattr(torch.cuda, "current_stream", lambda device: current)
    monkeypatch.setattr(Tensor, "is_cuda", True)
    monkeypatch.setattr(Tensor, "record_stream", lambda x, stream: did.append((x, stream)))
    scheduler._evaluate(Pack([], batch, np.ones(3), batch), gradient=False, hidden=False)
    assert did[0] is copies
    assert [id(x) for x, _ in did[1:-1]] == [id(x) for x in tensors]
    assert all(stream is current for _, stream in did[1:-1])
    assert did[-1] is batch
