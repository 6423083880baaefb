"""The energy net of the Triton kernels: its products by torch, and what stands between them, against the reference."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from typing import Any

import pytest
import torch
from conftest import BASE, make_model
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode

from dpa1_fast.kernels import reference as ref
from dpa1_fast.kernels.precision import PRECISIONS
from dpa1_fast.kernels.triton import matrix_product
from dpa1_fast.kernels.triton.device_model import DeviceModel
from dpa1_fast.kernels.triton.energy import energies
from dpa1_fast.kernels.triton.matrix_product import float32_products, product

pytestmark = pytest.mark.usefixtures("quiet")

# --- the net ------------------------------------------------------------------------------------------------------

# Inputs of the model below are 69 wide: 16 channels times 4, and 5 of the type.
NETS = {
    "no hidden layer": (),
    "one": (7,),
    "plain, the same, twice": (5, 5, 10),
    "its input again": (69, 13),
    "its input twice": (138, 138, 3),
    "whole tiles": (64, 128, 128),
}
CLOSE = {"float64": 1e-13, "float32": 2e-6, "tf32": 2e-6, "float16": 3e-3, "bfloat16": 2e-2}
"""Of the largest; the interpreter does tf32 products in float32."""


def net(neuron: tuple[int, ...], precision: str, **fitting: Any) -> DeviceModel:
    model = make_model(fitting=replace(BASE.fitting, neuron=neuron, resnet_dt=True, **fitting))
    return DeviceModel(model.weights(), precision, torch.device("cpu"), None)


def judged(m: DeviceModel, types: Tensor, inputs: Tensor, bias: Tensor) -> tuple[Tensor, Tensor]:
    """Energies and dE/d(inputs) by autograd in float64."""
    x = inputs.double().requires_grad_()
    act = ref.activation(m.config.fitting.activation_function)
    own = ref.energy_network(x, m.weights.fitting, act) * m.alive[types.long()]
    (d_x,) = torch.autograd.grad(own.sum(), x)
    return (own + bias[types.long()]).detach(), d_x


@pytest.mark.parametrize("precision", CLOSE)
@pytest.mark.parametrize("name", NETS)
def test_energies_and_gradients_are_those_of_the_reference(name: str, precision: str) -> None:
    m = net(NETS[name], precision, exclude_types=(1,), activation_function="silut:0.3")
    for n in (1, 16, 37):
        inputs = torch.randn(n, m.config.dim_fitting_in, dtype=torch.float64).to(m.net_input)
        types = (torch.arange(n) % 3).to(torch.int32)
        energy, d_x = judged(m, types, inputs, m.bias)
        new: Callable[..., Tensor] = lambda *shape: torch.full(shape, float("nan"), dtype=m.work)  # noqa: E731
        for backward in (True, False):
            found = torch.full((n,), float("nan"), dtype=torch.float64)
            d_found = energies(m, types, inputs, m.bias, found, new, backward=backward)
            assert torch.allclose(found, energy, rtol=0, atol=CLOSE[precision] * float(energy.abs().max()))
            assert torch.equal(found[types == 1], m.bias[types[types == 1].long()])  # those that are left out
            assert (d_found is not None) == backward
        d_found = energies(m, types, inputs, m.bias, found, new, backward=True)
        assert d_found is not None
        assert d_found.dtype == m.work
        assert torch.allclose(d_found.double(), d_x, rtol=0, atol=CLOSE[precision] * float(d_x.abs().max()))


def test_an_input_that_is_added_again_is_not_rounded() -> None:
    """Only products take it: where the first layer adds it, it stays in float32."""
    for neuron, expected in (((7,), torch.bfloat16), ((69,), torch.float32), ((), torch.float32)):
        assert net(neuron, "bfloat16").net_input == expected


# --- products -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("precision", PRECISIONS)
def test_products_round_operands_and_nothing_else(precision: str) -> None:
    work, operand = PRECISIONS[precision].work, PRECISIONS[precision].operand
    a, b = (torch.randn(size, dtype=work).to(operand) for size in ((9, 33), (33, 5)))
    found = product(a, b, work, tf32=False)
    exact = a.double() @ b.double()
    assert found.dtype == work
    assert float((found.double() - exact).abs().max()) <= 40 * torch.finfo(work).eps * float(exact.abs().max())


@pytest.fixture
def settings() -> Iterator[None]:
    """Whatever a test sets for torch's products is undone."""
    yield
    torch.set_float32_matmul_precision("highest")
    if matrix_product._new():
        torch.backends.fp32_precision = "none"
        torch.backends.cuda.matmul.fp32_precision = "none"


SETTINGS: dict[str, Callable[[], Any]] = {
    "as torch comes": lambda: None,
    **{x: lambda x=x: torch.set_float32_matmul_precision(x) for x in ("highest", "high", "medium")},
    "for all": lambda: setattr(torch.backends, "fp32_precision", "tf32"),
}


class Calls(TorchDispatchMode):
    """Which operations run, and under which setting."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: list[tuple[str, str]] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.seen.append((str(func), matrix_product._setting()))
        if func is torch.ops.aten.mm.dtype:  # tensors that hold nothing have no such product in torch 2.8
            return torch.mm(*args[:2]).to(args[2])
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize("tf32", [False, True])
@pytest.mark.parametrize("name", SETTINGS)
def test_on_a_gpu_the_precision_is_ours_and_the_setting_stays_the_users(name: str, tf32: bool, settings: None) -> None:
    """By tensors that stand for a GPU's and hold nothing."""
    SETTINGS[name]()
    before = matrix_product._setting()
    with FakeTensorMode():
        a, b = (torch.empty(size, device="cuda") for size in ((4, 3), (3, 2)))
        with Calls() as calls:
            out = product(a, b, torch.float32, tf32=tf32)
        assert out.dtype == torch.float32
    ((operation, setting),) = calls.seen
    assert operation == "aten.mm.default"
    assert (setting in ("tf32", "high", "medium")) == tf32
    assert matrix_product._setting() == before
    if name == "for all" and matrix_product._new():
        torch.backends.fp32_precision = "ieee"
        assert matrix_product._setting() == "ieee", "what was inherited is inherited again"


@pytest.mark.parametrize("operand", [torch.bfloat16, torch.float16])
def test_on_a_gpu_half_precision_is_summed_and_given_in_float32(operand: torch.dtype) -> None:
    with FakeTensorMode():
        a, b = (torch.empty(size, device="cuda", dtype=operand) for size in ((4, 3), (3, 2)))
        with Calls() as calls:
            assert product(a, b, torch.float32, tf32=False).dtype == torch.float32
    assert [operation for operation, _ in calls.seen] == ["aten.mm.dtype"]


def test_autocast_does_not_reach_them() -> None:
    a, b = torch.randn(8, 40), torch.randn(40, 8)
    plain = product(a, b, torch.float32, tf32=False)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert torch.mm(a, b).dtype == torch.bfloat16
        assert torch.equal(product(a, b, torch.float32, tf32=False), plain)


def test_threads_do_not_see_each_others_precision(settings: None) -> None:
    def look(tf32: bool) -> bool:
        with float32_products(tf32):
            return all((matrix_product._setting() in ("tf32", "high")) == tf32 for _ in range(20))

    with ThreadPoolExecutor(4) as threads:
        assert all(threads.map(look, [k % 2 == 0 for k in range(200)]))


def test_the_setting_comes_back_after_an_error(settings: None) -> None:
    before = matrix_product._setting()
    with pytest.raises(ZeroDivisionError), float32_products(True):
        _ = 1 / 0
    assert matrix_product._setting() == before
