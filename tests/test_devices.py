"""Which device a request means, and what a GPU is to the kernels: by what torch says of cards that are not here."""

from __future__ import annotations

import sys
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from conftest import make_model

from bench.speed import gpu as bench_gpu
from dpa1_fast import Engine, devices, tuning
from dpa1_fast import engine as engine_module
from dpa1_fast.errors import BackendError
from dpa1_fast.kernels import dispatch

CARDS: dict[str, tuple[dict[str, Any], str, str | None]] = {
    "NVIDIA H100 80GB HBM3": ({"major": 9, "minor": 0, "multi_processor_count": 132}, "sm_90"),
    "NVIDIA H200": ({"major": 9, "minor": 0, "multi_processor_count": 132}, "sm_90"),
    "NVIDIA A100-SXM4-80GB": ({"major": 8, "minor": 0, "multi_processor_count": 108}, "sm_80"),
    "NVIDIA B200": ({"major": 10, "minor": 0, "multi_processor_count": 148}, "sm_100"),
    "NVIDIA B300 SXM6 AC": ({"major": 10, "minor": 3, "multi_processor_count": 148}, "sm_103"),
    "NVIDIA GeForce RTX 4090": ({"major": 8, "minor": 9, "multi_processor_count": 128}, "sm_89"),
    "NVIDIA GeForce RTX 5090": ({"major": 12, "minor": 0, "multi_processor_count": 170}, "sm_120"),
    "Tesla V100-SXM2-32GB": ({"major": 7, "minor": 0, "multi_processor_count": 80}, "sm_70"),
    "NVIDIA of tomorrow": ({"major": 13, "minor": 0, "multi_processor_count": 200}, "sm_130"),
    "AMD Instinct MI300X": (
        {"major": 9, "minor": 4, "multi_processor_count": 304, "gcnArchName": "gfx942:sramecc+:xnack-"},
        "gfx942",
    ),
    "AMD Instinct MI250X": (
        {"major": 9, "minor": 0, "multi_processor_count": 110, "gcnArchName": "gfx90a:sramecc+:xnack-"},
        "gfx90a",
    ),
}
"""Name → what torch says of it, and its architecture."""


def pretend(monkeypatch: pytest.MonkeyPatch, name: str, count: int = 2) -> None:
    """This machine has ``count`` cards of that name, of which the last is current."""
    known = {"name": name, "gcnArchName": name, "total_memory": 80 << 30} | CARDS[name][0]  # as CUDA builds have it
    monkeypatch.setattr(torch.version, "hip", "6.4" if name.startswith("AMD") else None)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: count)
    monkeypatch.setattr(torch.cuda, "current_device", lambda: count - 1)
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda device: SimpleNamespace(**known))
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device: (4 << 30, 80 << 30))


@pytest.mark.parametrize("name", CARDS)
def test_a_card_is_known_by_its_architecture(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    pretend(monkeypatch, name)
    card = dispatch.card_of(torch.device("cuda:0"))
    assert (card.name, card.architecture, card.chunk_bytes) == (name, CARDS[name][1], 1 << 30)


def test_a_gpu_has_an_index_from_the_start(monkeypatch: pytest.MonkeyPatch) -> None:
    pretend(monkeypatch, "NVIDIA H100 80GB HBM3")
    for asked, meant in (("auto", "cuda:1"), ("cuda", "cuda:1"), ("cuda:0", "cuda:0"), ("cpu", "cpu")):
        assert devices.resolve(asked) == torch.device(meant)
    assert devices.resolve(torch.device("cuda")) == torch.device("cuda:1")
    monkeypatch.setattr(engine_module, "Scheduler", lambda *_, **__: None)
    monkeypatch.setattr(engine_module, "DeviceSearch", lambda *_, **__: None)
    monkeypatch.setattr(Engine, "_triton", lambda *_: None)
    assert Engine(make_model(), device="cuda").device == torch.device("cuda:1")


def test_commands_choose_the_card_by_its_index(monkeypatch: pytest.MonkeyPatch) -> None:
    """torch.cuda.set_device takes no device without one."""
    pretend(monkeypatch, "NVIDIA H100 80GB HBM3")
    chosen: list[torch.device] = []
    monkeypatch.setattr(torch.cuda, "set_device", chosen.append)
    assert tuning.gpu("auto")[0] == torch.device("cuda:1")
    assert tuning.gpu("cuda:0")[0] == torch.device("cuda:0")

    def stop(device: torch.device) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(bench_gpu, "about", stop)
    monkeypatch.setattr(sys, "argv", ["bench.speed.gpu"])
    monkeypatch.setenv("TRITON_INTERPRET", "1")
    with pytest.raises(KeyboardInterrupt):
        bench_gpu.main()
    assert chosen == [torch.device("cuda:1"), torch.device("cuda:0"), torch.device("cuda:1")]


@pytest.mark.parametrize(("count", "has"), [(1, "this machine has cuda:0"), (4, "this machine has cuda:0 to cuda:3")])
def test_a_card_that_is_not_there_is_named(count: int, has: str, monkeypatch: pytest.MonkeyPatch) -> None:
    pretend(monkeypatch, "NVIDIA H200", count)
    with pytest.raises(BackendError, match=f"^device 'cuda:77' was requested, but {has}$"):
        Engine(make_model(), device="cuda:77")
    with pytest.raises(BackendError, match="cuda:77"):
        tuning.gpu("cuda:77")


def test_without_a_gpu_none_is_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert devices.resolve("auto") == torch.device("cpu")
    with pytest.raises(BackendError, match="'cuda:1' was requested, but torch sees no GPU"):
        devices.resolve("cuda:1")
    with pytest.raises(BackendError, match="'abacus' is not a torch device"):
        devices.resolve("abacus")
