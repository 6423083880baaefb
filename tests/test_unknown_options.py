"""What a backend does not know is an error that names it, and never silently something else."""

from __future__ import annotations

import sys
from dataclasses import replace

import pytest
import torch
from conftest import BASE, make_model, molecule

from dpa1_fast import Engine
from dpa1_fast.errors import BackendError, ConfigError
from dpa1_fast.kernels import reference
from dpa1_fast.train import compiled


@pytest.fixture
def sine(monkeypatch: pytest.MonkeyPatch) -> None:
    """A function that the formulas have, as if DeePMD-kit had a new one, and no fast path does."""
    monkeypatch.setitem(reference.ACTIVATIONS, "sine", torch.sin)


@pytest.mark.parametrize("where", ["embedding", "energy net"])
@pytest.mark.parametrize("backend", ["cpu", "triton"])
def test_an_activation_function_that_the_backend_lacks(backend: str, where: str, sine: None, quiet: None) -> None:
    options = (
        {"activation_function": "sine"}
        if where == "embedding"
        else {"fitting": replace(BASE.fitting, activation_function="sine")}
    )
    model = make_model(**options)
    assert Engine(model, device="cpu", backend="reference").evaluate([molecule(3)])[0].forces.any()
    with pytest.raises(BackendError, match=r"activation_function 'sine' is not known to this backend; .*reference"):
        Engine(model, device="cpu", backend=backend)


def test_training_takes_the_formulas_where_the_compiled_passes_lack_a_function(sine: None) -> None:
    assert not compiled.available(make_model(activation_function="sine"))


@pytest.mark.parametrize("backend", ["cpu", "triton", "reference"])
def test_a_precision_that_the_backend_lacks(backend: str) -> None:
    for name in ("float8", "tf32" if backend != "triton" else "int8"):
        with pytest.raises(BackendError, match=name):
            Engine(make_model(), device="cpu", backend=backend, precision=name)


def test_a_backend_that_does_not_exist() -> None:
    with pytest.raises(BackendError, match="'vulkan' is not available; available: .*cpu"):
        Engine(make_model(), backend="vulkan")


@pytest.mark.parametrize(
    "option",
    [{"activation_function": "mish"}, {"tebd_input_mode": "sum"}, {"precision": "float8"}],
    ids=lambda option: next(iter(option)),
)
def test_an_option_of_the_model_that_nobody_has(option: dict[str, str]) -> None:
    with pytest.raises(ConfigError, match=next(iter(option.values()))):
        make_model(**option)


def test_dispersion_says_what_is_wrong_with_it(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(BackendError, match="'pbe' is not DAMPING:FUNCTIONAL, such as d3bj:pbe"):
        Engine(make_model(), dispersion="pbe")
    monkeypatch.setitem(sys.modules, "dftd3", None)  # not installed
    with pytest.raises(BackendError, match="pip install 'dpa1-fast\\[dispersion\\]'"):
        Engine(make_model(), dispersion="d3bj:pbe")
